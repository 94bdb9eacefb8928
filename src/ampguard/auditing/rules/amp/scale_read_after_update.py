"""A scaled loss that is brought back with the scale of the next step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules._base import Rule


class ScaleReadAfterUpdate(Rule):
    """A scaled loss is divided by `scaler.get_scale()` after `scaler.update()` has changed it.

    ## What it does
    Finds `scaled / scaler.get_scale()` behind `scaler.update()` in the same pass, where `scaled` came out of
    `scaler.scale(...)` before it. Reading the scale before the update, or keeping the unscaled loss, is fine.

    ## Why is this bad
    `update()` halves the scale after an overflow and doubles it every 2000 steps. The value that is logged is then
    wrong by that factor, just at the steps one looks at.

    ## Example
    ```python
    def step(scaler, optimizer, loss, log):
        scaled = scaler.scale(loss)
        scaled.backward()
        scaler.step(optimizer)
        scaler.update()
        log(scaled / scaler.get_scale())
    ```

    ## Use instead
    ```python
    def step(scaler, optimizer, loss, log):
        scaled = scaler.scale(loss)
        scaled.backward()
        scaler.step(optimizer)
        scaler.update()
        log(loss.detach())
    ```

    ## Fix safety
    Safe: only the logged value changes, and it becomes the right one.

    ## References
    - https://pytorch.org/docs/stable/amp.html: GradScaler.update, GradScaler.get_scale
    """

    code = "AMP035"
    name = "scale-read-after-update"
    severity = Severity.MEDIUM
    impact = "The unscaled value is wrong by a factor of 2 at every step that changes the scale."
    risk = "None: training itself does not change."
    fix = "Keep the loss from before scale(), or read get_scale() before update()."
    words = ("get_scale",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every division of a scaled value by a scale that was updated in between."""
        for call in module.calls.get("get_scale", ()):
            place = key(receiver(call))
            update = _update_before(module, call, place) if place else None
            if update is None:
                continue
            for value in _divided_by(module, call):
                if _scaled_by(module, value, place or "", update):
                    what = module.segment(value, 30)
                    message = f"{what} is divided by {place}.get_scale() after update() (line {update.lineno})"
                    yield self.finding(module, call, message)


def _update_before(module: Module, call: ast.Call, place: str) -> ast.Call | None:
    """Return the update of the same scaler above the call, in the same function and pass."""
    function, loop = module.tree.function(call), next(module.tree.loops(call), None)
    for update in module.calls.get("update", ()):
        same = module.tree.function(update) is function and next(module.tree.loops(update), None) is loop
        if same and key(receiver(update)) == place and update.lineno < call.lineno:
            return update
    return None


def _divided_by(module: Module, call: ast.Call) -> Iterator[ast.expr]:
    """Walk what is divided by the call, directly or through a name that keeps it."""
    parent = module.tree.parents[call]
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Div) and parent.right is call:
        yield parent.left
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
        name = parent.targets[0].id
        for node in module.tree.all(ast.BinOp):
            right = node.right
            same = isinstance(right, ast.Name) and right.id == name and node.lineno > call.lineno
            if same and isinstance(node.op, ast.Div) and module.tree.scope(node) is module.tree.scope(call):
                yield node.left


def _scaled_by(module: Module, value: ast.expr, place: str, update: ast.Call) -> bool:
    """Whether a value came out of this scaler's `scale` before the update."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and called(value) != "scale":
        value = value.func.value
    values = module.names.values(value.id, value) if isinstance(value, ast.Name) else [value]
    return bool(values) and all(
        isinstance(v, ast.Call) and key(v.func) == f"{place}.scale" and v.lineno < update.lineno for v in values
    )
