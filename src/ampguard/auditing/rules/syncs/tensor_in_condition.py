"""A condition on a tensor at every step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import is_tensor
from ampguard.auditing.reading.tree import called, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.syncs._forward import asked_in_forward
from ampguard.auditing.rules.syncs._hot import per_loop, tensors_at

_STEPS = ("backward", "step(")


class TensorInCondition(Rule):
    """An `if` asks a tensor of the training step at every step.

    ## What it does

    Looks in loops that take a training step for conditions that compare such a tensor, or ask `isnan`, `isfinite`,
    `any()` or `all()` of it; `if mask.any()` also in the `forward` of a module.

    ## Why is this bad

    The host waits until the device has finished all that is queued, and the device then waits for the next kernels.
    What it costs depends on the step: under one percent for long steps, most of the time for short ones.

    ## Example

    ```python
    import torch

    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            if torch.isnan(loss):
                raise RuntimeError("the loss is not a number")
            loss.backward()
            optimizer.step()
    ```

    ## Use instead

    ```python
    import torch

    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            torch._assert_async(torch.isfinite(loss))
            loss.backward()
            optimizer.step()
    ```

    ## Fix safety

    A check for NaN is worth a wait to many: this is a note, no fault. `torch.where` keeps choices on the device.

    ## References

    - The PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization"
    """

    code = "SYN005"
    name = "tensor-in-condition"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The host waits for the device at every step to know how to go on."
    risk = "Low: only what is shown, and when, changes."
    fix = "Keep the choice on the device (`torch.where`, `torch._assert_async`), or ask every so many steps."
    words = (*_STEPS, ".any()", ".all()")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first of such places that stand together in a training loop."""

        def say(node: ast.AST, more: str) -> Finding:
            return self.finding(module, node, f"`{module.segment(node)}` asks a tensor at every step{more}")

        steps = module.mentions(_STEPS)
        tests = [node.test for node in module.tree.all(ast.If, ast.While, ast.Assert)] if steps else []
        asked = [test for test in tests if _asks_tensor(test, tensors_at(module, test))]
        yield from per_loop(module, dict.fromkeys((*asked, *asked_in_forward(module))), say)


def _asks_tensor(test: ast.expr, names: frozenset[str]) -> bool:
    if isinstance(test, ast.BoolOp):
        return any(_asks_tensor(value, names) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return _asks_tensor(test.operand, names)
    if isinstance(test, ast.Compare):
        ordered = all(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE | ast.Eq | ast.NotEq) for op in test.ops)
        return ordered and any(is_tensor(side, names) for side in (test.left, *test.comparators))
    if not isinstance(test, ast.Call):
        return False
    if called(test) in ("isnan", "isinf", "isfinite", "allclose", "equal"):
        return any(is_tensor(value, names) for value in (*test.args, receiver(test)) if value is not None)
    owner = receiver(test)
    return called(test) in ("any", "all") and owner is not None and is_tensor(owner, names)
