"""`optimizer.step()` applies gradients that are still multiplied by the loss scale."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.gradients import site, violations
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.looked_through import looked_through, updated_after_plain_steps
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class PlainStepBesideScaler(ProtocolRule):
    """`optimizer.step()` applies gradients that are still multiplied by the loss scale.

    ## What it does
    Follows every path from a scaled backward pass to `optimizer.step()` and reports it where nothing has unscaled
    the gradients; a step in the branch without mixed precision is fine. High: a step after `unscale_`, which has the
    right size, where nothing in between looks for inf and NaN in the gradients; a step before `scaler.update()` in a
    branch that never calls `scaler.step`; one that applies again what `scaler.step` of the same optimizer has
    applied, as where only the backward pass stands in the branches; the step of a second optimizer where the scaler
    took that of the first alone, also by one call such as timm's `loss_scaler(loss, optimizer)`.

    ## Why is this bad
    The update is multiplied by the loss scale. Steps with inf or NaN are not skipped, and overflows are what the loss
    scale is found by: the first of them turns the parameters into NaN.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            optimizer.step()
            scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Fix safety
    Training changes: updates get their intended size.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.step
    """

    code = "AMP008"
    name = "plain-step-beside-scaler"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Updates are multiplied by the loss scale, and non-finite gradients are applied."
    risk = "Training changes: a learning rate that was lowered to make up for it is too low afterwards."
    fix = "Write `scaler.step(optimizer)`."
    kinds = ("plain step",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the steps of scaled gradients, of unscaled ones that nobody looks through, and the second ones."""
        told: set[int] = set()
        for finding in super().check(module):
            told.add(finding.line)
            yield finding
        for violation in violations(module, "plain step after unscale"):
            at = site(module, violation.event)
            if getattr(at, "lineno", 1) not in told and not looked_through(
                module, at, violation.earlier.node if violation.earlier else None
            ):
                message = (
                    f"{module.segment(at)} applies inf and NaN too: after the unscale_ of "
                    f"{where(module, violation.earlier)}, only scaler.step would skip them"
                )
                yield self.finding(module, at, message, severity=Severity.HIGH, likelihood="likely", critical_path=True)

        for violation in violations(module, "stepped again"):
            at = site(module, violation.event)
            if getattr(at, "lineno", 1) not in told:
                told.add(getattr(at, "lineno", 1))
                message = (
                    f"{module.segment(at)} steps again what the scaler stepped at {where(module, violation.earlier)},"
                    " also where that was skipped for inf or NaN"
                )
                yield self.finding(module, at, message, severity=Severity.HIGH, critical_path=True)

        for violation in violations(module, "step of another"):
            at = site(module, violation.event)
            if getattr(at, "lineno", 1) not in told:
                told.add(getattr(at, "lineno", 1))
                message = (
                    f"{module.segment(at)} steps past the scaler: what {where(module, violation.earlier)} left in its"
                    " gradients is still multiplied by the loss scale"
                )
                yield self.finding(module, at, message, severity=Severity.HIGH, likelihood="likely", critical_path=True)

        for step, update in updated_after_plain_steps(module):
            if step.lineno not in told:
                message = (
                    f"{module.segment(step)} steps past the scaler that {module.segment(update)} (line {update.lineno})"
                    " updates: nothing unscales, and no inf or NaN is skipped"
                )
                yield self.finding(module, step, message, severity=Severity.HIGH, critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} applies gradients that the backward pass of "
            f"{where(module, violation.earlier)} left multiplied by the loss scale"
        )
