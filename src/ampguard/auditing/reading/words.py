"""Which of some hundred words a text holds, for many texts: what rules ask of every file before they read it.

A text is made of runs of letters, digits and underscores, and few of them are new in the next file. So the words in
a run are looked for once, and a text's are the union over its runs. A word with other characters in it ("torch.load")
is looked for in the text itself, where the text has the runs of the word ("torch", "load") at all.
"""

import re
from collections.abc import Iterable

_RUN = re.compile(r"\w+")

_BLANKED = bytes(c if c >= 128 or chr(c).isalnum() or chr(c) == "_" else 32 for c in range(256))
"""Each byte of UTF-8 for itself, and a blank for what ends a run."""

_MOST_RUNS = 500_000
"""Runs whose words are kept: some 60 MB, and more than 20,000 files have."""


class Words:
    """The words that are asked for.

    Args:
        words: What `found_in` looks for first; others join them as soon as they are asked for (`ask`).
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words: set[str] = set()
        self._fresh = set(words)
        self._plain: set[str] = set()
        self._mixed: list[tuple[str, frozenset[str]]] = []
        self._held: dict[str, frozenset[str]] = {}

    def ask(self, word: str) -> None:
        """Look for a further word in the texts that come."""
        if word not in self.words:
            self._fresh.add(word)

    def found_in(self, text: str) -> frozenset[str]:
        """Return those of the words that the text holds."""
        if self._fresh:
            self._take_in()
        runs = set(text.encode("utf-8", "replace").translate(_BLANKED).decode("utf-8", "replace").split())
        if len(self._held) + len(runs) > _MOST_RUNS:
            self._held.clear()
        self._learn(runs.difference(self._held), self._plain)
        plain = frozenset().union(*filter(None, map(self._held.__getitem__, runs)))
        mixed = [word for word, parts in self._mixed if parts <= plain and word in text]
        return frozenset(mixed).union(plain & self.words)

    def _take_in(self) -> None:
        mixed = [(word, frozenset(_RUN.findall(word))) for word in self._fresh if not _RUN.fullmatch(word)]
        plain = self._fresh.difference(word for word, _ in mixed).union(*(parts for _, parts in mixed))
        self.words |= self._fresh
        self._fresh.clear()
        self._mixed += mixed
        self._note(self._held, plain - self._plain)
        self._plain |= plain

    def _learn(self, runs: set[str], words: Iterable[str]) -> None:
        """Find out what new runs hold: nothing, nearly always."""
        self._held.update(dict.fromkeys(runs, frozenset()))
        self._note(runs, words)

    def _note(self, runs: Iterable[str], words: Iterable[str]) -> None:
        text = "\n".join(runs)
        for word in words:
            if word in text:
                for run in [run for run in runs if word in run]:
                    self._held[run] |= {word}
