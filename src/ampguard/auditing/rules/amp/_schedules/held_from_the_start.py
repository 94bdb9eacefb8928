"""Tests that let a schedule move in the first pass through its loop already.

A setting (`if args.fp16:`, `if cfg.schedule == "step":`) holds in every pass or in none; the remainder of a counter
that starts at zero is zero in the first, and a counter is below its bound there.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, key, walk
from ampguard.auditing.rules.amp._steps import assigned_below, bases

_CONFIGS = ("args", "cfg", "config", "conf", "opt", "opts", "hparams", "hps", "params", "flags", "c", "configs")
_TIMES = regex(r"epoch|iter|step|warm|start|first|resum|done|count|begin|init|best|skip", re.IGNORECASE)
"""What a test asks that changes while the loop runs, or is made to hold the first move back."""

_COUNTER = regex(r"(cur(rent)?_|global_|n_)?(epoch|iter|iteration|step|it)(_?(idx|num|count))?", re.IGNORECASE)


def holds_at_once(module: Module, test: ast.expr, branch: ast.AST) -> bool:
    """Whether a test that a move stands under holds in the first pass through its loops, where it ever does."""
    loops = list(module.tree.loops(branch))
    if not loops or not isinstance(branch, ast.If):
        return False
    return _is_setting(module, test, loops[-1]) or _is_first_remainder(module, test, loops[0]) or _is_still_below(test)


def _is_still_below(test: ast.expr) -> bool:
    """Whether a test asks whether a counter has not come to a bound yet: `epoch <= args.warm`."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], ast.Gt | ast.GtE):
        left, right = right, left
    elif not isinstance(test.ops[0], ast.Lt | ast.LtE):
        return False
    bound = key(right) is not None and not _COUNTER.fullmatch((key(right) or "").rpartition(".")[2])
    return bound and isinstance(left, ast.Name) and bool(_COUNTER.fullmatch(left.id))


def _is_setting(module: Module, test: ast.expr, loop: Loop) -> bool:
    """Whether a test asks for settings alone: what a configuration holds, or a name that a word is told from."""
    if isinstance(test, ast.BoolOp):
        return all(_is_setting(module, part, loop) for part in test.values)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _is_setting(module, test.operand, loop)
    asked = test.left if isinstance(test, ast.Compare) and _compares_words(test) else test
    place = key(asked)
    if place is None or _TIMES.search(place) or set(bases(place)) & assigned_below(module, loop):
        return False  # a name of time may change; what a setting is compared with, "multistep", does not
    parts = re.split(r"[.\[]", place)
    return asked is not test or any(part.lower().lstrip("_") in _CONFIGS for part in parts[:-1])


def _compares_words(test: ast.Compare) -> bool:
    """Whether a test compares with a word, or asks whether something is one of several: `opt.kind in ("a", "b")`."""
    if len(test.ops) != 1:
        return False
    right = test.comparators[0]
    if isinstance(test.ops[0], ast.In | ast.NotIn):
        return isinstance(right, ast.Tuple | ast.List | ast.Set) and all(map(_is_word, right.elts))
    return isinstance(test.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot) and _is_word(right)


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bool)


def _is_first_remainder(module: Module, test: ast.expr, loop: Loop) -> bool:
    """Whether a test asks whether a counter of the loop, still zero in the first pass, is a multiple of something."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return False
    left, right = test.left, test.comparators[0]
    remainder = isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and isinstance(left.left, ast.Name)
    zero = isinstance(right, ast.Constant) and right.value == 0
    return remainder and zero and _counts_from_zero(module, left.left, loop)  # type: ignore[attr-defined]


def _counts_from_zero(module: Module, name: ast.Name, loop: Loop) -> bool:
    if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call):
        over, target = loop.iter, loop.target
        counter = target.elts[0] if isinstance(target, ast.Tuple) and ast.unparse(over.func) == "enumerate" else target
        if key(counter) == name.id:
            starts = over.args[1:] if ast.unparse(over.func) in ("enumerate", "range") else [over]
            return not starts and not over.keywords
    return _set_to_zero_before(module, name, loop)


def _set_to_zero_before(module: Module, name: ast.Name, loop: Loop) -> bool:
    """Whether the block of a loop sets a name to zero before it, and the loop counts it up behind the test alone."""
    block = getattr(module.tree.parents[loop], "body", [])
    before = [s for s in block if isinstance(s, ast.Assign) and s.lineno < loop.lineno and key(s.targets[0]) == name.id]
    zero = bool(before) and isinstance(before[-1].value, ast.Constant) and before[-1].value.value == 0
    counted = [n for n in walk(loop) if isinstance(n, ast.AugAssign) and key(n.target) == name.id]
    return zero and bool(counted) and all(n.lineno > name.lineno for n in counted)
