"""The calls that fail where there is no CUDA: moves to it, tensors made on it, and most of `torch.cuda`."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, walk_scope

FACTORIES = ("zeros", "ones", "empty", "randn", "rand", "randint", "full", "tensor", "arange", "as_tensor")
MEASURES = (
    *("Event", "Stream", "current_stream", "mem_get_info", "current_device", "get_rng_state", "set_rng_state"),
    *("reset_peak_memory_stats", "reset_max_memory_allocated", "memory_summary"),
)
"""Functions of torch.cuda that fail without it, and that training for any device has its own ways for."""

RUNTIME = (
    *MEASURES,
    "synchronize",
    "set_device",
    "get_device_name",
    "get_device_properties",
    "get_device_capability",
)


def demands(module: Module) -> list[ast.Call]:
    """Return the calls that fail without CUDA."""
    return module.once("calls that need CUDA", lambda: list(_demands(module)))


def _demands(module: Module) -> Iterator[ast.Call]:
    for call in module.calls.get("cuda", ()):
        if isinstance(call.func, ast.Attribute):
            yield call
    for call in module.calls_of("to", "device", "GradScaler", *FACTORIES):
        device = argument(call, None if called(call) in FACTORIES else 0, "device")
        if isinstance(module.tree.parents[call], ast.arguments | ast.Compare | ast.Attribute) and called(call) != "to":
            continue  # a parameter's default, where the caller may say another; a device that others are compared with
        if isinstance(device, ast.Constant) and isinstance(device.value, str) and device.value.startswith("cuda"):
            yield call
    for call in torch_loads(module):
        if names_gpu(argument(call, 1, "map_location")):
            yield call
    yield from runtime_calls(module, *RUNTIME)
    for name, calls in module.calls.items():
        if _MOVER.fullmatch(name):
            yield from (call for call in calls if _moves(module, call))


_MOVER = regex(r"_*(\w+_)?(to|on|into)_(cuda|gpu)_?")
_ASKS = regex(r"is_available|['\"]cpu|device_count|^\s*(el)?if\b[^\n]*(cuda|gpu|device)", re.MULTILINE)
_DEPTH = 2


def _moves(module: Module, call: ast.Call, depth: int = _DEPTH) -> bool:
    """Whether a call runs a function of the project that moves what it is given to CUDA, and asks for nothing."""
    place = target(module, call, ("cuda",)) if depth else None
    if place is None or _ASKS.search(place[0].text_of(place[1])):
        return False
    inside = [n for n in walk_scope(place[1]) if isinstance(n, ast.Call)]
    if any(called(c) == "cuda" and isinstance(c.func, ast.Attribute) for c in inside):
        return True
    return any(_MOVER.fullmatch(called(c)) and _moves(place[0], c, depth - 1) for c in inside)


def runtime_calls(module: Module, *names: str) -> Iterator[ast.Call]:
    """Walk the calls of functions of torch.cuda."""
    for call in module.calls_of(*names):
        dotted = module.names.dotted(call.func)
        if dotted and all(name.startswith("torch.cuda.") for name in dotted):
            yield call


def names_gpu(node: ast.expr | None) -> bool:
    """Whether a device is written down as a GPU: "cuda", f"cuda:{rank}", "cuda:{}".format(rank), "cuda:%d" % rank."""
    if isinstance(node, ast.Lambda):
        return ".cuda(" in ast.unparse(node.body)
    if isinstance(node, ast.IfExp):
        return names_gpu(node.body) and names_gpu(node.orelse)
    while isinstance(node, ast.Call | ast.BinOp | ast.JoinedStr | ast.Attribute):
        if isinstance(node, ast.Call):
            node = node.args[0] if called(node) == "device" and node.args else node.func
        elif isinstance(node, ast.JoinedStr):
            node = node.values[0] if node.values else None
        else:
            node = node.left if isinstance(node, ast.BinOp) else node.value
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")
