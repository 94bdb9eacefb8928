"""A resumed run whose optimizer or schedule starts from nothing."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import Save, restored, restores, saves
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.owned import Owned
from ampguard.auditing.reading.payloads import Contents
from ampguard.auditing.reading.tree import argument, called, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._filtered import filters_without_schedule
from ampguard.auditing.rules.checkpoints._given_in_vain import (
    SCHEDULER,
    given_in_vain,
    in_vain_beside,
    optimizer_in_vain,
)
from ampguard.auditing.rules.checkpoints._handed import handed_saves
from ampguard.auditing.rules.checkpoints._left_out import left_out_of_loads as leaves_alone
from ampguard.auditing.rules.checkpoints._left_out import left_out_of_saves
from ampguard.auditing.rules.checkpoints._optimizer_elsewhere import optimizer_elsewhere
from ampguard.auditing.rules.checkpoints._progress_apart import goes_on, told_apart, told_by_settings
from ampguard.auditing.rules.checkpoints._resumed import saved_to_be_resumed
from ampguard.auditing.rules.checkpoints._resumed_by_others import saved_to_be_loaded_elsewhere
from ampguard.auditing.rules.checkpoints._schedule_elsewhere import (
    moved_by_others,
    states_of_fabric,
    stepped_elsewhere,
)
from ampguard.auditing.rules.checkpoints._schedule_state import follows_metric, restored_elsewhere, saved_as_none
from ampguard.auditing.rules.checkpoints._unprepared import unprepared_schedule

Asks = Callable[[Module, ast.expr | None], bool]

_ANEW = "After a resume the schedule starts from its first step, with the warm-up again."

_READS = ("load", "resume", "restore")
"""What only reads a checkpoint keeps nothing for the next one."""

_TAKES = ("save", "load", "checkpoint", "ckpt", "state", "prepare", "register", "resume", "restore", "snapshot")


class StateMissingBesideModel(Rule):
    """A checkpoint that training goes on from carries the model, but not its optimizer or its schedule.

    ## What it does

    Asks of each optimizer and schedule that training moves whether its state is saved beside what else the checkpoint
    holds: by its own `state_dict()`, in a loop over the container that it lies in, by a function or an object that it
    is handed to, by a related class. A checkpoint is what a file saves or returns as a state with an optimizer's or a
    schedule's in it, or with the model and an epoch that training goes on from. What is saved, and what training moves
    beside, is asked for again where a checkpoint is taken up. All that is low; medium is a model saved with its epoch,
    which is read back, without the optimizer that the file steps. Also asked are accelerators that were not handed the
    schedule, `fabric.save` of a state without it, runs that save a model alone and begin at an epoch that they are told
    or call it resuming, and functions that are given an optimizer or a schedule in vain. A schedule that is told the
    epoch, or caught up by hand, needs no state. Files that hold weights alone are not meant.

    ## Why is this bad

    Adam without its moments takes its first steps as if nothing were known, with bias correction for step one:
    the loss jumps up after each resume. A scheduler that starts anew runs warm-up a second time.

    ## Example

    ```python
    import torch

    class Trainer:
        def __init__(self, model, batches):
            self.model, self.batches, self.epoch = model, batches, 0
            self.optimizer = torch.optim.AdamW(model.parameters())

        def save(self, path):
            torch.save({"model": self.model.state_dict(), "epoch": self.epoch}, path)

        def resume(self, path):
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.epoch = state["epoch"]

        def train(self):
            for batch in self.batches:
                self.model(batch).backward()
                self.optimizer.step()
    ```

    ## Use instead

    ```python
    import torch

    class Trainer:
        def __init__(self, model, batches):
            self.model, self.batches, self.epoch = model, batches, 0
            self.optimizer = torch.optim.AdamW(model.parameters())

        def save(self, path):
            states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save({**states, "epoch": self.epoch}, path)

        def resume(self, path):
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch = state["epoch"]

        def train(self):
            for batch in self.batches:
                self.model(batch).backward()
                self.optimizer.step()
    ```

    ## Fix safety

    Safe: a further key. An optimizer's state is up to twice as large as the model; loading has to accept older
    checkpoints.

    ## References

    - PyTorch tutorial "Saving and loading a general checkpoint"
    """

    code = "CKP003"
    name = "state-missing-beside-model"
    severity = Severity.MEDIUM
    impact = "After a resume the optimizer's moments start from zero, and the loss jumps."
    risk = "Low: checkpoints grow by the optimizer's state."
    fix = "Save the state of the optimizer and the scheduler beside the model, and load them on resume."
    words = ("torch.save", "save(", "save_", "checkpoint(", "state_dict(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield saves that lack the optimizer, and those that lack the scheduler."""
        told: set[ast.AST | None] = set()
        found = list(self._by_kinds(module, told))
        yield from found
        said = {name for finding in found for name in re.findall("`([^`]+)`", finding.message)}
        yield from self._left_out(module, told, said)

    def _by_kinds(self, module: Module, told: set[ast.AST | None]) -> Iterator[Finding]:
        yield from self._unprepared(module)
        for load, name in given_in_vain(module, SCHEDULER):
            text = f"the optimizer is restored, but `{name}`, which this function is given, is not"
            yield self.finding(module, load, text, severity=Severity.LOW, impact=_ANEW)
        for call, name in in_vain_beside(module, _saves_without_schedule(module), SCHEDULER):
            text = f"the checkpoint holds model and optimizer, but not the state of `{name}`, which is given here"
            yield self.finding(module, call, text, severity=Severity.LOW, impact=_ANEW)
        for load, name in optimizer_in_vain(module):
            text = f"the model is restored, but `{name}`, which this function is given, is not"
            yield self.finding(module, load, text, severity=Severity.LOW, critical_path=True)
        for call in filters_without_schedule(module):
            text = f"{module.segment(call)} passes the scheduler by, which is no such thing: it is saved nowhere here"
            yield self.finding(module, call, text, severity=Severity.LOW, impact=_ANEW)
        for state, owner in states_of_fabric(module):
            told.add(module.tree.function(state))
            text = f"the state that is saved holds model and optimizer, but not `{key(owner)}`"
            yield self.finding(module, state, text, severity=Severity.LOW, impact=_ANEW)
        for entry in saved_as_none(module):
            told.add(module.tree.function(entry))
            text = "the checkpoint holds None for the scheduler, whose state is nowhere saved here"
            yield self.finding(module, entry, text, severity=Severity.LOW, impact=_ANEW)
        written = (*saves(module), *handed_saves(module))
        for save in (*written, *_spread_out(module), *told_apart(module)):
            function = module.tree.function(save.call)
            finding = None if save.holds.open or function in told else self._judge(module, save)
            if finding is not None:
                told.add(function)
                yield finding
        yield from self._told_by_settings(module, told)

    def _left_out(self, module: Module, told: set[ast.AST | None], said: set[str]) -> Iterator[Finding]:
        """Yield what saves and resumes leave out, object by object; once where it is said already."""
        for point, objects in left_out_of_saves(module):
            function = module.tree.function(point.node)
            objects = [o for o in objects if o.place.name not in said]
            said |= {o.place.name for o in objects}
            if function in told or not objects:
                continue
            told.add(function)
            names = " and ".join(f"`{o.place.name}`" for o in objects[:3])
            held = " and ".join(k for k in ("model", "optimizer", "scheduler", "progress") if k in point.kinds)
            text = f"the checkpoint{point.through} holds {held}, but not the state of {names}"
            yield self._low(module, point.node, text, objects)
        for point, objects in leaves_alone(module):
            function = module.tree.function(point.node)
            if function not in told and not said & {o.place.name for o in objects}:
                told.add(function)
                names = " and ".join(f"`{o.place.name}`" for o in objects[:3])
                text = f"training is taken up again here{point.through}, without the state of {names}"
                yield self._low(module, point.node, text, objects)

    def _low(self, module: Module, node: ast.AST, text: str, objects: list[Owned]) -> Finding:
        if all(one.kind == "scheduler" for one in objects):
            return self.finding(module, node, text, severity=Severity.LOW, impact=_ANEW)
        return self.finding(module, node, text, severity=Severity.LOW, critical_path=True)

    def _told_by_settings(self, module: Module, told: set[ast.AST | None]) -> Iterator[Finding]:
        """Yield the saves of a model alone by runs that go on where their settings say, or that are resumed."""
        starts = ((save, "goes on from a start that it is told") for save in told_by_settings(module))
        resumed = ((save, "is resumed from this model alone") for save in saved_to_be_resumed(module))
        loaded = ((s, f"goes on from what {name}() loads") for s, name in saved_to_be_loaded_elsewhere(module))
        for save, does in (*starts, *resumed, *loaded):
            stepped = _stepped(module, is_optimizer)
            function = module.tree.function(save.call)
            if stepped is None or function in told or _stateless(module, stepped):
                continue
            if not _kept(module, is_optimizer):
                told.add(function)
                text = f"training {does}, without the state of `{key(stepped)}`"
                yield self.finding(module, save.call, text, severity=Severity.LOW, critical_path=True)

    def _unprepared(self, module: Module) -> Iterator[Finding]:
        """Yield the save of an accelerator that was not handed the schedule."""
        found = unprepared_schedule(module)
        if found is None or _kept(module, is_scheduler) or "last_epoch" in module.text:
            return
        save, owner, prepares = found
        text = f"the accelerator's state lacks that of `{key(owner)}`, which line {prepares.lineno} does not prepare"
        fix = "Hand the scheduler to accelerator.prepare() or to register_for_checkpointing()."
        yield self.finding(module, save, text, severity=Severity.LOW, impact=_ANEW, fix=fix)

    def _judge(self, module: Module, save: Save) -> Finding | None:
        kinds = save.holds.kinds
        if "optimizer" not in kinds and {"model", "progress"} <= kinds and goes_on(module):
            stepped = _stepped(module, is_optimizer)
            if stepped is not None and not _kept(module, is_optimizer):
                severity = Severity.LOW if _stateless(module, stepped) else Severity.MEDIUM
                text = f"the checkpoint that training resumes from lacks the state of `{key(stepped)}`"
                return self.finding(module, save.call, text, severity=severity, critical_path=True)
            place = optimizer_elsewhere(module, save) if stepped is None else None
            if place is not None:
                text = f"the checkpoint that training resumes from lacks the state of `{place}`, stepped elsewhere"
                return self.finding(module, save.call, text, severity=Severity.LOW, critical_path=True)
        if {"model", "scheduler"} <= kinds and "optimizer" not in kinds and "scheduler" in restored(module):
            stepped = _stepped(module, is_optimizer)
            if stepped is not None and not _kept(module, is_optimizer):
                text = f"the checkpoint holds model and schedule, but not the state of `{key(stepped)}`"
                return self.finding(module, save.call, text, severity=Severity.LOW, critical_path=True)
        library = "progress" in kinds and module.role == "library"
        wanted = {"optimizer", "model"} <= kinds and "scheduler" not in kinds
        if wanted and (restores(module) or library or restored_elsewhere(module)):
            stepped = _stepped(module, is_scheduler)
            if stepped is not None and not _kept(module, is_scheduler) and "last_epoch" not in module.text:
                text = f"the checkpoint holds model and optimizer, but not the state of `{key(stepped)}`"
                return self.finding(module, save.call, text, severity=Severity.LOW, impact=_ANEW)
            place = _moved_elsewhere(module, save) if stepped is None and "progress" in kinds else None
            if place is not None:
                text = f"the checkpoint holds model and optimizer, but not the state of `{place}`, stepped elsewhere"
                return self.finding(module, save.call, text, severity=Severity.LOW, impact=_ANEW)
        return None


def _moved_elsewhere(module: Module, save: Save) -> str | None:
    return stepped_elsewhere(module, save) or moved_by_others(module)


def _saves_without_schedule(module: Module) -> list[ast.Call]:
    kinds = ((save.call, save.holds.kinds) for save in saves(module) if module.mentions(("sched",)))
    return [call for call, held in kinds if {"optimizer", "model"} <= held and "scheduler" not in held]


def _spread_out(module: Module) -> Iterator[Save]:
    """Walk the saves of functions that write each state to a file of its own, as one save of all of them."""
    beside: dict[ast.AST | None, list[Save]] = {}
    for save in saves(module):
        beside.setdefault(module.tree.function(save.call), []).append(save)
    for found in beside.values():
        kinds = set().union(*(save.holds.kinds for save in found))
        parts = {"model", "optimizer" if "optimizer" in kinds else "scheduler"}
        if len(found) > 1 and parts <= kinds and not any(parts <= save.holds.kinds for save in found):
            is_open = any(save.holds.open for save in found)
            yield replace(found[-1], holds=Contents(kinds, open=is_open))


def _stepped(module: Module, asks: Asks) -> ast.expr | None:
    """Return what the file steps, of one kind; a scheduler stepped with a number knows where it is by itself."""
    for call in module.calls_of("step"):
        owner = receiver(call)
        told_where = asks is is_scheduler and (call.args or call.keywords) and not follows_metric(call)
        if owner is not None and asks(module, owner) and not told_where:
            return owner
    return None


def _kept(module: Module, asks: Asks) -> bool:
    """Whether the file saves or restores a state of that kind somewhere, or hands such an object to what may."""
    if any(asks(module, receiver(c)) for c in module.calls_of("state_dict", "load_state_dict", "optim_state_dict")):
        return True
    prepared = "save_state(" in module.text  # else what is prepared is wrapped, and no more
    return any(
        asks(module, value)
        for name, calls in module.calls.items()
        if any(word in name.lower() for word in _TAKES)
        and (prepared or name != "prepare")
        and not name.lower().startswith(_READS)
        for call in calls
        for value in (*call.args, *(k.value for k in call.keywords))
    )


def _stateless(module: Module, node: ast.expr) -> bool:
    """Whether the optimizer is plain SGD, whose state is nothing but its options."""
    return any(
        isinstance(value, ast.Call) and called(value) == "SGD" and argument(value, 2, "momentum") is None
        for value in assigned(module, node)
    )
