"""Where a file takes its device from others, or asks for it once: what it moves elsewhere passes that by."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key
from ampguard.auditing.rules.amp._devices.asked import cpu_is_meant, trains
from ampguard.auditing.rules.amp._devices.demands import names_gpu
from ampguard.auditing.rules.amp._devices.refused import tests_outside

_SEVERAL = 2
_GPU_JOB = regex(r"nccl|set_device\(|init_process_group|LOCAL_RANK|local_rank|no.?cpu", re.IGNORECASE)
_NETWORKS = ("nn.Module", "no_grad", "inference_mode", ".eval()")
_OF_DEVICE = regex(r"(?<![\w.])(\w+)\.device\b")
_A_SETTING = regex(
    r"^((self|args|cfg|config|conf|opts?|flags|settings|hparams)\.)*(\w+_)?device(_type)?(\.type)?$|\[['\"]device['\"]\]"
)
"""A device as it is set: `x.device.type` says where a tensor lies."""

_SETTINGS = regex(r"args|cfg|config|conf|opts?|flags|settings|hparams", re.IGNORECASE)


def chosen_device(module: Module) -> ast.expr | None:
    """Return where a file takes a device that may be another one than a GPU, or None."""
    found = _moves_to_a_choice(module) or _moves_to_a_device(module) or _moves_where_asked(module)
    return found or _told_from_a_cpu(module)


def _moves_to_a_choice(module: Module) -> ast.Attribute | None:
    """Return where the file takes the device of its settings, which may be another: `x.to(config.device)`."""
    if not any(
        _SETTINGS.fullmatch(n) or _imported(module, n) for n in set(_OF_DEVICE.findall(module.about(".device")))
    ):
        return None
    attributes: list[ast.Attribute] = module.tree.all(ast.Attribute)
    for node in attributes:
        if node.attr != "device" or not isinstance(node.value, ast.Name):
            continue
        if _SETTINGS.fullmatch(node.value.id) or _is_a_module(module, node.value):
            return node
    return None


def _moves_to_a_device(module: Module) -> ast.Call | None:
    """Return the first of several moves to a device that this file does not say: `x.to(device)`, in no job for GPUs."""
    if _GPU_JOB.search(
        module.about("nccl", "set_device", "init_process_group", "local_rank", "cpu")
    ) and not cpu_is_meant(module.text):
        return None
    moves = [c for c in module.calls_of("to") if len(c.args) == 1 and _is_open(module, c.args[0])]
    return min(moves, key=lambda c: c.lineno) if len(moves) >= _SEVERAL else None


def _moves_where_asked(module: Module) -> ast.Call | None:
    """Return a `.cuda()` under a test of whether CUDA is there, in a file that trains or runs: so it may be missing."""
    if "is_available" not in module.text or not (trains(module.text) or module.mentions(_NETWORKS)):
        return None
    for call in module.calls.get("cuda", ()):
        for test, inside in tests_outside(module, call):
            if inside and ast.unparse(test) == "torch.cuda.is_available()":
                return call
    return None


def _told_from_a_cpu(module: Module) -> ast.Compare | None:
    """Return a test of whether a device is the CPU: `if config["device"] != "cpu"`."""
    if not cpu_is_meant(module.text):
        return None
    tests: list[ast.Compare] = module.tree.all(ast.Compare)
    for test in tests:
        one, other = test.left, test.comparators[0]
        if isinstance(other, ast.Constant) and other.value == "cpu" and _A_SETTING.search(ast.unparse(one)):
            return test
    return None


def _is_open(module: Module, node: ast.expr) -> bool:
    """Whether an expression is a device by its name, and nothing in the file says that it is a GPU."""
    if (key(node) or "").rpartition(".")[2] not in ("device", "_device"):
        return False
    values = assigned(module, node)
    return not values or not all(names_gpu(value) for value in values)


def _imported(module: Module, name: str) -> bool:
    """Whether the text may import something under that name: asked before the tree is."""
    return re.search(rf"import\b[^\n]*\b{name}\b", module.text) is not None


def _is_a_module(module: Module, node: ast.Name) -> bool:
    """Whether a name is a module of the project, such as one that holds its settings."""
    found = module.names.lookup(node.id, node)
    dotted = found[1][-1].dotted if found is not None and found[1] and found[1][-1].kind == "import" else ""
    return bool(dotted) and dotted in _own_modules(module)


def _own_modules(module: Module) -> frozenset[str]:
    return frozenset(module.project.dotted(name) for name in module.project.files)
