"""What a condition says of bfloat16: whether it holds there, fails there, or does not ask."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules.amp._precision.asked_elsewhere import given_outside

_DEPTH = 4
_BF16 = regex(r"(use_?|is_?|enable_?|with_?|in_?)?(bf_?16|bfloat_?16)(_enabled|_training)?", re.IGNORECASE)
_FP16 = regex(r"(use_?|is_?|enable_?|with_?|in_?)?(fp_?16|float_?16)(_enabled|_training)?", re.IGNORECASE)
_BF16_THERE = regex(r"(bf_?16|bfloat_?16)_?(is_?)?(supported|available|ok)", re.IGNORECASE)
_SPEAKS = regex(r"bf_?16|fp_?16|float_?16|dtype|precision|half", re.IGNORECASE)
_FULL = regex(r"no|none|off|float_?32|fp_?32|32|full|false", re.IGNORECASE)


def holds_for_bf16(module: Module, node: ast.expr, depth: int = 0) -> bool | None:
    """Return whether a condition names bfloat16 and holds for it (True) or not (False); None where it does not say."""
    if isinstance(node, ast.BoolOp):
        said = [holds_for_bf16(module, value, depth) for value in node.values]
        if isinstance(node.op, ast.Or):
            return True if True in said else None if None in said else False
        unread = (part for part, answer in zip(node.values, said, strict=True) if answer is None)
        if False not in said and any(_SPEAKS.search(ast.unparse(part)) for part in unread):
            return None  # what cannot be read may keep it from bfloat16
        return False if False in said else True if True in said else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        said_not = holds_for_bf16(module, node.operand, depth)
        return None if said_not is None else not said_not
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _compared(module, node.left, node.ops[0], node.comparators[0])
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(module, node, depth)
    if isinstance(node, ast.Call):
        return True if _BF16_THERE.search(called(node)) else _outside(module, node, depth)
    return None


def _named(module: Module, node: ast.Name | ast.Attribute, depth: int) -> bool | None:
    values = assigned(module, node)
    if len(values) == 1 and depth < _DEPTH and isinstance(values[0], ast.Compare | ast.BoolOp | ast.UnaryOp):
        return holds_for_bf16(module, values[0], depth + 1)
    outside = None if values else _outside(module, node, depth)
    if outside is not None:
        return outside
    word = node.id if isinstance(node, ast.Name) else node.attr
    return True if _BF16.fullmatch(word) else False if _FP16.fullmatch(word) else None


def _outside(module: Module, node: ast.expr, depth: int) -> bool | None:
    """Return what all the expressions say that a flag may have its value from in another scope."""
    given = given_outside(module, node) if depth < _DEPTH else []
    said = {holds_for_bf16(where, value, depth + 1) for where, value in given}
    return said.pop() if len(said) == 1 else None


def _compared(module: Module, left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool | None:
    """Return what a comparison of a dtype, or a word for one, with others says of bfloat16."""
    others = list(right.elts) if isinstance(right, ast.Tuple | ast.List | ast.Set) else [right]
    named = frozenset().union(*(dtypes_of(module, other) for other in others))
    if not isinstance(left, ast.Name | ast.Attribute | ast.Subscript) or "unknown" in named:
        return None
    among = "bfloat16" in named
    if isinstance(op, ast.Eq | ast.In | ast.Is):
        return among or None if named != {"float16"} else False
    if isinstance(op, ast.NotEq | ast.NotIn | ast.IsNot):
        return False if among else _is_a_dtype(others) or None
    return None


def _is_a_dtype(others: list[ast.expr]) -> bool:
    """Whether what is excluded is float32 by its name: `x is not None` and `mode != "no"` may be of anything."""
    return all(isinstance(o, ast.Attribute) or (isinstance(o, ast.Constant) and _is_full(str(o.value))) for o in others)


def _is_full(word: str) -> bool:
    return bool(_FULL.fullmatch(word)) and "32" in word


def only_asks_for_any(node: ast.expr, chosen: frozenset[str]) -> bool:
    """Whether a condition asks a chosen dtype only whether there is one: `dtype`, `dtype is not None`."""
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.IsNot):
        right = node.comparators[0]
        node = node.left if isinstance(right, ast.Constant) and right.value is None else node
    word = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return bool(word) and word.strip("_") in chosen
