"""Where code that is not a test has an error scenario: what its tests would have to exercise.

Each function walks (node, what stands there). A place is the code that decides or that can fail, so that a reader sees
what a missing test would be about.
"""

import ast
import re
from collections.abc import Iterable, Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import (
    AMP_WORDS,
    TRACKERS,
    critical_operation,
    is_scaler,
    scaler_constructions,
    tracker_call,
)
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import argument, is_none_literal, key

Places = Iterator[tuple[ast.AST, str]]

_WIDTHS = {"fp32", "fp16", "bf16", "float32", "float16", "bfloat16", "tf32", "fp8", "half", "32", "16"}
_WITH_MODE = {"32-true", "16-true", "bf16-true", "64-true", "16-mixed", "bf16-mixed", "fp16-mixed"}
PRECISION_NAMES = frozenset(_WIDTHS | _WITH_MODE | {"amp_fp16", "amp_bf16"})
"""Words by which configurations name a precision."""

MEASURED = regex(
    r"^(?!start|begin|end|last)(\w*_)?(time|seconds|elapsed|duration|memory|denominator)(_(s|ms|us|secs?|[mgk]i?b|bytes))?$"
)
"""Names of what a clock or an allocator says."""

_PRECISION = regex(r"(\w+_)?(precisions?|amp_dtype|compute_dtype)$", re.IGNORECASE)
_WRITES = regex(r"(log|add_|track|report|watch|save|alert|init|finish|set_|define|start_run|end_run)")
"""Beginnings of the names of what writes to a tracker."""


def gpu_checked(module: Module) -> Places:
    """Where code with mixed precision asks whether there is a GPU."""
    if module.mentions(AMP_WORDS):
        for call in module.calls_of("is_available"):
            if module.names.stands_for(call.func, "torch.cuda.is_available"):
                yield call, "torch.cuda.is_available()"


def scaler_may_be_none(module: Module) -> Places:
    """Where a scaler is None: on one arm of a conditional, by assignment, or as a parameter's default."""
    if not module.mentions(("scaler",)):
        return
    for node in module.tree.all(ast.Assign, ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        value = node.value
        arms = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        place = key(target)
        if place and any(is_none_literal(arm) for arm in arms) and is_scaler(module, target):
            yield node, f"{place} may be None"
    for function in module.functions:
        for arg, default in parameters(function):
            if arg.arg.endswith("scaler") and is_none_literal(default) and module.mentions(AMP_WORDS[:2]):
                yield arg, f"{function.name}({arg.arg}=None)"


def scale_read(module: Module) -> Places:
    """Where the scale is read, or a scaler with a scale of its own is made."""
    for call in module.calls_of("get_scale"):
        yield call, module.segment(call)
    for node, text in scalers_made(module):
        if isinstance(node, ast.Call) and argument(node, None, "init_scale") is not None:
            yield node, text


def scalers_made(module: Module) -> Places:
    """Where a gradient scaler is constructed."""
    if module.mentions(("GradScaler",)):
        for call in scaler_constructions(module):
            yield call, module.segment(call)


def tracker_run_read(module: Module) -> Places:
    """Where it is asked whether a tracker has a run."""
    if not (module.mentions(("wandb", "mlflow")) and module.mentions((".run", "active_run"))):
        return
    for node in module.tree.all(ast.Attribute):
        if node.attr in ("run", "active_run") and isinstance(node.value, ast.Name):
            dotted = next(iter(module.names.dotted(node)), "")
            if dotted in ("wandb.run", "mlflow.active_run"):
                yield node, dotted


def tracker_called(module: Module) -> list[tuple[ast.Call, str]]:
    """Return where a tracker is called."""
    return module.once("tracker calls", lambda: list(_tracker_calls(module)))


def _tracker_calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    if not (module.mentions(TRACKERS) or module.mentions(("riter", "ensorboard"))):
        return
    for call in module.tree.all(ast.Call):
        func = call.func
        if isinstance(func, ast.Attribute) and _WRITES.match(func.attr) and (done := tracker_call(module, call)):
            yield call, done


def guarded_division(module: Module) -> Places:
    """Where a measured denominator (a time, a memory) is kept away from zero by `max(x, ...)`."""
    for call in module.calls_of("max"):
        above = module.tree.parents.get(call)
        divides = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Div) and above.right is call
        if divides and any(MEASURED.match((key(arg) or "").split(".")[-1]) for arg in call.args):
            yield call, f"guarded: / {module.segment(call)}"


def scaled_or_checked(module: Module) -> Places:
    """Where non-finite values matter: a scaler skips on them, or the code asks for them."""
    yield from scalers_made(module)
    for call in module.calls_of("isfinite", "isnan", "isinf"):
        yield call, module.segment(call)


def checkpoint_loaded(module: Module) -> Places:
    """Where a checkpoint is read."""
    for call in module.calls_of("load", "load_file", "load_checkpoint"):
        if critical_operation(module, call) == "checkpoint load":
            yield call, module.segment(call)


def precision_names(module: Module) -> list[tuple[ast.Constant, str]]:
    """Return the names of precisions a file knows, and where: compared, listed, given as `precision=`."""
    if not module.mentions(("precision", "PRECISION", "amp_dtype", "compute_dtype")):
        return []
    return module.once("precision names", lambda: list(_precision_names(module)))


def _precision_names(module: Module) -> Iterator[tuple[ast.Constant, str]]:
    for node in module.tree.all(ast.Compare):
        sides = (node.left, *node.comparators)
        if any(map(_names_precision, sides)):
            yield from _words_in(module, sides)
    for node in module.tree.all(ast.Assign, ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if node.value is not None and _names_precision(target):
            yield from _words_in(module, [node.value])
    for keyword in module.tree.all(ast.keyword):
        if keyword.arg and _PRECISION.match(keyword.arg):
            yield from _words_in(module, [keyword.value])
    for node in module.calls_of("parametrize", "add_argument"):
        if node.args and _is_about_precision(node.args[0]):
            given = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("choices", "argvalues"))]
            yield from _words_in(module, given)


def _names_precision(node: ast.expr) -> bool:
    """Whether the last name of a place is one of a precision: `config.precision`, `args["precision"]`."""
    if isinstance(node, ast.Attribute):
        return bool(_PRECISION.match(node.attr))
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and bool(_PRECISION.match(str(node.slice.value)))
    return isinstance(node, ast.Name) and bool(_PRECISION.match(node.id))


def _is_about_precision(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and "precision" in str(node.value)


def _words_in(module: Module, nodes: Iterable[ast.expr]) -> Iterator[tuple[ast.Constant, str]]:
    for node in nodes:
        if isinstance(node, ast.Constant):
            if str(node.value).lower() in PRECISION_NAMES and not isinstance(node.value, bool):
                yield node, str(node.value).lower()
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield from _words_in(module, node.elts)
        elif isinstance(node, ast.Dict):
            yield from _words_in(module, [k for k in node.keys if k is not None])
        elif isinstance(node, ast.Name):
            named = [v for v in module.names.values(node.id, node) if isinstance(v, ast.Tuple | ast.List | ast.Set)]
            yield from _words_in(module, named)
