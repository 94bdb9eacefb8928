"""Devices that are "cuda" unless somebody says otherwise, in code that trains and never asks whether CUDA is there.

`parser.add_argument("--device", default="cuda")`, `def __init__(self, model, optimizer, device="cuda")`: whoever runs
it as it is, without a GPU, is stopped by the first `.to(device)`.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._devices.asked import trains

_SAID = regex(
    r"\bdevice\s*(?::[^=,\n]+)?=\s*(?:torch\.device\()?[\"']cuda(?::0)?[\"']|--device[\"'][^\n]*|default\s*=\s*[\"']cuda(?::0)?[\"']"
)
_ASKED = ("is_available", "device_count", "init_process_group", "set_device(", "nccl", "LOCAL_RANK")
"""A file with one of these asks, or is started by a launcher for GPUs."""

_DEFAULTS = ("cuda", "cuda:0")
_OPTIONS = ("--device", "-d", "--dev")


def cuda_by_default(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk the first default of each kind, with the device's name."""
    if not trains(module.text) or module.mentions(_ASKED) or not _SAID.search(module.about("cuda", "--device")):
        return
    for call in module.calls_of("add_argument"):
        default = argument(call, None, "default")
        if _is_cuda(default) and call.args and getattr(call.args[0], "value", None) in _OPTIONS:
            yield call, "device"
            return
    for function in module.functions:
        for arg, default in parameters(function):
            if arg.arg == "device" and default is not None and _is_cuda(default) and _moves(function):
                yield default, arg.arg
                return


def _is_cuda(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Call) and called(node) == "device" and len(node.args) == 1:
        node = node.args[0]
    return isinstance(node, ast.Constant) and node.value in _DEFAULTS


def _moves(function: Function) -> bool:
    """Whether a function moves a model to its device: not only a tensor that it makes."""
    for node in walk_scope(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args:
            place, owner = key(node.args[0]) or "", key(receiver(node)) or ""
            if place in ("device", "self.device") and re.search(r"model|net|policy|critic|actor|encoder", owner):
                return True
    return False
