"""A resumable checkpoint without the loss scale."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import SAVES, Save, keeps_scaler, saves, scaler_at, scalers
from ampguard.auditing.reading.kinds import AMP_WORDS
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule


class ScalerNotInCheckpoint(Rule):
    """A checkpoint that carries the optimizer's state, but not that of the gradient scaler beside it.

    ## What it does

    Looks at what is written with `torch.save`: where the state of an optimizer is in it, a `GradScaler` that is
    not switched off works in the same place, and nothing in the file saves that scaler's state. The checkpoint may be
    put together here, in a base class, or in a function of the project that the training code calls.

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
    words = ("caler",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield each function's first resumable save that leaves the scaler out."""
        if not module.mentions((*AMP_WORDS, "Scaler")) or keeps_scaler(module):
            return
        told = set()
        for call, through in (*_own(module), *_through_helpers(module)):
            function = module.tree.function(call)
            scaler = scaler_at(module, call) if function not in told else None
            if scaler is not None:
                told.add(function)
                yield self.finding(
                    module,
                    call,
                    f"the checkpoint{through} holds the optimizer's state, but not that of `{scaler.place}`",
                    critical_path=True,
                )


def _own(module: Module) -> Iterator[tuple[ast.Call, str]]:
    return ((save.call, "") for save in saves(module) if _lacks_scaler(save))


def _lacks_scaler(save: Save) -> bool:
    return not save.holds.open and "optimizer" in save.holds.kinds and "scaler" not in save.holds.kinds


def _through_helpers(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls of functions of other files that put together and write a checkpoint without the scaler."""
    if not scalers(module):
        return
    for name, calls in module.calls.items():
        for call in calls if SAVES.search(name) and name != "state_dict" else ():
            place = target(module, call, ("torch.save", "save("))
            if place is None or place[0] is module or keeps_scaler(place[0]):
                continue
            where, function = place
            if any(_lacks_scaler(s) and where.tree.function(s.call) is function for s in saves(where)):
                yield call, f" that {name}() writes"
