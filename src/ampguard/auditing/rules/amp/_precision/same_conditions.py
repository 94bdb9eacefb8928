"""Whether one thing is on whenever another is: their conditions, compared through the names that carry them.

`args.fp16` in `__init__`, the attribute or parameter that it is kept in, and `scaler is not None` of a scaler that was
made where it holds are one condition.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, truth
from ampguard.auditing.reading.tree import Function, argument, key
from ampguard.auditing.rules.amp._steps import callers, enclosing, tests_above

_DEPTH = 4


def on_together(module: Module, scaler: ast.Call, regions: list[Region]) -> bool:
    """Whether some region is open wherever the scaler is made and on, by the same conditions."""
    flag = argument(scaler, None, "enabled")
    if any(keyword.arg is None for keyword in scaler.keywords):
        return False
    conditions = [] if truth(module, flag) else [(flag, True)]
    conditions += list(tests_above(module, scaler))
    asked = [
        (spellings(module, part), arm) for c, arm in conditions if c is not None for part in (_parts(c) if arm else [c])
    ]
    return all(arm for _, arm in asked) and any(_holds_for(module, r, asked) for r in _nearest(module, scaler, regions))


def _nearest(module: Module, scaler: ast.Call, regions: list[Region]) -> list[Region]:
    """Return the regions of the scaler's own function, else of its class, else all."""
    here = [r for r in regions if r.call in module.tree.parents]
    own = module.tree.class_of(scaler)
    return (
        [r for r in here if enclosing(module, r.call) is enclosing(module, scaler)]
        or [r for r in here if own is not None and module.tree.class_of(r.call) is own]
        or here
    )


def _holds_for(module: Module, region: Region, asked: list[tuple[frozenset[str], bool]]) -> bool:
    conditions = [region.flag] if region.flag is not None else []
    conditions += [test for test, inside in tests_above(module, region.call) if inside]
    parts = [part for c in conditions for part in _parts(c)]
    if any(_asks_for_the_scaler(module, part) for part in parts):
        return True
    said = [spellings(module, part) for part in parts]
    return all(any(spelled & known for known in said) for spelled, _ in asked)


def _parts(condition: ast.expr) -> Iterator[ast.expr]:
    """Walk what must all hold for a condition to hold."""
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.And):
        for value in condition.values:
            yield from _parts(value)
    elif isinstance(condition, ast.Compare) and _is_true(condition):
        yield condition.left
    else:
        yield condition


def _is_true(condition: ast.Compare) -> bool:
    right = condition.comparators[0]
    said = isinstance(right, ast.Constant) and right.value is True
    return len(condition.ops) == 1 and isinstance(condition.ops[0], ast.Is | ast.Eq) and said


def _asks_for_the_scaler(module: Module, test: ast.expr) -> bool:
    """Whether a test asks whether there is a scaler: `scaler is not None`, or the scaler itself."""
    if isinstance(test, ast.Compare):
        asks = isinstance(test.ops[0], ast.IsNot) and isinstance(test.comparators[0], ast.Constant)
        return asks and is_scaler(module, test.left)
    return isinstance(test, ast.Name | ast.Attribute) and is_scaler(module, test)


def spellings(module: Module, node: ast.expr, depth: int = 0) -> frozenset[str]:
    """Return how a condition may be written: as it is, as what its name was assigned, as what a caller here gives."""
    found = {ast.unparse(node).removeprefix("self.")}
    if depth < _DEPTH and isinstance(node, ast.Name | ast.Attribute) and key(node) is not None:
        values = assigned(module, node) or _given_here(module, node)
        if len(values) == 1 and values[0] is not node:
            found |= spellings(module, values[0], depth + 1)
    return frozenset(found)


def _given_here(module: Module, node: ast.expr) -> list[ast.expr]:
    """Return what the one call in this file of the function around a parameter gives for it."""
    function = module.tree.function(node)
    if not isinstance(node, ast.Name) or function is None:
        return []
    calls = callers(module, function)
    return [value for value in (_argument_for(calls[0], function, node.id),) if value] if len(calls) == 1 else []


def _argument_for(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    names = [arg.arg for arg in function.args.posonlyargs + function.args.args]
    if names and names[0] in ("self", "cls"):
        names = names[1:]
    return argument(call, names.index(name) if name in names else None, name)
