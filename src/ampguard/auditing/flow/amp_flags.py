"""What a test says about mixed precision: on, off, or nothing; and whether two tests are one flag.

Judged by words, because flags are names: `use_amp`, `self.fp16`, `scaler is None`, `dtype == torch.float16`.
"""

import ast
import re
from functools import cache

from ampguard.auditing.flow.conditions import All, Atom, Facts, Known, Not, Test, outcome
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex

_ABOUT_AMP = regex(
    r"amp|fp16|float16|bf16|half|mixed|precision|scaler|autocast|cuda|gpu|is_enabled|dtype|use_grad_scal", re.IGNORECASE
)
_PREFIX = regex(r"(\w+\d+:)+")
"""What `lowering` spells before the names of an inlined function."""

_OFF_VALUES = ("fp32", "float32", "no", "none", "full", "32")


@cache
def about_amp(text: str) -> bool:
    """Whether the text of a test speaks of mixed precision."""
    return bool(_ABOUT_AMP.search(text))


def amp_on(test: Test, value: bool, before: Facts) -> bool | None:
    """Whether a test's outcome says that mixed precision is on (True) or off (False); None where it says neither."""
    if isinstance(test, Not):
        return amp_on(test.test, not value, before)
    if isinstance(test, Atom):
        return _atom_on(test, value)
    if isinstance(test, Known):
        return None
    if value is isinstance(test, All) or len(test.tests) == 1:
        said = [on for part in test.tests if (on := amp_on(part, value, before)) is not None]
        return said[0] if said else None
    undecided = [part for part in test.tests if outcome(part, before) is None]
    about = [part for part in undecided if amp_on(part, value, before) is not None]
    return amp_on(about[0], value, before) if len(about) == len(undecided) == 1 else None


def _atom_on(atom: Atom, value: bool) -> bool | None:
    if not about_amp(atom.text):
        return None
    if atom.text.endswith(" is None"):
        return not value
    if " == " in atom.text:
        other = atom.text.rpartition(" == ")[2].strip("'\"").lower()
        return not value if any(other.endswith(off) for off in _OFF_VALUES) else value
    if any(op in atom.text for op in (" < ", " > ", " <= ", " >= ")):
        return None
    return value


def contradicts(text: str, value: bool, before: Facts) -> bool:
    """Whether a path already knows the other answer to the same flag of mixed precision in a caller or helper."""
    bare = _bare(text)
    known = ((t, v) for t, v in before if v is not value and t != text)
    return about_amp(text) and any(_bare(t) == bare for t, _ in known)


@cache
def _bare(text: str) -> str:
    return _PREFIX.sub("", text)


def decided_by_amp(event: Event) -> bool:
    """Whether a test of mixed precision stands above an event, in its function or around the calls that lead there."""
    for module, node in ((event.module, event.node), *event.stack):
        for above in module.tree.above(node):
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                break
            if isinstance(above, ast.If | ast.IfExp) and about_amp(ast.unparse(above.test)):
                return True
    return _returns_before(event)


def _returns_before(event: Event) -> bool:
    """Whether a branch about mixed precision before the event leaves the function: what follows is the other mode."""
    function = event.module.tree.function(event.node)
    leaves = ast.Return | ast.Raise | ast.Continue
    return any(
        isinstance(node, ast.If)
        and node.lineno < _line(event.node)
        and isinstance(node.body[-1], leaves)
        and about_amp(ast.unparse(node.test))
        for node in (function.body if function is not None else ())
    )


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)
