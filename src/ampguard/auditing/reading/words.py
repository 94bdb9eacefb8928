"""Which words a text holds, where hundreds are asked for: what rules ask of every file before they read it.

A text is made of runs of letters, digits and underscores. Each run once is a quarter of it, and a word that is a run
itself is looked for there; one with other characters in it ("torch.load") in the whole text, where its runs are there.
"""

import re
from collections.abc import Iterable
from functools import cache

_RUN = re.compile(r"\w+")

_BLANKED = bytes(c if c >= 128 or chr(c).isalnum() or chr(c) == "_" else 32 for c in range(256))
"""Each byte of UTF-8 for itself, and a blank for what ends a run."""


class Words:
    """The words of one text.

    Args:
        text: What is looked in.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        # What cannot be encoded (half of a surrogate pair) is no letter: it ends a run.
        blanked = text.encode("utf-8", "replace").translate(_BLANKED).decode("utf-8", "replace")
        self._runs = "\n".join(set(blanked.split()))
        self._known: dict[str, bool] = {}

    def hold_any(self, words: Iterable[str]) -> bool:
        """Whether the text holds one of the words, anywhere."""
        known = self._known
        for word in words:
            held = known.get(word)
            if held is None:
                held = known[word] = self._hold(word)
            if held:
                return True
        return False

    def _hold(self, word: str) -> bool:
        if _is_a_run(word):
            return word in self._runs
        return all(part in self._runs for part in _parts(word)) and word in self._text


@cache
def _is_a_run(word: str) -> bool:
    return _parts(word) == (word,)


@cache
def _parts(word: str) -> tuple[str, ...]:
    return tuple(_RUN.findall(word))
