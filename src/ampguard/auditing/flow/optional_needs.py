"""What a call, a display or a format needs of what it is given: it fails where that is None."""

import ast
from collections.abc import Sequence
from string import Formatter

from ampguard.auditing.reading.tree import called, key, receiver

_OF_FIRST = frozenset(
    {"len", "enumerate", "sorted", "reversed", "list", "tuple", "set", "iter", "next", "sum", "int", "float", "abs"}
    | {"any", "all", "open", "Path"}
)
"""Plain functions whose first argument may not be None; of `max` and `min` only where it is the only one."""

_OF_ALL = frozenset({"zip", "range"})
_OF_PATHS = frozenset(
    {
        "exists",
        "isfile",
        "isdir",
        "dirname",
        "basename",
        "abspath",
        "expanduser",
        "splitext",
        "realpath",
        "normpath",
        "getsize",
    }
)
_OF_FILES = frozenset({"makedirs", "mkdir", "remove", "rmdir", "unlink", "stat"})
_OF_TENSORS = frozenset(
    {"torch.load", "torch.from_numpy", "torch.stack", "torch.cat", "np.load", "json.load", "np.stack"}
)


def needed_in_call(call: ast.Call) -> Sequence[ast.expr]:
    """Return what a call fails without, beside what is called: `len(x)`, `os.path.join(a, x)`, `"{:s}".format(x)`."""
    name, owner = called(call), receiver(call)
    if name in _OF_SCHEDULES:
        first, last = _OF_SCHEDULES[name]
        return [*call.args[1:last], *(k.value for k in call.keywords if k.arg in first)]
    if isinstance(call.func, ast.Name):
        if name in _OF_ALL:
            return call.args
        if name in ("map", "filter"):
            return call.args[1:]
        most = 1 if name in ("max", "min") else _MOST if name in _OF_FIRST else 0
        return call.args[:1] if len(call.args) <= most else ()
    if isinstance(owner, ast.Constant) and isinstance(owner.value, str):
        return call.args[:1] if name == "join" else _formatted(owner.value, call) if name == "format" else ()
    place = key(owner) or ""
    if place in ("os.path", "osp", "path"):
        return call.args if name == "join" else call.args[:1] if name in _OF_PATHS else ()
    if place == "os":
        return call.args[:1] if name in _OF_FILES else ()
    return call.args[:1] if f"{place}.{name}" in _OF_TENSORS else ()


_OF_SCHEDULES = {
    "CosineAnnealingLR": (("T_max",), 2),
    "StepLR": (("step_size",), 2),
    "MultiStepLR": (("milestones",), 2),
    **dict.fromkeys(
        ("get_linear_schedule_with_warmup", "get_cosine_schedule_with_warmup"),
        (("num_warmup_steps", "num_training_steps"), 3),
    ),
}
"""Schedules that reckon with what they are given: the words of it, and up to which place it stands."""

_MOST = 3
"""Arguments that such a function takes: `next(x, None)`, `open(x, "w", 1)`."""


def _formatted(text: str, call: ast.Call) -> Sequence[ast.expr]:
    """Return the arguments that a text formats as numbers or texts, which None is not: `{:s}`, `{:.3f}`."""
    try:
        fields = [
            (name, wanted) for _, name, wanted, turned in Formatter().parse(text) if name is not None and not turned
        ]
    except ValueError:
        return ()
    if any(name for name, _ in fields) or any(isinstance(a, ast.Starred) for a in call.args):
        return ()
    return [given for given, (_, wanted) in zip(call.args, fields, strict=False) if wanted]


def needed_by_display(node: ast.AST) -> Sequence[ast.expr]:
    """Return what a node unpacks, goes over, negates or formats: `*x`, `**x`, `for a in x`, `-x`, `f"{x:.2f}"`."""
    if isinstance(node, ast.Starred):
        return (node.value,)
    if isinstance(node, ast.keyword):
        return (node.value,) if node.arg is None else ()
    if isinstance(node, ast.Dict):
        return [value for name, value in zip(node.keys, node.values, strict=True) if name is None]
    if isinstance(node, ast.comprehension):
        return (node.iter,)
    if isinstance(node, ast.FormattedValue):
        return (node.value,) if node.format_spec is not None and node.conversion == -1 else ()
    if isinstance(node, ast.UnaryOp):
        return (node.operand,) if isinstance(node.op, ast.USub | ast.UAdd | ast.Invert) else ()
    return ()
