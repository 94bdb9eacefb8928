"""Autocast regions that only their name tells: `with amp_ctx:`, where the context comes from somewhere else."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import region_of
from ampguard.auditing.reading.tree import key

WORDS = ("amp_c", "autocast", "precision_c", "amp_scope", "cast_c", "ctx_amp")
"""What a file holds that enters such a context."""

_NAMED = regex(
    r"(^|_)(amp|autocast|mixed_?precision|precision|auto_?cast)_?(ctx|context|cm|scope|manager|region)?(_fn|_manager)?$"
    r"|(^|_)(ctx|context)_(amp|autocast)$",
    re.IGNORECASE,
)


def named_region(module: Module, node: ast.AST) -> ast.expr | None:
    """Return the context that is called as an autocast region is, of the innermost such `with` around the node.

    One whose value is known is none: what is known is told by `precision.region_around`. Inside a function only.
    """
    below = node
    for above in module.tree.above(node):
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            return None
        if isinstance(above, ast.With | ast.AsyncWith) and below in above.body:
            for item in above.items:
                if _is_named(module, item.context_expr):
                    return item.context_expr
        below = above
    return None


def _is_named(module: Module, node: ast.expr) -> bool:
    called = node.func if isinstance(node, ast.Call) else node
    place = key(called)
    if place is None or not _NAMED.search(place.rpartition(".")[2]) or region_of(module, node) is not None:
        return False
    if isinstance(node, ast.Call):
        off = [k.value for k in node.keywords if k.arg == "enabled"]
        return not any(isinstance(value, ast.Constant) and value.value is False for value in off)
    return True
