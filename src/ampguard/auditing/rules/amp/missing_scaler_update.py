"""The scaler steps again without an `update()` in between."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._order.stepped_in_a_loop import steps_without_update
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where
from ampguard.auditing.rules.amp._steps import RUNNERS


class MissingScalerUpdate(ProtocolRule):
    """The scaler steps again without an `update()` in between.

    ## What it does
    Follows every path from one `scaler.step(optimizer)` to the next for the same optimizer, and reports the step where
    no `scaler.update()` lies on the path; and an `update()` between a backward pass and the step that follows it. Also
    every step of a scaler that is made in the file, handed to nothing, and updated nowhere in the project; and (low)
    one that comes from elsewhere, in a project that updates no scaler.

    ## Why is this bad
    Without `update()` the scale never adapts: after one overflow every later step is skipped too, and `unscale_`
    or a second `step()` raises RuntimeError.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scaler.step(optimizer)
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
    Safe: the documentation asks for it.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.update
    """

    code = "AMP005"
    name = "missing-scaler-update"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "RuntimeError at the second step, or a loss scale that never adapts."
    risk = "Low."
    fix = "Call `scaler.update()` once a step, after every optimizer has stepped."
    kinds = ("no update", "update before step")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the steps without an update on the path, then those of scalers that nothing ever updates."""
        told: set[int] = set()
        for finding in super().check(module):
            told.add(finding.line)
            yield finding
        for step in _never_updated(module):
            if step.lineno not in told:
                message = f"{module.segment(step)} has no `update()`: nothing in this project calls it for this scaler"
                told.add(step.lineno)
                yield self.finding(module, step, message, critical_path=True)
        for step, loop in steps_without_update(module):
            if step.lineno not in told:
                message = f"{module.segment(step)} runs again and again in the loop at line {loop.lineno}, and nothing"
                told.add(step.lineno)
                yield self.finding(
                    module, step, f"{message} in it calls `update()`", severity=Severity.HIGH, critical_path=True
                )
        for step in _updated_by_nobody(module):
            if step.lineno not in told:
                message = f"{module.segment(step)} has no `update()`: nothing in this project updates a scaler"
                yield self.finding(
                    module, step, message, severity=Severity.LOW, likelihood="likely", critical_path=True
                )

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        if violation.kind == "update before step":
            update = module.segment(violation.event.node)
            return f"{update} comes before the step that it belongs to, at {where(module, violation.earlier)}"
        earlier = where(module, violation.earlier)
        again = " in the walk before" if violation.earlier is violation.event else f" (last at {earlier})"
        return f"{module.segment(violation.event.node)} steps again without `update()` since its last step{again}"


def _never_updated(module: Module) -> Iterator[ast.Call]:
    """Walk the steps of scalers that are made here, stay here, and have no `update` anywhere."""
    for made in scaler_constructions(module) if module.role != "test" else ():
        statement = module.tree.statement(made)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        for place in filter(None, map(key, targets)):
            name = place.rpartition(".")[2]
            updated = re.compile(rf"\b{re.escape(name)}(\[[^\]]*\])?\.update\(")
            if not _handed_on(module, place) and not module.project.says(updated, f"{name}.update(", f"{name}["):
                yield from (c for c in module.calls.get("step", ()) if key(receiver(c)) == place and c.args)


def _updated_by_nobody(module: Module) -> Iterator[ast.Call]:
    """Walk the steps through scalers that come from elsewhere, in projects where no scaler is ever updated."""
    if module.role in ("test", "benchmark") or not module.project.says(_MADE, "GradScaler("):
        return
    if module.project.says(_UPDATED, ".update(") or module.project.says(_OWN_CLASS, "Scaler"):
        return
    for step in module.calls.get("step", ()):
        owner = receiver(step)
        if is_scaler(module, owner) and len(step.args) == 1 and not module.mentions(RUNNERS):
            yield step


_MADE = regex(r"\bGradScaler\(")
_UPDATED = regex(r"scal\w*(\[[^\]]*\]|\(\))*\.update\(", re.IGNORECASE)
_OWN_CLASS = regex(r"^\s*class \w*Scaler\b", re.MULTILINE)
"""A scaler of the project's own may update in its `step`."""


def _handed_on(module: Module, place: str) -> bool:
    """Whether a scaler is given to a call, returned, stored elsewhere, or reached through a method's name."""
    for node in module.tree.all(ast.Name, ast.Attribute):
        if key(node) != place or not isinstance(node.ctx, ast.Load):
            continue
        above = module.tree.parents[node]
        if not isinstance(above, ast.Attribute):
            return not (isinstance(above, ast.Call) and called(above) in ("print", "hasattr", "isinstance"))
        if not isinstance(module.tree.parents[above], ast.Call):
            return True
    return False
