"""The device synchronised, or its cache emptied, at every step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.syncs._hot import per_loop
from ampguard.auditing.rules.syncs._loops import judging_loop


class SynchronizeEveryStep(Rule):
    """`torch.cuda.synchronize()` or `empty_cache()` is called at every step.

    ## What it does

    Looks in loops that take a training step, and in loops without gradients as evaluations have, for both calls, on
    any accelerator, without a condition around them.

    ## Why is this bad

    `synchronize` waits for the device. `empty_cache` does so as well, gives the allocator's memory back and lets it
    ask the driver for it again: milliseconds each, and it frees nothing that the step itself could not use.

    ## Example

    ```python
    import torch

    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            torch.cuda.empty_cache()
    ```

    ## Use instead

    ```python
    import torch

    def train(model, optimizer, batches):
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
        torch.cuda.empty_cache()
    ```

    ## Fix safety

    Safe, unless a measurement of time needs the synchronisation: use CUDA events there. Where memory is so short that
    fragments matter, set `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`.

    ## References

    - The PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization"
    """

    code = "SYN004"
    name = "synchronize-every-step"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The host waits for the device at every step; emptying the cache also slows the next one down."
    risk = "Low: only what is shown, and when, changes."
    fix = "Leave it out, or do it once an epoch."
    words = ("synchronize", "empty_cache")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first such place of each training loop."""

        def say(node: ast.AST, more: str) -> Finding:
            return self.finding(module, node, f"`{module.segment(node)}` runs at every step{more}")

        calls = (c for c in module.calls_of("synchronize", "empty_cache") if _is_torch(module, c))
        yield from per_loop(module, calls, say, lambda node: judging_loop(module, node))


def _is_torch(module: Module, call: ast.Call) -> bool:
    return any(name.startswith("torch.") for name in module.names.dotted(call.func))
