"""Schedules that never move, as their move waits for the kind of the schedule by a name that is misspelt.

`if kind == "OneCyleLR": scheduler.step()`: nothing in the project is called so, but torch has a schedule of nearly
that name.
"""

import ast
import re
from collections.abc import Iterator
from difflib import get_close_matches

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk
from ampguard.auditing.rules.amp._schedules.known import moves
from ampguard.auditing.rules.amp._steps import tests_above

_KINDS = (
    *("LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "CyclicLR"),
    *("PolynomialLR", "CosineAnnealingLR", "ChainedScheduler", "SequentialLR", "ReduceLROnPlateau", "OneCycleLR"),
    "CosineAnnealingWarmRestarts",
)
_NEAR = 0.9
"""Likeness of names that differ in a letter or two. Chosen: "OneCyleLR" has 0.95, "StepLR" and "MultiStepLR" 0.7."""

_FEW = 3
"""How often one file may ask for a word that is misspelt. Chosen."""

_COMMENT = regex(r"#.*")
_WORD = regex(r"\w{6,}")


def schedules_under_misspelt_kinds(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the move, the name that its test asks for, the name that is meant)."""
    for move in moves(module) if module.role != "test" else ():
        for test, arm in tests_above(module, move):
            asked, meant = _misspelt(test) if arm else ("", "")
            if meant and _is_nowhere_else(module, asked):
                yield move, asked, meant


def _misspelt(test: ast.expr) -> tuple[str, str]:
    """Return the word that a test compares with, and the schedule of torch with nearly that name; else nothing."""
    compared = test if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.In) else None
    words = {n.value for n in walk(compared) if isinstance(n, ast.Constant)} if compared is not None else set()
    asked = next(iter(words)) if len(words) == 1 else None
    if not isinstance(asked, str) or not _WORD.fullmatch(asked) or asked in _KINDS:
        return "", ""
    lowered = {kind.lower(): kind for kind in _KINDS}
    if asked.lower() in lowered:
        return "", ""  # a way to write it of their own
    near = get_close_matches(asked.lower(), lowered, 1, _NEAR)
    return (asked, lowered[near[0]]) if near else ("", "")


def _is_nowhere_else(module: Module, word: str) -> bool:
    """Whether all that the project does with a word, but for comments, is to ask whether something is equal to it."""
    asked = re.compile(rf"==\s*[\"']{word}[\"']")
    others = (text for path, text in module.project.texts("sched") if path != module.path)
    codes = [_COMMENT.sub("", text) for text in (module.text, *others) if word in text]
    return all(len(asked.findall(code)) == code.count(word) <= _FEW for code in codes)
