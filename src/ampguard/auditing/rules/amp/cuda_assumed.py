"""Training code that only runs where there is CUDA, and does not say so."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._cuda_asked import asks, cpu_is_meant, fallback, optional_starts, trains
from ampguard.auditing.rules.amp._cuda_refused import stops_before, stops_without_cuda, tests_outside
from ampguard.auditing.rules.amp._default_device import cuda_by_default
from ampguard.auditing.rules.amp._region_for_cuda import regions_for_cuda
from ampguard.auditing.rules.amp._steps import RUNNERS, enclosing

_CUDA = re.compile(r"cuda|gpu|device|is_available|backend|distributed|parallel|world_size|rank|ddp", re.IGNORECASE)
_FACTORIES = ("zeros", "ones", "empty", "randn", "rand", "randint", "full", "tensor", "arange", "as_tensor")
_MEASURES = (
    *("Event", "Stream", "current_stream", "mem_get_info", "current_device", "get_rng_state", "set_rng_state"),
    *("reset_peak_memory_stats", "reset_max_memory_allocated", "memory_summary"),
)
"""Functions of torch.cuda that fail without it, and that training for any device has its own ways for."""

_RUNTIME = (
    *_MEASURES,
    "synchronize",
    "set_device",
    "get_device_name",
    "get_device_properties",
    "get_device_capability",
)


class CudaAssumed(Rule):
    """Training code takes CUDA for granted: nothing asks whether it is there, or a fallback is passed by.

    ## What it does
    Finds the first `.cuda()`, `.to("cuda")`, `GradScaler("cuda")`, `torch.cuda.synchronize()` and the like of a file
    that trains, where nothing in the file asks for the device, takes it as an option, or falls back; and of a file that
    does choose the CPU where there is no CUDA, or moves things to a device that it is told, where such a call stands
    outside of every test for it; and a checkpoint that is loaded onto a GPU by its name (`map_location="cuda:0"`, also
    `f"cuda:{rank}"`, or by a lambda) in a file that says nothing of a CPU, and a script that loads weights to run them.
    Told once a function.
    So is a device that is "cuda" by default in a file that trains and does not ask.
    So is an autocast region for CUDA alone in the forward pass of a network that runs wherever its input is.

    ## Why is this bad
    On a machine without CUDA the script stops deep inside torch instead of with a sentence, after it has loaded what it
    needed; nobody can try it on a laptop or in CI.

    ## Example
    ```python
    import torch


    def main():
        model = torch.nn.Linear(8, 1).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 8).cuda()).mean().backward()
        optimizer.step()


    if __name__ == "__main__":
        main()
    ```

    ## Use instead
    ```python
    import torch


    def main():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = torch.nn.Linear(8, 1).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 8).to(device)).mean().backward()
        optimizer.step()


    if __name__ == "__main__":
        main()
    ```

    ## Fix safety
    Safe. Where a CPU is no use, check for CUDA at the start and say so.

    ## References
    - https://pytorch.org/docs/stable/notes/cuda.html#device-agnostic-code
    """

    code = "AMP030"
    name = "cuda-assumed"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "Without CUDA the run stops deep inside torch instead of with a sentence."
    risk = "None: the device is the same where CUDA is there."
    fix = "Choose the device by torch.cuda.is_available(), or check for CUDA first and say what is missing."
    words = ("cuda",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first place of each function, and of the file itself, that takes CUDA for granted."""
        yield from self._regions(module)
        text = module.text
        falls_back = fallback(text)
        chosen = None if falls_back else _moves_to_a_choice(module) or _moves_to_a_device(module)
        chosen = chosen or (None if falls_back else _moves_where_asked(module))
        runs = falls_back or chosen is not None or trains(text)
        if module.role in ("test", "benchmark") or module.mentions(RUNNERS):
            return
        for default, name in cuda_by_default(module):
            yield self.finding(
                module, default, f"`{name}` is CUDA unless told otherwise, and nothing asks whether it is there"
            )
        if not runs:
            yield from self._loaded_onto_a_gpu(module)
            return
        if chosen is None and not falls_back and asks(module):
            return
        told = bool(falls_back) or chosen is not None
        if told and stops_without_cuda(module):
            return
        jobs = optional_starts(module)
        open_to_all = {c for c in _demands(module) if not _asked(module, c) and module.tree.function(c) not in jobs}
        if told:
            open_to_all = {c for c in open_to_all if not stops_before(module, c)}
        if not told or not trains(text):
            open_to_all = {c for c in open_to_all if called(c) not in _MEASURES}
        places = sorted(open_to_all, key=lambda c: (c.lineno, c.col_offset))
        if chosen is not None and not isinstance(chosen, ast.Attribute):  # the rest may stand where there is a GPU
            places = [c for c in places if called(c) in ("cuda", "synchronize", *_MEASURES)]
        why = "nothing here asks whether it is there"
        if falls_back:
            why = f"the fallback of line {text.count(chr(10), 0, falls_back.start()) + 1} is passed by"
        elif chosen is not None:
            why = f"the device that line {chosen.lineno} is told, or asks for, is passed by"
        for here in _by_function(module, places):
            more = f" (and {len(here) - 1} more)" if len(here) > 1 else ""
            yield self._say(module, here[0], f"{module.segment(here[0], 40)} needs CUDA, and {why}{more}")

    def _say(self, module: Module, call: ast.Call, message: str) -> Finding:
        """Return a finding at the line of the call's own name: `.cuda()` may stand far below what it moves."""
        return replace(self.finding(module, call, message), line=call.func.end_lineno or call.lineno)

    def _regions(self, module: Module) -> Iterator[Finding]:
        """Yield the autocast regions of a network that are for CUDA alone, whatever device its input is on."""
        for region, more in regions_for_cuda(module):
            message = (
                f"{module.segment(region, 40)} is for CUDA alone, and the network runs wherever its input is{more}"
            )
            impact = "On a CPU the region does nothing but warn: the dtypes within are others than was meant."
            fix = "Name the device of the input: torch.autocast(x.device.type, ...)."
            yield self.finding(module, region, message, impact=impact, fix=fix)

    def _loaded_onto_a_gpu(self, module: Module) -> Iterator[Finding]:
        """Yield the first load that names a GPU, in a file that does not train and asks for no device."""
        if _MAY_BE_ELSEWHERE.search(module.text):
            return
        runs = [c for c in _demands(module) if not _asked(module, c)] if _loads_and_runs(module) else []
        if runs and not asks(module):
            first = min(runs, key=lambda c: (c.lineno, c.col_offset))
            message = f"{module.segment(first, 40)} needs CUDA, and nothing here asks whether it is there"
            yield self._say(module, first, message)
            return
        for call in torch_loads(module):
            where = argument(call, 1, "map_location")
            if _names_gpu(where) and not _asked(module, call):
                message = f"{module.segment(call, 60)} needs CUDA, and nothing here asks whether it is there"
                yield self.finding(module, call, message)
                return


_MAY_BE_ELSEWHERE = re.compile(
    r"is_available|device_count|--device|--gpu|--cuda|['\"]cpu|init_process_group|torch\.device\("
)
"""A file that loads, and asks for the device or falls back."""


def _by_function(module: Module, places: list[ast.Call]) -> list[list[ast.Call]]:
    """Return places by the function that they stand in, in source order."""
    found: dict[ast.AST, list[ast.Call]] = {}
    for place in places:
        found.setdefault(enclosing(module, place), []).append(place)
    return list(found.values())


def _loads_and_runs(module: Module) -> bool:
    """Whether a script or a class loads weights to run them: what it needs a GPU for, a CPU could do as well."""
    return "load_state_dict(" in module.text and ("__main__" in module.text or "def main(" in module.text)


def _names_gpu(node: ast.expr | None) -> bool:
    """Whether a device is written down as a GPU: "cuda", f"cuda:{rank}", "cuda:{}".format(rank), "cuda:%d" % rank."""
    if isinstance(node, ast.Lambda):
        return ".cuda(" in ast.unparse(node.body)
    while isinstance(node, ast.Call | ast.BinOp | ast.JoinedStr | ast.Attribute):
        if isinstance(node, ast.Call):
            node = node.args[0] if called(node) == "device" and node.args else node.func
        elif isinstance(node, ast.JoinedStr):
            node = node.values[0] if node.values else None
        else:
            node = node.left if isinstance(node, ast.BinOp) else node.value
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")


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
    """Return a `.cuda()` under a test of whether CUDA is there, in a file that trains: so it may be missing."""
    if "is_available" not in module.text or not trains(module.text):
        return None
    for call in module.calls.get("cuda", ()):
        for test, inside in tests_outside(module, call):
            if inside and ast.unparse(test) == "torch.cuda.is_available()":
                return call
    return None


_SEVERAL = 2
_GPU_JOB = re.compile(r"nccl|set_device\(|init_process_group|LOCAL_RANK|local_rank|no.?cpu", re.IGNORECASE)


def _is_open(module: Module, node: ast.expr) -> bool:
    """Whether an expression is a device by its name, and nothing in the file says that it is a GPU."""
    if (key(node) or "").rpartition(".")[2] not in ("device", "_device"):
        return False
    values = assigned(module, node)
    return not values or not all(_names_gpu(value) for value in values)


_OF_DEVICE = re.compile(r"(?<![\w.])(\w+)\.device\b")
_SETTINGS = re.compile(r"args|cfg|config|conf|opts?|flags|settings|hparams", re.IGNORECASE)


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


def _asked(module: Module, call: ast.Call) -> bool:
    """Whether a test around the call asks for the device, its function is named for CUDA, or a failure is caught."""
    if re.search(r"cuda|gpu", getattr(module.tree.function(call), "name", "")):
        return True
    tests = [ast.unparse(test) for test, _ in tests_outside(module, call)]
    return any(_CUDA.search(test) for test in tests) or any(True for _ in module.tree.handlers_around(call))


def _demands(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that fail without CUDA."""
    for call in module.calls.get("cuda", ()):
        if isinstance(call.func, ast.Attribute):
            yield call
    for call in module.calls_of("to", "device", "GradScaler", *_FACTORIES):
        device = argument(call, None if called(call) in _FACTORIES else 0, "device")
        if isinstance(module.tree.parents[call], ast.arguments | ast.Compare | ast.Attribute) and called(call) != "to":
            continue  # a parameter's default, where the caller may say another; a device that others are compared with
        if isinstance(device, ast.Constant) and isinstance(device.value, str) and device.value.startswith("cuda"):
            yield call
    for call in torch_loads(module):
        if _names_gpu(argument(call, 1, "map_location")):
            yield call
    for call in module.calls_of(*_RUNTIME):
        names = module.names.dotted(call.func)
        if names and all(name.startswith("torch.cuda.") for name in names):
            yield call
