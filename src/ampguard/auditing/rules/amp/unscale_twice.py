"""`unscale_` is called twice for one optimizer before `update()`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._order.unscaled_by_accelerate import trains_in_half, unscaled_again
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class UnscaleTwice(ProtocolRule):
    """`unscale_` is called twice for one optimizer before `update()`.

    ## What it does
    Follows every path for two calls of `unscale_` with the same optimizer and no `scaler.update()` in between;
    typical is `unscale_` in every micro-step of an accumulation whose `step()` and `update()` come only every k-th
    time. Also an optimizer that is unscaled in its wrapper and stepped without it, or the other way round: `step`
    unscales what the scaler does not know. Medium or low: `accelerator.clip_grad_norm_`, which unscales too, in every
    micro-batch of an accumulation, and twice for one step.

    ## Why is this bad
    Torch raises RuntimeError: unscale_() has already been called on this optimizer since the last update().

    ## Example
    ```python
    def train(model, optimizer, scaler, loader, loss_fn, k):
        for i, (x, y) in enumerate(loader):
            scaler.scale(loss_fn(model(x), y) / k).backward()
            scaler.unscale_(optimizer)
            if (i + 1) % k == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, optimizer, scaler, loader, loss_fn, k):
        for i, (x, y) in enumerate(loader):
            scaler.scale(loss_fn(model(x), y) / k).backward()
            if (i + 1) % k == 0:
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    ```

    ## Fix safety
    Moving the call is safe where nothing reads the gradients of the micro-steps in between.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.unscale_
    """

    code = "AMP003"
    name = "unscale-twice"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Training stops with a RuntimeError at the second call."
    risk = "Low."
    fix = "Call `unscale_` once per optimizer and step, right before the clipping and `scaler.step`."
    kinds = ("unscale twice",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the second unscales of a path, then the steps of what was unscaled as another object, and the clips."""
        yield from super().check(module)
        for step, unscale in _under_another_name(module):
            message = (
                f"{module.segment(step)} unscales once more: line {unscale.lineno} unscaled"
                f" {module.segment(unscale.args[0], 30)}, which the scaler takes for another optimizer"
            )
            yield self.finding(module, step, message, critical_path=True)
        for clip, before in unscaled_again(module):
            message = f"{module.segment(clip.func)} unscales, as it did {before}: in float16 that raises RuntimeError"
            severity = Severity.MEDIUM if trains_in_half(module) else Severity.LOW
            yield self.finding(
                module,
                clip,
                message,
                severity=severity,
                likelihood="possible",
                impact=_HALF_GATHERED,
                fix=_SYNCHRONISED,
                critical_path=True,
            )

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} runs again before `update()` (first at "
            f"{where(module, violation.earlier)}): torch raises RuntimeError"
        )


_HALF_GATHERED = "In float16 training stops with a RuntimeError; else gradients are clipped that are not whole yet."
_SYNCHRONISED = "Clip once per step, under `if accelerator.sync_gradients:`."


def _under_another_name(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the step, the unscale) where one is given an optimizer and the other what that wraps: `o`, `o.optimizer`.

    The scaler keeps its state by the object that it is given, and unscales in `step` what it does not know.
    """
    for unscale in module.calls.get("unscale_", ()):
        place = key(unscale.args[0]) if unscale.args else None
        around = module.tree.function(unscale)
        if place is None or around is None:
            continue
        owner = key(receiver(unscale))
        steps = [c for c in module.calls.get("step", ()) if c.args and key(receiver(c)) == owner]
        steps = [c for c in steps if module.tree.function(c) is around]
        given = {key(c.args[0]) or "" for c in steps}
        if place in given:
            continue
        for step in steps:
            other = key(step.args[0]) or ""
            if other.startswith(f"{place}.") or (other and place.startswith(f"{other}.")):
                yield step, unscale
                break
