"""Gradients are cleared between the backward pass and the step."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.cleared_in_accumulate import cleared_at_the_head, says_how_many
from ampguard.auditing.rules.amp._order.gradients_dropped import dropped_gradients
from ampguard.auditing.rules.amp._order.micro_steps import (
    cleared_in_inner_loops,
    cleared_micro_steps,
    cleared_while_accumulating,
    where_line,
)
from ampguard.auditing.rules.amp._order.never_stepped import cleared_and_never_stepped
from ampguard.auditing.rules.amp._order.stepped_right_after import stepped_right_after
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class ZeroGradBeforeStep(ProtocolRule):
    """Gradients are cleared between the backward pass and the step.

    ## What it does
    Reports a step on a path where `zero_grad()` has run after the last backward pass (or right before the step,
    wherever the backward pass is), and a `zero_grad()` at every
    micro-step of an accumulation whose step comes only every k-th time (by a remainder, a counter that starts anew,
    or behind a `continue`), also where the clear stands under the test of the step before the backward pass, in a
    function that is called for each, or in an inner loop with the step behind it; and `model.zero_grad()` in `with
    accelerator.accumulate(...)`, which holds back the optimizer's own clears and not the model's, and the
    optimizer's `zero_grad()` there in front of the backward pass, which clears what was gathered. Also a clear
    between two backward passes of one step with a single optimizer, where nothing has used the gradients of the
    first, and one behind the backward pass of a loop whose optimizer, made in the same function, steps nowhere.

    ## Why is this bad
    The step has no gradients to apply: nothing is learned (or `scaler.step` fails its assertion), without any
    other sign.

    ## Example
    ```python
    def step(optimizer, scaler, loss):
        scaler.scale(loss).backward()
        optimizer.zero_grad()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    def step(optimizer, scaler, loss):
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Moving the call before the backward pass is what was meant.

    ## References
    - https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "AMP009"
    name = "zero-grad-before-step"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "The step applies nothing: the model does not learn."
    risk = "Low."
    fix = "Clear gradients before the backward pass or after the step."
    kinds = ("zero before step",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the steps with nothing to apply, and the clears at every micro-step of an accumulation."""
        known = list(super().check(module))
        yield from known
        for applied, clear_call in stepped_right_after(module):
            if all(applied.lineno != finding.line for finding in known):
                cleared = f"{module.segment(clear_call)} (line {clear_call.lineno})"
                message = f"{module.segment(applied)} has nothing to apply: it comes right behind {cleared}"
                yield self.finding(module, applied, message, severity=Severity.MEDIUM, critical_path=True)
        told: set[object] = set()
        for clear, step in (*cleared_micro_steps(module), *cleared_in_inner_loops(module)):
            if clear.node in told:
                continue
            told.add(clear.node)
            message = (
                f"{module.segment(clear.node)} clears the gradients at every micro-step; "
                f"{module.segment(step.node)} (line {where_line(step)}) applies only those of the last one"
            )
            yield self.finding(module, clear.node, message, severity=Severity.MEDIUM, critical_path=True)

        for dropped, backward in (*dropped_gradients(module), *cleared_and_never_stepped(module)):
            passed = f"{module.segment(backward)} (line {getattr(backward, 'lineno', 1)})"
            message = f"{module.segment(dropped)} clears what {passed} computed, before any step"
            yield self.finding(module, dropped, message, severity=Severity.MEDIUM, critical_path=True)
        for call in cleared_while_accumulating(module):
            clears = module.segment(call)
            message = f"{clears} clears at every micro-step: accumulate() holds back only the optimizer's clears"
            yield self.finding(module, call, message, severity=Severity.MEDIUM, critical_path=True)
        for call, backward in cleared_at_the_head(module):
            if call in told:
                continue
            passed = f"{module.segment(backward, 40)} (line {backward.lineno})"
            message = (
                f"{module.segment(call)} stands before {passed} in accumulate(): on the micro-batch that steps it "
                "clears what those before it gathered"
            )
            severity = Severity.MEDIUM if says_how_many(module) else Severity.LOW
            yield self.finding(module, call, message, severity=severity, critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} has nothing to apply: the gradients were cleared at "
            f"{where(module, violation.earlier)}, after the backward pass"
        )
