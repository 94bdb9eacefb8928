"""A scaler whose `enabled=` follows the dtype."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import argument, walk
from ampguard.auditing.rules.amp._steps import tests_above


class ScalerEnabledByDtype(Practice):
    """The scaler is on for float16 and off for every other dtype, by the same value that autocast is given."""

    name = "scaler-enabled-by-dtype"
    title = "Scaler tied to float16"
    words = ("GradScaler",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every scaler whose flag, or whose condition, compares a dtype with float16."""
        for call in scaler_constructions(module):
            flag = argument(call, None, "enabled")
            conditions = [flag] if flag is not None else []
            conditions += [test for test, inside in tests_above(module, call) if inside]
            if any(_asks_for_float16(module, condition, 0) for condition in conditions):
                yield self.practice(module, module.tree.statement(call), "the scaler is on for float16 only")


def _asks_for_float16(module: Module, node: ast.expr, depth: int) -> bool:
    for at in walk(node):
        compared = [at.left, *at.comparators] if isinstance(at, ast.Compare) else []
        if compared and isinstance(at.ops[0], ast.Eq | ast.Is) and _one_is_float16(module, compared):  # type: ignore[attr-defined]
            return True
        if isinstance(at, ast.Name) and depth < 2:
            values = module.names.values(at.id, at)
            if any(v is not node and _asks_for_float16(module, v, depth + 1) for v in values):
                return True
    return False


def _one_is_float16(module: Module, sides: list[ast.expr]) -> bool:
    return any(dtypes_of(module, side) == {"float16"} for side in sides)
