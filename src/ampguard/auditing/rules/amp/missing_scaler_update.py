"""The scaler steps again without an `update()` in between."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class MissingScalerUpdate(ProtocolRule):
    """The scaler steps again without an `update()` in between.

    ## What it does
    Follows every path from one `scaler.step(optimizer)` to the next for the same optimizer, and reports the step where
    no `scaler.update()` lies on the path. Also every step of a scaler that is made in the file, handed to nothing, and
    updated nowhere in the project.

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
    kinds = ("no update",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the steps without an update on the path, then those of scalers that nothing ever updates."""
        told: set[int] = set()
        for finding in super().check(module):
            told.add(finding.line)
            yield finding
        for step in _never_updated(module):
            if step.lineno not in told:
                message = f"{module.segment(step)} has no `update()`: nothing in this project calls it for this scaler"
                yield self.finding(module, step, message, critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
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
