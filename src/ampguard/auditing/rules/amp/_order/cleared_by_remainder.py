"""Clears that come where a count leaves the remainder 1: for k == 1 no count does, and nothing is ever cleared."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._steps import enclosing, tests_above


def cleared_by_remainder(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Walk (the clear, k), where no other clear of the function stands beside it and nothing asks whether k is 1."""
    clears = module.calls_of("zero_grad") if "%" in module.text else ()
    for clear in clears:
        tests = list(tests_above(module, clear))
        count = _count(module, tests[0][0]) if tests and tests[0][1] else None
        word = (key(count) or "").rpartition(".")[2]
        if count is None or not word or _asks_for_one(module, word):
            continue
        around = module.tree.class_of(clear) or enclosing(module, clear)
        others = [c for c in clears if c is not clear and enclosing(module, c) is enclosing(module, clear)]
        if any(key(receiver(c)) == key(receiver(clear)) or "optim" not in (key(receiver(c)) or "") for c in others):
            continue
        if any(module.tree.inside(c, around) for c in module.calls.get("backward", ())):
            yield clear, count


def _count(module: Module, test: ast.expr) -> ast.expr | None:
    """Return k of `i % k == 1`, where k is a setting."""
    if isinstance(test, ast.Name):
        values = assigned(module, test)
        test = values[0] if len(values) == 1 else test
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return None
    left, right = test.left, test.comparators[0]
    if not isinstance(left, ast.BinOp) or not isinstance(left.op, ast.Mod):
        return None
    one = isinstance(right, ast.Constant) and isinstance(right.value, int) and right.value == 1
    fixed = any(isinstance(v, ast.Constant) and v.value != 1 for v in assigned(module, left.right))
    return left.right if one and key(left.right) is not None and not fixed else None


def _asks_for_one(module: Module, word: str) -> bool:
    """Whether the file compares k itself with 1 or 2 anywhere, or keeps it above 1."""
    text = re.sub(rf"%\s*\(?[\w.]*\b{word}\b", "%", module.text)
    return re.search(rf"\b{word}\b\W{{0,4}}(>=?|==|<=?|!=)\s*[12]\b|max\(\s*2\s*,[^)\n]*{word}", text) is not None
