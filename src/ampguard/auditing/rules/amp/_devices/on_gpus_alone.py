"""What runs on GPUs alone, in files that choose the device and may choose the CPU: apex, DDP with the number of a GPU.

`apex.amp.initialize()` stops without CUDA; `DistributedDataParallel(model, device_ids=[rank])` refuses a model that
was moved to a CPU. So does a device that is chosen for the file as a whole and then set to a GPU by name.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.constants_elsewhere import given_elsewhere
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key
from ampguard.auditing.rules.amp._devices.demands import names_gpu
from ampguard.auditing.rules.amp._devices.refused import stops_before, tests_outside
from ampguard.auditing.rules.amp._steps import callers, enclosing

_WRAPS = ("DistributedDataParallel", "DDP")
_APEX = ("initialize", "scale_loss")
_CHOSEN = regex(
    r"is_available\(\) else (torch\.device\()?['\"]cpu|['\"]cpu['\"]\)? if .*else|else torch\.device\(['\"]cpu"
)
_FOR_GPUS = regex(r"^[^#\n]*(nccl|set_device\()", re.MULTILINE)
_OPTIONAL = regex(
    r"cuda|gpu|cpu|device|apex|amp|half|fp16|dtype|precision|opt_level|dist|rank|world|parallel|ddp", re.IGNORECASE
)


def calls_of_apex(module: Module) -> Iterator[ast.Call]:
    """Walk the calls of apex.amp that stand under no test, in a file that is known to choose its device."""
    if not module.mentions(("apex",)):
        return
    for call in module.calls_of(*_APEX):
        names = module.names.dotted(call.func)
        if any(name.startswith("apex.") for name in names) and not _is_optional(module, call):
            yield call


def wrapped_for_gpus(module: Module) -> Iterator[ast.Call]:
    """Walk the wrappings for distributed training that name a GPU, of a model that goes to a device that is chosen."""
    if not module.mentions(_WRAPS) or _FOR_GPUS.search(module.text):
        return
    for call in module.calls_of(*_WRAPS):
        devices, model = argument(call, 1, "device_ids"), key(call.args[0]) if call.args else None
        if isinstance(devices, ast.List) and devices.elts and model and not _is_optional(module, call):
            moves = [c for c in module.calls_of("to") if c.args and key(getattr(c.func, "value", None)) == model]
            if any(_is_chosen(module, c.args[0]) for c in moves if enclosing(module, c) is enclosing(module, call)):
                yield call


def set_again(module: Module) -> Iterator[ast.expr]:
    """Walk the GPUs that a device is set to in a function, under no test, where the file has chosen one before."""
    if "is_available" not in module.text or "cuda" not in module.text or _FOR_GPUS.search(module.text):
        return
    for node in module.tree.all(ast.Assign):
        function, place = module.tree.function(node), key(node.targets[0]) or ""
        if function is None or place.lower() != "device" or not names_gpu(node.value):
            continue
        above = [b.value for b in module.names.bindings_in(module.root).get(place, []) if b.kind == "assign"]
        same = [v for v in assigned(module, node.targets[0]) if v is not node.value and v.lineno < node.lineno]
        if any(_may_be_cpu(v) for v in (*above, *same)) and not _is_optional(module, node):
            yield node.value


def replicas_counted(module: Module) -> Iterator[ast.expr]:
    """Walk the numbers of replicas that are the number of GPUs as it is: none on a machine without one."""
    if not module.mentions(("device_count",)) or "num_replicas" not in module.text:
        return
    for call in module.calls_of("device_count"):
        above = module.tree.parents[call]
        named = isinstance(above, ast.Assign) and (key(above.targets[0]) or "").endswith("num_replicas")
        handed = isinstance(above, ast.keyword) and above.arg == "num_replicas"
        if (named or handed) and not _is_optional(module, call) and not _starts_processes(module):
            yield call


def _starts_processes(module: Module) -> bool:
    return bool(_FOR_GPUS.search(module.text)) or module.mentions(("mp.spawn", "init_process_group"))


def _is_chosen(module: Module, device: ast.expr) -> bool:
    """Whether a device is chosen, here or in another file, and may be the CPU."""
    values = assigned(module, device)
    elsewhere = [] if values else given_elsewhere(module, device, ("is_available",))
    return any(_may_be_cpu(v) for v in (*values, *(v for _, v in elsewhere)))


def _may_be_cpu(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and called(value) == "device" and value.args:
        return _may_be_cpu(value.args[0])
    if isinstance(value, ast.Constant):
        return value.value == "cpu"
    return isinstance(value, ast.IfExp) and _CHOSEN.search(ast.unparse(value)) is not None


def _is_optional(module: Module, node: ast.AST) -> bool:
    """Whether a test around a place, or around every call of its function, decides about it, or a failure is caught."""
    if any(_OPTIONAL.search(ast.unparse(test)) for test, _ in tests_outside(module, node)):
        return True
    caught = any(True for _ in module.tree.handlers_around(node))
    if caught or (isinstance(node, ast.Call) and stops_before(module, node)):
        return True
    function = module.tree.function(node)
    calls = callers(module, function) if function is not None else []
    return bool(calls) and all(
        any(_OPTIONAL.search(ast.unparse(test)) for test, _ in tests_outside(module, call)) for call in calls
    )
