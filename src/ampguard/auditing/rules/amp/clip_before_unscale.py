"""Gradients are clipped while they are still multiplied by the loss scale."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._hooks import clamping_hooks, clips_in_hooks
from ampguard.auditing.rules.amp._order.clips_past_framework import clips_past_framework
from ampguard.auditing.rules.amp._protocol import ProtocolRule, through, where

_FRAMEWORK = "Clip with `accelerator.clip_grad_norm_` or `fabric.clip_gradients`, which unscale first."


class ClipBeforeUnscale(ProtocolRule):
    """Gradients are clipped while they are still multiplied by the loss scale.

    ## What it does
    Follows every path from a scaled backward pass to a call that clips gradients (`clip_grad_norm_`,
    `clip_grad_value_`, a helper of the project that does), and reports the call where the optimizer's gradients
    have not been unscaled on that path. A threshold that is itself multiplied by the scale is fine. Also reported: the
    hook of a trainer that clips, where no file of the project unscales anything, and a hook on the parameters that
    clamps each gradient while the backward pass runs; and a clip before the `unscale_` of a step function whose
    backward pass is elsewhere; and torch's own clip behind the backward pass of Accelerate or Fabric, in a function, a
    script or the methods of a class: they unscale in their own clips and steps alone.

    ## Why is this bad
    The loss scale starts at 65536. A norm of 0.5 then reads as 32768, so a threshold of 1.0 shrinks every gradient
    by four orders of magnitude: training nearly stops, without an error.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            with torch.autocast("cuda", dtype=torch.float16):
                loss = loss_fn(model(x), y)
            scaler.scale(loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            with torch.autocast("cuda", dtype=torch.float16):
                loss = loss_fn(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    ```

    ## Fix safety
    Not offered as an automatic edit: a run that was tuned with the wrong threshold trains differently once it
    clips rightly.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
    """

    code = "AMP001"
    name = "clip-before-unscale"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "The threshold is off by the loss scale (65536 at the start), so training nearly stops."
    risk = "Training changes: the threshold starts to mean what it says, and may need tuning again."
    fix = "Call `scaler.unscale_(optimizer)` between `backward()` and the clipping."
    words = (*ProtocolRule.words, "clip_grad", "grad_clip", "gradient_clip")
    kinds = (
        "clip before unscale",
        "clip without unscale",
        "clip and then unscale",
    )

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield what the paths show, and what hooks clip beside them."""
        told: set[int] = set()
        for finding in super().check(module):
            told.add(finding.line)
            yield finding
        for call in clips_in_hooks(module):
            if call.lineno not in told:
                message = f"{module.segment(call)} clips in a hook, and nothing in this project unscales the gradients"
                yield self.finding(
                    module, call, message, severity=Severity.HIGH, likelihood="likely", critical_path=True
                )
        for call, backward, half in clips_past_framework(module):
            if call.lineno not in told:
                told.add(call.lineno)
                left = f"{module.segment(backward)} (line {backward.lineno}) may have left scaled"
                severity = Severity.HIGH if half else Severity.LOW
                message = f"{module.segment(call)} clips gradients that {left}: the framework unscales as it steps"
                yield self.finding(
                    module,
                    call,
                    message,
                    severity=severity,
                    likelihood="likely" if half else "possible",
                    fix=_FRAMEWORK,
                )
        for call in clamping_hooks(module):
            message = f"{module.segment(call)} clamps each gradient in the backward pass, where it is still scaled"
            yield self.finding(module, call, message, severity=Severity.HIGH, likelihood="likely", critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        call = module.segment(violation.event.node)
        if violation.kind == "clip without unscale":
            return (
                f"{call} clips before `scaler.step` (line {_line(violation)}), and nothing in this file unscales the "
                "gradients first"
            )
        if violation.kind == "clip and then unscale":
            return f"{call} clips before the gradients are unscaled ({where(module, violation.earlier)})"
        return (
            f"{call} clips gradients that the backward pass of {where(module, violation.earlier)} left multiplied by "
            f"the loss scale{through(module, violation.event)}"
        )


def _line(violation: Violation) -> int:
    return getattr(violation.earlier.node, "lineno", 1) if violation.earlier is not None else 1
