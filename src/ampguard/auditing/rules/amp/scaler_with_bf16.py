"""A gradient scaler that is on while the only autocast computes in bfloat16."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, regions_in, truth
from ampguard.auditing.reading.tree import argument, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._steps import tests_above


class ScalerWithBf16(Rule):
    """A gradient scaler scales a loss that is computed in bfloat16.

    ## What it does
    Finds a `GradScaler` that is certainly on in a file whose every autocast region is certainly bfloat16. A scaler with
    `enabled=(dtype == torch.float16)`, or made only for float16, is what it should be.

    ## Why is this bad
    bfloat16 has the exponent range of float32, so there is nothing to scale. The scaler still multiplies, checks every
    gradient and waits for the answer, may skip steps that were fine, and raises for parameters kept in bfloat16.

    ## Example
    ```python
    import torch

    scaler = torch.amp.GradScaler("cuda")


    def train_step(model, optimizer, batch):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)


    def train_step(model, optimizer, batch):
        with torch.autocast("cuda", dtype=dtype):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Safe: with `enabled=False` every method of the scaler passes its work through. Checkpoints lose the scaler's state,
    which is then empty.

    ## References
    - https://pytorch.org/docs/stable/amp.html#gradient-scaling
    - https://github.com/pytorch/pytorch/issues/127176
    """

    code = "AMP021"
    name = "scaler-with-bf16"
    severity = Severity.MEDIUM
    impact = "Every step pays for scaling and a wait that bfloat16 does not need, and good steps may be skipped."
    risk = "Low: a scaler with enabled=False passes everything through."
    fix = "Give the scaler enabled=(dtype == torch.float16), or leave it out."
    words = ("bfloat16", "bf16")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every scaler that is on beside bfloat16 only."""
        if "GradScaler" not in module.text:
            return
        regions = [r for r in regions_in(module) if r.enabled is not False]
        if not regions or any(r.certain != "bfloat16" for r in regions) or not _scales(module):
            return
        for call in scaler_constructions(module):
            if _as_often(module, call, regions):
                message = f"the scaler is on, and autocast (line {regions[0].call.lineno}) computes in bfloat16"
                yield self.finding(module, call, message, critical_path=True)


def _scales(module: Module) -> bool:
    return any(is_scaler(module, receiver(c)) for c in module.calls.get("scale", ()))


def _as_often(module: Module, call: ast.Call, regions: list[Region]) -> bool:
    """Whether the scaler is on whenever autocast is: always, or by the same flag."""
    flag = argument(call, None, "enabled")
    conditions = [] if truth(module, flag) else [flag]
    conditions += [test for test, _ in tests_above(module, call)]
    flags = {_spelled(r.flag) for r in regions if r.flag is not None}
    return all(c is not None and {_spelled(c)} == flags for c in conditions)


def _spelled(flag: ast.expr) -> str:
    """Return a flag's spelling; `args.amp` in `__init__` and `self.args.amp` elsewhere are one."""
    return ast.unparse(flag).removeprefix("self.")
