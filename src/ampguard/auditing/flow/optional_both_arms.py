"""Tests that say nothing of an object, because both of their sides may run without it.

`if use_amp: ...; self.scheduler.step()`, and in the `else` `if self.scheduler is not None: self.scheduler.step()`:
whoever wrote the question knew that the flag does not tell whether there is a scheduler. A test of a rank, a mode or a
stage may tell it all the same, and so may one that shares a word with what decided where the object was made.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, is_none_literal, key, walk

_TELLS_MORE = regex(
    r"train|mode|rank|main|master|debug|log|eval|test|verbose|infer|stage|phase|writ|report|resum|is None|is not None",
    re.IGNORECASE,
)
_WORDS = regex(r"[a-z]+", re.IGNORECASE)
_OF_NO_MEANING = frozenset(
    {"self", "args", "cfg", "config", "opt", "opts", "not", "and", "or", "is", "none", "true", "use", "enable", "with"}
)


def asked_in_the_other_arm(module: Module, branch: ast.AST, node: ast.AST, origin: ast.AST, place: str) -> bool:
    """Whether the side of a test that a use does not stand on asks about the place, and the test tells nothing of it.

    Args:
        module: The file.
        branch: The `if` above the use.
        node: The use.
        origin: What leaves the place None.
        place: What is used.
    """
    if not isinstance(branch, ast.If) or not place or _TELLS_MORE.search(text := ast.unparse(branch.test)):
        return False
    within = any(module.tree.inside(node, statement) for statement in branch.body)
    other = branch.orelse if within else branch.body
    if not any(_asks(n, place) for statement in other for n in walk(statement)):
        return False
    deciding = " ".join(ast.unparse(test) for made in _makers(module, origin, place) for test in _tests(module, made))
    return not _meant(text) & (_meant(deciding) | _meant(place))


def _meant(text: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(text)} - _OF_NO_MEANING


def _asks(node: ast.AST, place: str) -> bool:
    """Whether a node is a test of a place for None or for truth, by itself or with others that must hold too."""
    if not isinstance(node, ast.If | ast.IfExp):
        return False
    parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
    return any(key(part) == place or _compares(part, place) for part in parts)


def _compares(test: ast.expr, place: str) -> bool:
    plain = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot)
    return plain and key(test.left) == place and is_none_literal(test.comparators[0])  # type: ignore[attr-defined]


def _makers(module: Module, origin: ast.AST, place: str) -> list[ast.AST]:
    """Return what leaves a place None, and all else that its class gives it."""
    cls = module.tree.class_of(origin) if place.startswith("self.") else None
    return [origin, *(attributes(module, cls).get(place.removeprefix("self."), ()) if cls is not None else ())]


def _tests(module: Module, made: ast.AST) -> list[ast.expr]:
    """Return the tests that decide whether something is made."""
    found = [made.test] if isinstance(made, ast.IfExp) else []
    for above in module.tree.above(made):
        if isinstance(above, FUNCTIONS):
            break
        if isinstance(above, ast.If | ast.IfExp):
            found.append(above.test)
    return found
