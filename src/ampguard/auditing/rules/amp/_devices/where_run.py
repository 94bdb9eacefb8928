"""CUDA taken for granted where a network is only run: predictors, evaluations, and the methods of the network itself.

A file counts that loads weights or evaluates, says nothing of a CPU, and holds nothing that is made for GPUs alone.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, receiver
from ampguard.auditing.rules.amp._devices.asked import asks
from ampguard.auditing.rules.amp._devices.demands import FACTORIES, MEASURES, demands
from ampguard.auditing.rules.amp._devices.fixed import fixed_devices

_RUNS = (
    *("load_state_dict(", "from_pretrained(", "load_checkpoint(", "load_model(", "load_pretrained", "hub.load("),
    *("no_grad", "inference_mode", ".eval()"),
)
FOR_GPUS = (
    *("import triton", "autograd.Function", "cpp_extension", "torch.ops.", "flash_attn", "apex", "vllm", "pycuda"),
    *("all_reduce(", "all_gather", "parallel_state", "nccl", "init_process_group", "fsdp", "FSDP", "deepspeed"),
    *("megatron", "transformer_engine", "bitsandbytes", "tensorrt", "cupy"),
)
"""A file with one of these is written for GPUs."""

_RUNS_ONE = regex(r"\b(self\.)?(\w*model|net|\w*_net|network)(\.forward)?\(")
_MAKES = regex(
    r"(Float|Double|Long|Int|Byte|Bool|Half)?Tensor|from_numpy|Variable|eye|linspace|\w+_like|multinomial|bernoulli|normal"
)


def taken_where_run(module: Module) -> Iterator[ast.expr]:
    """Walk the calls that fail without CUDA, and the devices set to it, in a file that trains nothing."""
    if asks(module) or (module.mentions(FOR_GPUS) and not _is_a_script_that_loads(module)):
        return
    if module.mentions(_RUNS):
        yield from (call for call in demands(module) if called(call) not in MEASURES)
    else:
        yield from (call for call in demands(module) if _is_made_here(module, call))
    yield from fixed_devices(module)


def _is_a_script_that_loads(module: Module) -> bool:
    return "load_state_dict(" in module.text and module.mentions(("__main__", "def main("))


def _is_made_here(module: Module, call: ast.Call) -> bool:
    """Whether a method of a network, or code that runs one, puts a tensor that it makes on a GPU, wherever that is."""
    cls, function = module.tree.class_of(call), module.tree.function(call)
    if function is None or function.name == "__init__":
        return False
    if not (cls is not None and is_network(module, cls)) and not _RUNS_ONE.search(module.text_of(cls or function)):
        return False
    if called(call) in FACTORIES:
        return True
    made = receiver(call)
    while isinstance(made, ast.Call) and called(made) in ("float", "long", "half", "unsqueeze", "view", "type"):
        made = receiver(made)
    return isinstance(made, ast.Call) and (called(made) in FACTORIES or bool(_MAKES.fullmatch(called(made))))
