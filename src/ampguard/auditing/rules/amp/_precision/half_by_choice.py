"""Casts to a dtype that is float16 just where something scales: both by one choice, or one the opposite of another's.

`torch.bfloat16 if fits else torch.float16` and `fp16=not fits`, `model.to(dtype)` and `enabled=dtype == torch.float16`.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import UNKNOWN, dtypes_of, truth
from ampguard.auditing.reading.tree import argument, called, key
from ampguard.auditing.rules.amp._precision.half_models import named_arguments
from ampguard.auditing.rules.amp._precision.same_conditions import spellings
from ampguard.auditing.rules.amp._precision.trained_parameters import asks_for_fp16, half_where
from ampguard.auditing.rules.amp._steps import arms, bound_to, enclosing, tests_above

Scaling = tuple[ast.Call, ast.expr | None]
"""What makes a scaler, and the setting by which it does."""


def scaling_where(module: Module) -> Iterator[Scaling]:
    """Walk what makes a scaler by a setting."""
    for call in scaler_constructions(module):
        flag = argument(call, None, "enabled")
        above = [test for test, inside in tests_above(module, call) if inside]
        if flag is None and len(above) == 1:
            flag = above[0]
        if flag is not None and truth(module, flag) is None:
            yield call, flag
    for call in module.calls.get("Accelerator", ()):
        word = argument(call, None, "mixed_precision")
        if not isinstance(word, ast.Constant):
            yield call, word
    for name, calls in module.calls.items():
        for call in calls if name.endswith("Arguments") else ():
            flag = argument(call, None, "fp16")
            if flag is not None and not isinstance(flag, ast.Constant):
                yield call, flag


def chosen_half(module: Module, call: ast.Call, scalers: list[Scaling]) -> tuple[str, ast.Call] | None:
    """Return the test under which a cast gives float16, and what scales under the same; None where nothing does."""
    above = {ast.unparse(test) for test, _ in tests_above(module, call)}
    names = ("torch_dtype", "dtype")
    given = [value for name, value in named_arguments(module, call) if name in names]
    given += call.args if called(call) == "to" else []
    for scaler, setting in scalers if given else ():
        if above - {ast.unparse(test) for test, _ in tests_above(module, scaler)} or arms(module, call, scaler):
            continue
        if enclosing(module, scaler) is not enclosing(module, call):
            continue
        for node in given:
            test = _same_choice(module, node, scaler, setting)
            if test is not None:
                return ast.unparse(test), scaler
    return None


def _same_choice(module: Module, node: ast.expr, scaler: ast.Call, setting: ast.expr | None) -> ast.expr | None:
    """Return the test that makes an expression float16, where the scaler is on by the same."""
    ours = "" if setting is None else ast.unparse(setting)
    its = f"{bound_to(module, scaler)}.mixed_precision" if called(scaler) == "Accelerator" else ours
    for test in half_where(module, node):
        asked = asks_for_fp16(test)
        if (asked is not None and asked in (ours, its)) or (setting is not None and _one(module, test, setting)):
            return test
    return setting if setting is not None and _asks_for_it(module, setting, node) else None


def _one(module: Module, one: ast.expr, other: ast.expr) -> bool:
    return bool(_said(module, one) & _said(module, other))


def _said(module: Module, test: ast.expr) -> frozenset[str]:
    """Return how a test may be written; a name of an opposite, `use_fp16 = not use_bf16`, is that opposite."""
    said = {ast.unparse(test)} if _is_not(test) else set(spellings(module, test))
    for value in [test] if _is_not(test) else assigned(module, test):
        if isinstance(value, ast.UnaryOp) and _is_not(value):
            said |= {f"not {spelled}" for spelled in spellings(module, value.operand)}
    return frozenset(said)


def _is_not(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _asks_for_it(module: Module, setting: ast.expr, node: ast.expr) -> bool:
    """Whether a setting asks whether a dtype is float16, of the very dtype that a cast is given."""
    values = assigned(module, setting)
    test = values[0] if len(values) == 1 else setting
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq | ast.Is) or key(node) is None:
        return False
    same = key(test.left) == key(node) and dtypes_of(module, test.comparators[0]) == {"float16"}
    return same and bool(dtypes_of(module, node) & {"float16", UNKNOWN})
