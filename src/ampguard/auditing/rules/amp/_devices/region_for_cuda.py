"""Autocast regions for CUDA alone, in the forward passes of networks that a user may run on another device."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, key
from ampguard.auditing.rules.amp._devices.asked import asks_in
from ampguard.auditing.rules.amp._steps import tests_above

_WIDE = ("float32", "float", "float64", "double")


def regions_for_cuda(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the first region of each network's methods that lowers the precision on CUDA, with words about the others.

    Only where the file knows the device of a tensor (`x.device`) and nothing in the class asks for CUDA.
    """
    if not module.mentions(("autocast(",)) or ".device" not in module.text or module.role in ("test", "benchmark"):
        return
    found: dict[ast.ClassDef, list[ast.Call]] = {}
    for call in module.calls_of("autocast"):
        owner = module.tree.class_of(call)
        function = module.tree.function(call)
        network = owner is not None and any("Module" in (key(base) or "") for base in owner.bases)
        if not network or function is None or function.name == "__init__" or not _lowers_on_cuda(call):
            continue
        if owner is not None and not any("cuda" in ast.unparse(test) for test, _ in tests_above(module, call)):
            found.setdefault(owner, []).append(call)
    for owner, calls in found.items():
        if asks_in(module.text_of(owner)):
            continue
        rest = len(calls) - 1
        yield calls[0], f" ({rest} more such place{'s' * (rest > 1)} in this class)" if rest else ""


def _lowers_on_cuda(call: ast.Call) -> bool:
    device, dtype = argument(call, 0, "device_type"), argument(call, 1, "dtype")
    enabled = argument(call, 2, "enabled")
    if not (isinstance(device, ast.Constant) and device.value == "cuda"):
        return False
    off = isinstance(enabled, ast.Constant) and enabled.value is False
    return not off and not (dtype is not None and (key(dtype) or "").rpartition(".")[2] in _WIDE)
