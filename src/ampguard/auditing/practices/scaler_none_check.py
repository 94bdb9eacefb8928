"""A scaler that may be missing is looked at before it is used."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, key, receiver

_USES = ("get_scale", "scale", "step", "update", "unscale_", "state_dict", "load_state_dict", "is_enabled")


class ScalerNoneCheck(Practice):
    """An optional scaler is compared with None, in the same expression or in an `if` around, before it is used.

    `scaler.get_scale() if scaler is not None else None` is right: `get_scale()` itself never returns None.
    """

    name = "scaler-none-check"
    title = "None check before the scaler"
    words = ("scaler",)
    covers = ("NON001",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every test of a scaler that holds uses of it, once a test."""
        seen: set[ast.AST] = set()
        for call in module.calls_of(*_USES):
            owner = receiver(call)
            place = key(owner)
            if place is None or not is_scaler(module, owner):
                continue
            guard = _guard(module, call, place)
            if guard is not None and guard not in seen:
                seen.add(guard)
                message = f"{place} is compared with None before {place}.{call.func.attr} is called"  # type: ignore[attr-defined]
                yield self.practice(module, _credited(guard, call), message, end=_last(guard, call))


def _guard(module: Module, call: ast.Call, place: str) -> ast.AST | None:
    """Return the innermost test around a use whose positive arm holds it."""
    below: ast.AST = call
    for at in module.tree.above(call):
        if isinstance(at, ast.If | ast.IfExp) and below is not at.test:
            body = at.body if isinstance(at.body, list) else [at.body]
            in_body = any(below is item for item in body)
            if _says(at.test, place, present=in_body):
                return at
        if isinstance(at, ast.BoolOp) and isinstance(at.op, ast.And):
            earlier = at.values[: at.values.index(below)] if below in at.values else []
            if any(_says(value, place, present=True) for value in earlier):
                return at
        if isinstance(at, (*FUNCTIONS, ast.Lambda)):
            return None
        below = at
    return None


def _says(test: ast.expr, place: str, *, present: bool) -> bool:
    """Whether a test that holds (or fails, for `present=False`) says that the scaler is there."""
    if isinstance(test, ast.BoolOp):
        wanted = ast.And if present else ast.Or
        return isinstance(test.op, wanted) and any(_says(value, place, present=present) for value in test.values)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and key(test.left) == place:
        none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
        return none and isinstance(test.ops[0], (ast.IsNot, ast.NotEq) if present else (ast.Is, ast.Eq))
    return False


def _credited(guard: ast.AST, call: ast.Call) -> ast.AST:
    return guard if isinstance(guard, ast.If) or guard.lineno == call.lineno else call  # type: ignore[attr-defined]


def _last(guard: ast.AST, call: ast.Call) -> ast.AST:
    return call if isinstance(guard, ast.If) else guard
