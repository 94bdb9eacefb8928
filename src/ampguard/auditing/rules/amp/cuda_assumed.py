"""Training code that only runs where there is CUDA, and does not say so."""

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._devices.asked import asks, asks_which, fallback, optional_starts, trains
from ampguard.auditing.rules.amp._devices.chosen import chosen_device
from ampguard.auditing.rules.amp._devices.counted_gpus import gpus_counted
from ampguard.auditing.rules.amp._devices.default import cuda_by_default
from ampguard.auditing.rules.amp._devices.demands import MEASURES, demands, names_gpu
from ampguard.auditing.rules.amp._devices.fixed import cuda_where_none_is_told, fixed_devices
from ampguard.auditing.rules.amp._devices.flagged import moved_past_a_flag
from ampguard.auditing.rules.amp._devices.half_first import halved_first
from ampguard.auditing.rules.amp._devices.in_lightning import moved_by_lightning
from ampguard.auditing.rules.amp._devices.known_here import taken_where_known, taken_where_others_choose
from ampguard.auditing.rules.amp._devices.on_gpus_alone import (
    calls_of_apex,
    replicas_counted,
    set_again,
    wrapped_for_gpus,
)
from ampguard.auditing.rules.amp._devices.one_armed import missing_on_cpu
from ampguard.auditing.rules.amp._devices.refused import stops_before, stops_without_cuda, tests_outside
from ampguard.auditing.rules.amp._devices.region_for_cuda import regions_for_cuda
from ampguard.auditing.rules.amp._devices.region_handed_out import regions_handed_out
from ampguard.auditing.rules.amp._devices.set_to_a_choice import set_to_a_choice
from ampguard.auditing.rules.amp._devices.where_run import taken_where_run
from ampguard.auditing.rules.amp._devices.wrapped_at_times import module_of_the_unwrapped
from ampguard.auditing.rules.amp._steps import RUNNERS, enclosing

_CUDA = regex(
    r"cuda|gpu|(?<!to_)cpu|device|is_available|backend|distributed|parallel|world_size|rank|ddp", re.IGNORECASE
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
    Asking which GPU, how many there are, or what it is called, asks nothing; nor does a start of several processes that
    the file runs without as well.
    So is `torch.cuda.set_device` of a device that the lines before it may have made the CPU.
    So is a device that is "cuda" by default in a file that trains and does not ask.
    So is an attribute, or a name, that has a value only where CUDA is there and that is read all the same.
    So is an autocast region for CUDA alone in the forward pass of a network that runs wherever its input is.
    So is what a class moves, or does with cupy, under no test where others of it stand under its flag
    (`if self.use_gpu`); apex, and a wrapping with `device_ids`, where the device may be the CPU; a device that is
    chosen and then set to a GPU all the same; a model that is turned to half before its device is chosen, or whatever
    was chosen; a LightningModule that moves itself; the number of GPUs as the number of replicas, as a modulus where
    the file does without CUDA elsewhere, or as a size.
    So is `.module` of a model that is wrapped only under a test for GPUs, a wait for CUDA around a timed model where an
    arm of the file chooses the CPU, what needs CUDA in a function or class that knows a device, in a network, or, once
    a file, in a project of which another file falls back to the CPU; a type such as `torch.cuda.FloatTensor` beside a
    tensor whose device is known, and autocast for CUDA as the answer of a function that is not told the device.

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
        if module.role in ("test", "benchmark"):
            return
        yield from self._each(module, list(moved_by_lightning(module)), "the trainer moves the module wherever it runs")
        if module.mentions(RUNNERS):
            yield from self._each(module, set(taken_where_known(module)), _WHY_KNOWN)
            return
        for default, name in (*cuda_by_default(module), *cuda_where_none_is_told(module)):
            yield self.finding(
                module, default, f"`{name}` is CUDA unless told otherwise, and nothing asks whether it is there"
            )
        yield from self._missing(module)
        places, why = _taken(module)
        yield from self._each(module, places, why)
        if not places and why == _WHY and not trains(module.text):
            yield from self._loaded_onto_a_gpu(module)
        yield from self._beside(module, {enclosing(module, place) for place in places})

    def _beside(self, module: Module, told: set[ast.AST]) -> Iterator[Finding]:
        """Yield what is known by what stands beside it, in functions of which nothing has been told."""
        for places, why in (
            (moved_past_a_flag(module), "others beside it stand under a test for it"),
            (wrapped_for_gpus(module), "its model goes to a device that may be the CPU"),
            (set_again(module), "the device that was chosen above may be the CPU"),
            (halved_first(module), "the device may be a CPU, where the model stays half"),
            (replicas_counted(module), "there is no replica on a machine without it"),
            (gpus_counted(module), "the number is 0 on a machine without it"),
            (module_of_the_unwrapped(module), "the model is wrapped only where it is there"),
            (taken_where_known(module), _WHY_KNOWN),
        ):
            left = {p for p in places if enclosing(module, p) not in told}
            told |= {enclosing(module, p) for p in left}
            yield from self._each(module, left, why)
        for place in list(taken_where_others_choose(module))[:1] if not told else ():
            yield from self._each(module, [place], "another file of the project falls back to the CPU")

    def _each(self, module: Module, places: Collection[ast.expr], why: str) -> Iterator[Finding]:
        """Yield the first of some places in each function."""
        for here in _by_function(module, sorted(places, key=lambda c: (c.lineno, c.col_offset))):
            more = f" (and {len(here) - 1} more)" if len(here) > 1 else ""
            what = here[0] if isinstance(here[0], ast.Call) else module.tree.statement(here[0])
            yield self._say(module, here[0], f"{module.segment(what, 40)} needs CUDA, and {why}{more}")

    def _say(self, module: Module, place: ast.expr, message: str) -> Finding:
        """Return a finding at the line of a call's own name: `.cuda()` may stand far below what it moves."""
        line = place.func.end_lineno if isinstance(place, ast.Call) else None
        return replace(self.finding(module, place, message), line=line or place.lineno)

    def _regions(self, module: Module) -> Iterator[Finding]:
        """Yield the autocast regions of a network that are for CUDA alone, whatever device its input is on."""
        for region, more in regions_for_cuda(module):
            message = (
                f"{module.segment(region, 40)} is for CUDA alone, and the network runs wherever its input is{more}"
            )
            yield self.finding(module, region, message, impact=_NO_REGION, fix=_NAMED)

        for answer in regions_handed_out(module):
            message = f"{module.segment(answer, 40)} is for CUDA alone, and nobody says here what device it is for"
            yield self.finding(module, answer, message, impact=_NO_REGION, fix=_NAMED)

    def _missing(self, module: Module) -> Iterator[Finding]:
        """Yield the readings of what has a value only where CUDA is there."""
        for found in missing_on_cpu(module):
            asked = module.segment(found.branch.test, 40)
            message = f"{found.place} has no value without CUDA: line {found.line} leaves it out ({asked})"
            impact = "AttributeError or UnboundLocalError in the first step of a run without CUDA."
            fix = f"Give {found.place} a value on every side of line {found.branch.lineno}."
            yield self.finding(module, found.use, message, impact=impact, fix=fix)

    def _loaded_onto_a_gpu(self, module: Module) -> Iterator[Finding]:
        """Yield the first load that names a GPU, in a file that does not train and asks for no device."""
        for call in torch_loads(module):
            where = argument(call, 1, "map_location")
            if names_gpu(where) and not _asked(module, call):
                if _MAY_BE_ELSEWHERE.search(module.text):
                    return
                message = f"{module.segment(call, 60)} needs CUDA, and nothing here asks whether it is there"
                yield self.finding(module, call, message)
                return


_NO_REGION = "On a CPU the region does nothing but warn: the dtypes within are others than was meant."
_NAMED = "Name the device of the input: torch.autocast(x.device.type, ...)."
_MAY_BE_ELSEWHERE = regex(
    r"is_available|device_count|--device|--gpu|--cuda|['\"]cpu|init_process_group|torch\.device\("
)
"""A file that loads, and asks for the device or falls back."""


_WHY_KNOWN = "the device is known here, or that of the input"
_WHY = "nothing here asks whether it is there"
_WHY_PASSED = {
    True: "the fallback of line {} is passed by",
    False: "the device that line {} is told, or asks for, is passed by",
}
"""By whether a fallback is written down."""


def _taken(module: Module) -> tuple[Collection[ast.expr], str]:
    """Return what takes CUDA for granted, by what the file as a whole does about its device, and how that is said."""
    falls_back = fallback(module.text)
    chosen = None if falls_back else chosen_device(module)
    if falls_back or chosen is not None:
        line = chosen.lineno if chosen is not None else _line_at(module, falls_back)
        passing = () if stops_without_cuda(module) else _passing_by(module, chosen)
        return passing, _WHY_PASSED[bool(falls_back)].format(line)
    if not trains(module.text):
        return {c for c in taken_where_run(module) if not _asked(module, c)}, _WHY
    if not asks(module) or asks_which(module.text):
        return _taken_in_training(module), _WHY
    return (), _WHY


def _line_at(module: Module, found: re.Match[str] | None) -> int:
    return module.text.count("\n", 0, found.start()) + 1 if found is not None else 0


def _by_function(module: Module, places: list[ast.expr]) -> list[list[ast.expr]]:
    """Return places by the function that they stand in, in source order."""
    found: dict[ast.AST, list[ast.expr]] = {}
    for place in places:
        found.setdefault(enclosing(module, place), []).append(place)
    return list(found.values())


def _taken_in_training(module: Module) -> set[ast.expr]:
    """Return what fails without CUDA in a file that trains and asks for nothing, and the devices that it sets to it."""
    return _fixed(module) | {c for c in _demands_of_all(module) if called(c) not in MEASURES}


def _passing_by(module: Module, chosen: ast.expr | None) -> set[ast.expr]:
    """Return what passes by the device that a file chooses, or is told."""
    found = {c for c in {*_demands_of_all(module), *set_to_a_choice(module)} if not stops_before(module, c)}
    if not trains(module.text):
        found = {c for c in found if called(c) not in MEASURES}
    if chosen is not None and not isinstance(chosen, ast.Attribute):  # the rest may stand where a GPU is
        found = {c for c in found if called(c) in ("cuda", "synchronize", *MEASURES)}
    return {*found, *calls_of_apex(module), *(() if _AVAILABLE.search(module.text) else _fixed(module))}


_AVAILABLE = regex(r"^[^#\n]*is_available", re.MULTILINE)


def _fixed(module: Module) -> set[ast.expr]:
    return {place for place in fixed_devices(module) if not _asked(module, place)}


def _demands_of_all(module: Module) -> set[ast.Call]:
    """Return what fails without CUDA, outside of tests for it and of the start of an optional job."""
    jobs = optional_starts(module)
    return {c for c in demands(module) if not _asked(module, c) and module.tree.function(c) not in jobs}


def _asked(module: Module, place: ast.expr) -> bool:
    """Whether a test around a place asks for the device, its function is named for CUDA, or a failure is caught."""
    if re.search(r"cuda|gpu", getattr(module.tree.function(place), "name", "")):
        return True
    tests = [ast.unparse(test) for test, _ in tests_outside(module, place)]
    return any(_CUDA.search(test) for test in tests) or any(True for _ in module.tree.handlers_around(place))
