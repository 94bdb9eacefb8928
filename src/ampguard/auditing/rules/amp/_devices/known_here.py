"""Calls that need CUDA where the device is known: in functions that are told one, in networks, in projects that choose.

`counter = torch.zeros(shape).cuda()` in a class with a `self.device`, in a method that reads `x.device`, in a network
that runs wherever its input is; and, where nothing nearer is known, in a project of which another file falls back to
the CPU. What is made for GPUs alone is left out of the last two.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, called, key
from ampguard.auditing.rules.amp._devices.asked import falls_back_somewhere
from ampguard.auditing.rules.amp._devices.demands import MEASURES, demands
from ampguard.auditing.rules.amp._devices.fixed import fixed_devices
from ampguard.auditing.rules.amp._devices.flagged import is_asked
from ampguard.auditing.rules.amp._devices.refused import stops_without_cuda
from ampguard.auditing.rules.amp._devices.where_run import FOR_GPUS
from ampguard.auditing.rules.amp._steps import enclosing

_DEVICE = regex(r"(\w+_)?device")
_READ = regex(r"(?<!torch)\.device\b")
_HELD = regex(r"\bself\.(\w+_)?device\b")
_TYPES = regex(r"torch\.cuda\.\w+Tensor")
_TYPE_TESTS = ("isinstance", "issubclass")


def taken_where_known(module: Module) -> Iterator[ast.expr]:
    """Walk what needs CUDA, under no test, in functions and classes that know a device, and in networks."""
    if not module.mentions(("cuda",)) or _is_for_gpus(module):
        return
    plain = not module.mentions(FOR_GPUS)
    yield from (c for c in _untested(module) if _knows(module, c) or (plain and _is_of_a_network(module, c)))


def taken_where_others_choose(module: Module) -> Iterator[ast.expr]:
    """Walk what needs CUDA, under no test, in a project of which another file falls back to the CPU."""
    if not module.mentions(("cuda",)) or _is_for_gpus(module) or module.mentions(FOR_GPUS):
        return
    if falls_back_somewhere(module.project):
        yield from _untested(module)
        yield from fixed_devices(module)


def _is_for_gpus(module: Module) -> bool:
    return bool(_GPU_FILES.search(module.path)) or module.mentions(_GPU_PACKAGES) or stops_without_cuda(module)


_GPU_FILES = regex(
    r"setup\.py$|bench|profil|/ops?/|kernel|cuda|gpu|dist|ddp|fsdp|fairscale|deepspeed|parallel|triton|trt"
)
_GPU_PACKAGES = (
    *("import triton", "cpp_extension", "torch.ops.", "vllm", "pycuda", "megatron", "transformer_engine", "tensorrt"),
    *("cupy", "oneflow", "colossalai"),
)


def _untested(module: Module) -> list[ast.expr]:
    return module.once("calls for CUDA under no test", lambda: list(_walk_untested(module)))


def _walk_untested(module: Module) -> Iterator[ast.expr]:
    for call in demands(module):
        if called(call) not in MEASURES and not is_asked(module, call):
            yield call
    for node in module.tree.all(ast.Attribute) if "Tensor" in module.about("torch.cuda.") else ():
        above = module.tree.parents[node]
        if not (node.attr.endswith("Tensor") and _TYPES.fullmatch(key(node) or "") and isinstance(above, ast.Call)):
            continue
        if called(above) not in _TYPE_TESTS and not is_asked(module, node):
            yield node


def _knows(module: Module, place: ast.expr) -> bool:
    function, cls = enclosing(module, place), module.tree.class_of(place)
    if isinstance(function, FUNCTIONS):
        if any(_DEVICE.fullmatch(arg.arg) for arg, _ in parameters(function)):
            return True
        if _READ.search(module.text_of(function)):
            return True
    return cls is not None and _HELD.search(module.text_of(cls)) is not None


def _is_of_a_network(module: Module, place: ast.expr) -> bool:
    cls = module.tree.class_of(place)
    return cls is not None and is_network(module, cls)
