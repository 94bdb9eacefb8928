"""A resumable checkpoint without the loss scale."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import (
    SAVES,
    Save,
    Scaler,
    confined,
    keeps_scaler,
    saves,
    scaler_at,
    scalers,
)
from ampguard.auditing.reading.kinds import AMP_WORDS
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._absent import absences, saves_no_scaler
from ampguard.auditing.rules.checkpoints._elsewhere import calling_scaler, derived_scaler, inherited_scaler
from ampguard.auditing.rules.checkpoints._given_in_vain import SCALER, in_vain_beside
from ampguard.auditing.rules.checkpoints._handed import apex_scaler, handed_saves, returned_states
from ampguard.auditing.rules.checkpoints._loaded_beside import loaded_beside
from ampguard.auditing.rules.checkpoints._not_handed import not_handed
from ampguard.auditing.rules.checkpoints._prepared_scaler import saves_beside_an_accelerator
from ampguard.auditing.rules.checkpoints._registered import keepers, may_bring_scaler
from ampguard.auditing.rules.checkpoints._with_trainers import handed_with_their_trainer
from ampguard.auditing.rules.checkpoints._wrapped_scaler import wrappers_without_state


class ScalerNotInCheckpoint(Rule):
    """A checkpoint that carries the optimizer's state, but not that of the gradient scaler beside it.

    ## What it does

    Looks at what is written with `torch.save`: where the state of an optimizer is in it, a `GradScaler` that is not
    switched off works in the same place, and nothing in the file saves that scaler's state. The checkpoint may be
    put together here, in a base class, or in a function of the project that the training code calls: that function
    is low, beside the finding at its call. What saves by itself the objects that it is given, such as a
    `Checkpointer(model, optimizer=optimizer)`, is a checkpoint too; so is a dictionary of states that is handed to
    a library's `save`, or that a `state_dict()` of the project's own returns (low: who writes it may add to it).
    The loss scale that `apex.amp.initialize` sets up counts as a scaler. Where more may be in a checkpoint than can
    be followed, a scaler in a local name, which nothing else can reach, is missing all the same; one of `self` is
    low. So is a checkpoint that goes through a function of the project which would save the scaler, and is not
    given it, where another call gives it; medium where none does, and where the function is given it and does
    nothing with it, or only asks whether it is there. Low are also a checkpoint without the scaler's state in the
    class that loads it from there, where only the file is the same (medium in one class); and a checkpointer that
    is given a trainer whose class has a scaler and no `state_dict` of its own. Low as well, where the way of a
    checkpoint cannot be followed: an optimizer's state or an optimizer that goes to what saves, in code that
    nowhere speaks of the state of the scaler beside it; a class around optimizer and scaler whose `state_dict`
    holds the former only; the states of optimizers that an accelerator prepared, which leave out its own scaler; a
    class around the project's only scaler that has no `state_dict` to give it away; and a scaler's state that is
    loaded and that nothing in the project saves.

    ## Why is this bad

    The scaler's state is the loss scale and how many steps it has held. Without it a resumed run starts again at
    65536: if it had settled at 256, the next eight steps or more overflow and are skipped, and the loss curve jumps.

    ## Example

    ```python
    import torch

    def fit(model, optimizer, batches, path):
        scaler = torch.amp.GradScaler("cuda")
        for inputs, targets in batches:
            loss = model(inputs, targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    ```

    ## Use instead

    ```python
    import torch

    def fit(model, optimizer, batches, path):
        scaler = torch.amp.GradScaler("cuda")
        for inputs, targets in batches:
            loss = model(inputs, targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save(states, path)
    ```

    ## Fix safety

    Safe: a further key in the checkpoint. Code that loads it has to accept older checkpoints without the key, and
    a scaler that is switched off saves an empty state, which it refuses to load into one that is on.

    ## References

    - torch.amp.GradScaler.state_dict; the PyTorch recipe "Automatic Mixed Precision", section "Saving/Resuming"
    - huggingface/transformers issue 34053
    """

    code = "CKP001"
    name = "scaler-not-in-checkpoint"
    severity = Severity.MEDIUM
    impact = "A resumed run starts with a loss scale of 65536 again: steps are skipped, and the loss jumps."
    risk = "Low: one more key; loading has to accept older checkpoints that lack it."
    fix = "Save `scaler.state_dict()` beside the optimizer's state, and load it after the scaler is constructed."
    words = ("caler", "torch.save", "save(", "heckpoint", "amp.initialize", "ptim")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield each function's first resumable save that leaves the scaler out."""
        found = list(self._lacking(module))
        if found and keeps_scaler(module):
            found = list(self._closed(module)) if saves_no_scaler(module) else []
        found += self._not_handed(module, {finding.scope for finding in found})
        found += self._given_in_vain(module, {finding.scope for finding in found})
        yield from found
        told = {finding.scope for finding in found}
        yield from self._loaded_beside(module, told)
        yield from self._absent(module, told)
        yield from self._kept_inside(module)
        for call, place in saves_beside_an_accelerator(module):
            text = (
                f"the optimizers were prepared: their loss scale is in `{place}`, whose state is not in the checkpoint"
            )
            yield self.finding(module, call, text, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _closed(self, module: Module) -> Iterator[Finding]:
        """Yield the saves of which every part is seen, where a scaler is handed on and nothing reads its state."""
        for call, through, _ in _own(module):
            scaler = scaler_at(module, call)
            if scaler is not None:
                yield self._say(module, call, scaler, through=through, severity=Severity.LOW)

    def _not_handed(self, module: Module, told: set[str]) -> Iterator[Finding]:
        """Yield the calls that leave the scaler out of what they give to a function that would save its state."""
        for call, scaler, sure in not_handed(module):
            if module.tree.qualname(call) not in told:
                severity = Severity.MEDIUM if sure else Severity.LOW
                yield self._say(module, call, scaler, through=f" that {called(call)}() writes", severity=severity)

    def _kept_inside(self, module: Module) -> Iterator[Finding]:
        """Yield the scalers of classes that give their state to nobody."""
        for cls, scaler in wrappers_without_state(module):
            text = f"{cls.name} has no `state_dict`, so that no checkpoint can hold the state of `{scaler.place}`"
            yield self.finding(module, scaler.made or cls, text, severity=Severity.LOW, critical_path=True)

    def _given_in_vain(self, module: Module, told: set[str]) -> Iterator[Finding]:
        """Yield the saves of functions that are given the scaler together with the optimizer, and leave it out."""
        lacking = [save.call for save in saves(module) if _lacks_scaler(save)] if module.mentions(("caler",)) else []
        for call, name in in_vain_beside(module, lacking, SCALER):
            if module.tree.qualname(call) not in told:
                text = f"the checkpoint holds the optimizer's state, but not that of `{name}`, which is given here"
                yield self.finding(module, call, text, critical_path=True)

    def _loaded_beside(self, module: Module, told: set[str]) -> Iterator[Finding]:
        """Yield the saves that leave out what the same class, or file, loads; adds the functions of both."""
        for beside in loaded_beside(module):
            save = beside.save.call
            if module.tree.qualname(save) not in told:
                told |= {module.tree.qualname(save), module.tree.qualname(beside.load)}
                text = f"the checkpoint holds the optimizer's state, but not that of `{beside.place}`"
                text += f", which line {beside.load.lineno} loads"
                severity = Severity.MEDIUM if beside.by_one_class else Severity.LOW
                yield self.finding(module, save, text, severity=severity, critical_path=True)

    def _lacking(self, module: Module) -> Iterator[Finding]:
        """Walk what is wrong unless the file keeps a scaler's state in a way that is not followed."""
        told: set[ast.AST | None] = set()
        at_work = module.mentions((*AMP_WORDS, "Scaler"))
        apex = apex_scaler(module)
        for call, through, is_open in (*_own(module, closed=False), *_through_helpers(module)) if at_work else ():
            function = module.tree.function(call)
            scaler = scaler_at(module, call) or apex if function not in told else None
            if scaler is not None and (not is_open or confined(module, scaler)):
                told.add(function)
                unsure = is_open and scaler.place.startswith("self.")
                severity = Severity.LOW if unsure else Severity.MEDIUM
                yield self._say(module, call, scaler, through=through, severity=severity)
        yield from self._elsewhere(module, told)
        for call, scaler, near in keepers(module):
            function = module.tree.function(call)
            if function not in told:
                told.add(function)
                text = f"`{module.segment(call)}` is given the optimizer, but not `{scaler.place}`"
                severity = Severity.MEDIUM if near else Severity.LOW
                yield self.finding(module, call, text, severity=severity, critical_path=True)
        yield from self._returned(module, apex, told)
        for call, scaler in handed_with_their_trainer(module):
            text = f"`{module.segment(call, 40)}` saves a trainer whose class keeps `{scaler.place}` out of its state"
            yield self.finding(module, call, text, severity=Severity.LOW, critical_path=True)

    def _absent(self, module: Module, told: set[str]) -> Iterator[Finding]:
        """Yield what only names tell, where nothing that can be followed was told in the same function."""
        for at, text in absences(module, told):
            if module.tree.qualname(at) not in told:
                told.add(module.tree.qualname(at))
                yield self.finding(module, at, text, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _returned(self, module: Module, apex: Scaler | None, told: set[ast.AST | None]) -> Iterator[Finding]:
        """Yield the states that a function returns beside a working scaler, where no told function saves them."""
        for states, function in returned_states(module):
            if any(module.tree.function(call) in told for call in _calls_of(module, function)):
                continue
            scaler = scaler_at(module, states) or inherited_scaler(module, states) or apex
            if scaler is not None:
                text = (
                    f"the states that {function.name}() returns hold the optimizer's, but not that of `{scaler.place}`"
                )
                yield self.finding(module, states, text, severity=Severity.LOW, critical_path=True)

    def _elsewhere(self, module: Module, told: set[ast.AST | None]) -> Iterator[Finding]:
        """Yield the saves beside which no scaler works in this file, but in that of a related class or of a caller."""
        for call, _, _ in _own(module):
            function = module.tree.function(call)
            if function is None or function in told:
                continue
            inherited = inherited_scaler(module, call)
            found = (module, inherited) if inherited is not None else derived_scaler(module, function)
            severity = Severity.MEDIUM
            if found is None:
                found, severity = calling_scaler(module, function), Severity.LOW  # its call has a finding of its own
            if found is not None:
                told.add(function)
                of = f" of {found[0].path}" if found[0] is not module else ""
                yield self._say(module, call, found[1], of=of, severity=severity)

    def _say(
        self,
        module: Module,
        call: ast.Call,
        scaler: Scaler,
        *,
        through: str = "",
        of: str = "",
        severity: Severity = Severity.MEDIUM,
    ) -> Finding:
        severity = Severity.LOW if _at_the_end(module, call) else severity
        text = f"the checkpoint{through} holds the optimizer's state, but not that of `{scaler.place}`{of}"
        return self.finding(module, call, text, severity=severity, critical_path=True)


def _calls_of(module: Module, function: Function) -> Iterator[ast.Call]:
    """Walk the calls that may run a function: `model.state_dict()` does not run that of the class around it."""
    for call in module.calls.get(function.name, ()):
        place = target(module, call)
        if function.name != "state_dict" or (place is not None and place[1] is function):
            yield call


def _at_the_end(module: Module, call: ast.Call) -> bool:
    """Whether a test says that this is the last step: nothing of this run resumes from what is saved then."""
    tests = (above.test for above in module.tree.above(call) if isinstance(above, ast.If))
    return any(re.search(r"\blast_|\bfinal|is_last|_end\b", ast.unparse(test)) for test in tests)


Lacking = tuple[ast.Call, str, bool]
"""A call that writes no scaler, through what, and whether more may be in what it writes."""


def _own(module: Module, *, closed: bool = True) -> Iterator[Lacking]:
    for save in (*saves(module), *handed_saves(module)):
        if _lacks_scaler(save) and not (closed and save.holds.open):
            yield save.call, "", save.holds.open


def _lacks_scaler(save: Save) -> bool:
    return "optimizer" in save.holds.kinds and "scaler" not in save.holds.kinds


def _through_helpers(module: Module) -> Iterator[Lacking]:
    """Walk the calls of functions of other files that put together and write a checkpoint without the scaler."""
    if not scalers(module):
        return
    for name, calls in module.calls.items():
        for call in calls if SAVES.search(name) and name != "state_dict" else ():
            place = target(module, call, ("torch.save", "save("))
            if place is None or place[0] is module:
                continue
            where, function = place
            if keeps_scaler(where):
                continue
            lacking = [s for s in saves(where) if _lacks_scaler(s) and where.tree.function(s.call) is function]
            is_open = all(s.holds.open for s in lacking)
            if lacking and not (is_open and may_bring_scaler(module, call)):
                yield call, f" that {name}() writes", is_open
