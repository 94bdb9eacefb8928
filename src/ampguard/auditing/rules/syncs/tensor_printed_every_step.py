"""A tensor printed at every step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import is_tensor
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.syncs._hot import per_loop, tensors_at


class TensorPrintedEveryStep(Rule):
    """A tensor of the training step is printed or put into a message at every step.

    ## What it does

    Looks in loops that take a training step for `print`, progress bars and loggers that are given such a tensor as
    it is, also inside an f-string, without a condition around them.

    ## Why is this bad

    The host waits until the device has finished all that is queued, and the device then waits for the next kernels.
    What it costs depends on the step: under one percent for long steps, most of the time for short ones.
    Printing also formats, and a terminal is slow.

    ## Example

    ```python
    def train(model, optimizer, batches):
        for step, batch in enumerate(batches):
            loss = model(batch)
            loss.backward()
            optimizer.step()
            print(f"step {step}: loss {loss}")
    ```

    ## Use instead

    ```python
    def train(model, optimizer, batches):
        for step, batch in enumerate(batches):
            loss = model(batch)
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                print(f"step {step}: loss {loss.item():.4f}")
    ```

    ## Fix safety

    Safe: fewer lines are shown.

    ## References

    - The PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization"
    """

    code = "SYN002"
    name = "tensor-printed-every-step"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The host waits for the device at every step, and for the terminal."
    risk = "Low: only what is shown, and when, changes."
    fix = "Print every so many steps."
    words = ("backward", "step(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first such place of each training loop."""

        def say(node: ast.AST, more: str) -> Finding:
            return self.finding(module, node, f"`{module.segment(node)}` shows a tensor at every step{more}")

        shows = ("print", "set_postfix", "set_description", "set_postfix_str", "info", "debug")
        yield from per_loop(module, (c for c in module.calls_of(*shows) if _shows_tensor(module, c)), say)


def _shows_tensor(module: Module, call: ast.Call) -> bool:
    names = tensors_at(module, call)
    given = [*call.args, *(k.value for k in call.keywords)]
    for value in [*given, *(v for g in given if isinstance(g, ast.Dict) for v in g.values)]:
        inside = value.values if isinstance(value, ast.JoinedStr) else [value]
        if any(is_tensor(v.value if isinstance(v, ast.FormattedValue) else v, names) for v in inside):
            return True
    return False
