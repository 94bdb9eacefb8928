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
        words: What `found_in` looks for. Other words are not known to it.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(words)
        self._mixed = [(word, frozenset(_RUN.findall(word))) for word in self.words if not _RUN.fullmatch(word)]
        self._plain = (self.words - {word for word, _ in self._mixed}).union(*(runs for _, runs in self._mixed))
        self._held: dict[str, frozenset[str]] = {}

    def found_in(self, text: str) -> frozenset[str]:
        """Return those of the words that the text holds."""
        runs = set(text.encode("utf-8", "replace").translate(_BLANKED).decode("utf-8", "replace").split())
        if len(self._held) + len(runs) > _MOST_RUNS:
            self._held.clear()
        self._learn(runs.difference(self._held))
        plain = frozenset().union(*filter(None, map(self._held.__getitem__, runs)))
        mixed = [word for word, parts in self._mixed if parts <= plain and word in text]
        return self.words.intersection(plain).union(mixed)

    def _learn(self, runs: set[str]) -> None:
        """Find out what new runs hold: nothing, nearly always."""
        self._held.update(dict.fromkeys(runs, frozenset()))
        text = "\n".join(runs)
        for word in self._plain:
            if word in text:
                for run in runs:
                    if word in run:
                        self._held[run] |= {word}
