"""Losses that a subclass of a Trainer computes itself, told the number of items and not dividing by it."""

import ast
import re

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, walk_scope


def ignoring(module: Module, function: Function) -> ast.Return | None:
    """Return where a `compute_loss` of a Trainer's subclass gives a loss of its own and reads no number of items."""
    own = module.tree.class_of(function)
    bases = [key(b) or "" for b in own.bases] if own is not None else []
    if not any(b.endswith("Trainer") for b in bases) or not _told(function):
        return None
    if re.search(r"super\(.*\)\.compute_loss|accum|kwargs\b|num_items_in_batch", _body(module, function)):
        return None
    if not any(_runs_with_keywords(n) for n in walk_scope(function)):
        return None
    returns = [n for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None]
    return returns[-1] if returns else None


def _runs_with_keywords(node: ast.AST) -> bool:
    """Whether a call is `model(**inputs)`, as only models that may take the number of items are run."""
    return isinstance(node, ast.Call) and called(node).endswith("model") and any(k.arg is None for k in node.keywords)


def _told(function: Function) -> bool:
    """Whether the function takes the number of items, by name or among other keywords."""
    names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    return "num_items_in_batch" in names or function.args.kwarg is not None


def _body(module: Module, function: Function) -> str:
    statements = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return "\n".join(line for s in statements for line in module.lines[s.lineno - 1 : s.end_lineno])
