"""The backward pass runs inside the autocast region."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.gradients import site, skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, region_around
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.called_in_regions import trained_in_regions
from ampguard.auditing.rules.amp._precision.named_regions import WORDS, named_region
from ampguard.auditing.rules.amp._precision.overridden_steps import overridden_steps


class BackwardInAutocast(Rule):
    """The backward pass runs inside the autocast region.

    ## What it does
    Reports `backward()` where the call, or a call that leads to it, stands inside an autocast region that is not
    switched off; also inside a context that comes from elsewhere and is called as such a region is (`with amp_ctx:`).
    The way there may be a function that is handed on (`optimizer.step(closure)`), or a method of an object that is not
    known, where every method of that name runs a backward pass; what other files say is followed. A scaler that is
    called with the loss, as the wrappers of some projects are, counts too, and so does the method of a class whose base
    class runs it inside a region.

    ## Why is this bad
    Torch's documentation advises against it: backward operations run in the dtype that autocast chose for their
    forward operations anyway, and what user code and hooks compute during the backward pass is cast unasked.

    ## Example
    ```python
    import torch

    def step(model, optimizer, scaler, x, y, loss_fn):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = loss_fn(model(x), y)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def step(model, optimizer, scaler, x, y, loss_fn):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Dedenting the call is safe where nothing after it needs the region.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.autocast
    """

    code = "AMP011"
    name = "backward-in-autocast"
    severity = Severity.LOW
    likelihood = "unlikely"
    impact = "Custom backward code and hooks are cast unasked; torch advises against it."
    risk = "Low: results rarely change."
    fix = "End the autocast region before `backward()`."
    words = (*WORDS, ".backward(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every backward pass in a region, once a line."""
        told: set[int] = set()
        for _, ops in skeletons(module) if module.mentions(WORDS) else ():
            for event in events(ops):
                at = site(module, event)
                line = getattr(at, "lineno", 1)
                if event.kind not in ("backward", "managed backward") or line in told:
                    continue
                opened = _opened(event)
                named = named_region(module, at) if opened is None else None
                if opened is not None and opened.enabled is not False:
                    told.add(line)
                    yield self._at(module, at, f"the autocast region of line {opened.call.lineno}")
                elif named is not None:
                    told.add(line)
                    yield self._at(module, at, f"`with {module.segment(named, 40)}` (line {named.lineno})")
        for call, region in trained_in_regions(module) if module.mentions(WORDS) else ():
            if call.lineno not in told:
                told.add(call.lineno)
                yield self._at(module, call, f"the autocast region of line {region.call.lineno}, and goes backward")

        for step in overridden_steps(module):
            for call in (c for c in step.passes if c.lineno not in told):
                told.add(call.lineno)
                place = f"line {step.region.call.lineno}" + ("" if step.home is module else f" of {step.home.path}")
                run = f"{step.method.name}(), which {step.base.name} runs inside the autocast region of {place}"
                text = f"{module.segment(call)} is part of {run}"
                yield self.finding(module, call, text, critical_path=True)

    def _at(self, module: Module, at: ast.AST, region: str) -> Finding:
        return self.finding(module, at, f"{module.segment(at)} runs inside {region}", critical_path=True)


def _opened(event: Event) -> Region | None:
    """Return the region around the event, or around the innermost call that leads to it."""
    for module, node in ((event.module, event.node), *reversed(event.stack)):
        region = region_around(module, node)
        if region is not None:
            return region
    return None
