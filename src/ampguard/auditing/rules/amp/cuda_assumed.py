"""A training script that only runs where there is CUDA, and does not say so."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._steps import RUNNERS

_ASKS = re.compile(
    r"is_available|device_count|--device|--gpu|--cuda|--no.?cuda|['\"]cpu|LOCAL_RANK|init_process_group|local_rank"
    r"|current_accelerator|get_device|device_type|CUDA_VISIBLE|\.accelerator|torch\.device\([a-z]"
)
"""A file with one of these asks for the device, is told it, or is started by a launcher for GPUs."""


class CudaAssumed(Rule):
    """A training script names "cuda" outright and never asks whether it is there.

    ## What it does
    Finds the first `.cuda()`, `.to("cuda")`, `GradScaler("cuda")` or `autocast("cuda")` of a script that trains, where
    nothing in the file asks for the device, takes it as an option, or falls back. Once a file.

    ## Why is this bad
    On a machine without CUDA the script stops deep inside torch instead of with a sentence, after it has loaded what it
    needed; nobody can try it on a laptop or in CI.

    ## Example
    ```python
    import torch


    def main():
        model = torch.nn.Linear(8, 1).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 8).cuda()).mean().backward()
        optimizer.step()


    if __name__ == "__main__":
        main()
    ```

    ## Use instead
    ```python
    import torch


    def main():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = torch.nn.Linear(8, 1).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 8).to(device)).mean().backward()
        optimizer.step()


    if __name__ == "__main__":
        main()
    ```

    ## Fix safety
    Safe. Where a CPU is no use, check for CUDA at the start and say so.

    ## References
    - https://pytorch.org/docs/stable/notes/cuda.html#device-agnostic-code
    """

    code = "AMP030"
    name = "cuda-assumed"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "Without CUDA the script stops deep inside torch instead of with a sentence."
    risk = "None: the device is the same where CUDA is there."
    fix = "Choose the device by torch.cuda.is_available(), or check for CUDA first and say what is missing."
    words = ("__main__",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first place of a script that takes CUDA for granted."""
        text = module.text
        if "cuda" not in text or ".backward(" not in text or _ASKS.search(text) or module.mentions(RUNNERS):
            return
        if module.role in ("test", "benchmark"):
            return
        places = sorted((c for c in _demands(module)), key=lambda c: (c.lineno, c.col_offset))
        if places:
            more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
            message = f"{module.segment(places[0], 40)} needs CUDA, and nothing here asks whether it is there{more}"
            yield self.finding(module, places[0], message)


def _demands(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that fail without CUDA."""
    for call in module.calls.get("cuda", ()):
        if isinstance(call.func, ast.Attribute):
            yield call
    for call in module.calls_of("to", "device", "GradScaler", "autocast"):
        first = argument(call, 0, "device")
        given = isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.startswith("cuda")
        if given and called(call) != "autocast":
            yield call
