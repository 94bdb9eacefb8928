"""The micro-batches behind the last multiple of k."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._accumulation import Accumulation, accumulations, names_k
from ampguard.auditing.rules.amp._steps import RUNNERS, enclosing


class LastGroupMisScaled(Rule):
    """A loop over a data loader steps at every multiple of k only, so what is left at its end is not stepped.

    ## What it does
    Finds accumulation whose step stands under `(i + 1) % k == 0` alone, in a loop over a loader, with no step behind
    the loop, no test of the last batch, and no cut of the loader to a multiple of k.

    ## Why is this bad
    Where the number of batches is no multiple of k, the gradients of the last ones are either thrown away or added to
    the first group of the next epoch, which then weighs more than the others.

    ## Example
    ```python
    def train(model, loader, optimizer, k):
        for i, batch in enumerate(loader):
            (model(batch).mean() / k).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, loader, optimizer, k):
        for i, batch in enumerate(loader):
            (model(batch).mean() / k).backward()
            if (i + 1) % k == 0 or i + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Fix safety
    Adds one short step an epoch. Divide its loss by the number of batches that it really holds.

    ## References
    - https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation
    """

    code = "AMP026"
    name = "last-group-mis-scaled"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "The last micro-batches of an epoch are lost, or make the next group weigh more."
    risk = "Low: one more step an epoch."
    fix = "Step at the last batch too, and divide that group's loss by its own length."
    words = ("%",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every accumulation that forgets the end of the loader."""
        if "backward" not in module.text or module.mentions(RUNNERS):
            return
        seen: set[ast.AST] = set()
        for found in accumulations(module):
            if found.test is None or found.test in seen or not _forgets_the_end(module, found):
                continue
            seen.add(found.test)
            k = module.segment(found.count, 40)
            over = module.segment(found.loop.iter, 40) if isinstance(found.loop, ast.For) else "the loop"
            message = f"the step comes at multiples of {k} only; what {over} holds beyond the last one is not stepped"
            yield self.finding(module, found.test, message, end=found.test.test)


def _forgets_the_end(module: Module, found: Accumulation) -> bool:
    test = found.test
    if test is None or not isinstance(found.loop, ast.For) or not _over_a_loader(found.loop.iter):
        return False
    plain = test.test if not isinstance(test.test, ast.Name) else module.names.values(test.test.id, test.test)[-1]
    if not isinstance(plain, ast.Compare) or "%" not in ast.unparse(plain):
        return False
    around = enclosing(module, found.backward)
    later = [c for c in module.calls.get("step", ()) if c.lineno > (found.loop.end_lineno or 0)]
    if any(enclosing(module, c) is around for c in later):
        return False
    return not any(
        isinstance(n, ast.BinOp) and isinstance(n.op, ast.FloorDiv) and names_k(n.right, found.count)
        for n in ast.walk(around)
    )


def _over_a_loader(over: ast.expr) -> bool:
    """Whether a loop walks a collection whose length may be anything: not a `range` of steps, not an endless count."""
    while isinstance(over, ast.Call) and called(over) in ("enumerate", "tqdm", "track") and over.args:
        over = over.args[0]
    if isinstance(over, ast.Call):
        return False
    return "load" in ast.unparse(over).lower() or "data" in ast.unparse(over).lower()
