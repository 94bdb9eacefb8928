"""A gradient scaler that is on while the only autocast computes in bfloat16."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, flag_words, regions_in, truth
from ampguard.auditing.reading.tree import argument, called, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._asking_dtypes import holds_for_bf16, only_asks_for_any
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_EITHER = frozenset({"bfloat16", "float16"})
_NONE = frozenset({"float32"})
"""What autocast is not entered for, or does nothing for: no reason to scale either."""

_COMMON = frozenset({"torch", "self", "cuda", "cfg", "args", "config", "bfloat16", "float16", "device"})
_PRECISION = re.compile(r"dtype|half|fp_?16|bf_?16|float_?16|precision", re.IGNORECASE)
_KNOWN = frozenset({"bool", "is_available"})


class ScalerWithBf16(Rule):
    """A gradient scaler scales a loss that is computed in bfloat16.

    ## What it does
    Finds a `GradScaler` that is certainly on in a file whose every autocast region is certainly bfloat16. A scaler with
    `enabled=(dtype == torch.float16)`, or made only for float16, is what it should be. Where the dtype is chosen
    between the two and the scaler does not ask which, the finding is low. A scaler whose own condition switches it on
    for bfloat16, as `enabled=dtype in ("float16", "bfloat16")` does, is found wherever autocast is.

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
    words = ("GradScaler",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every scaler that is on beside bfloat16 only."""
        if not _scales(module):
            return
        regions = _of_training(module)
        certain = bool(regions) and all(r.dtypes - _NONE == {"bfloat16"} for r in regions)
        either = bool(regions) and all(r.dtypes - _NONE == _EITHER for r in regions)
        for call in scaler_constructions(module):
            asked = None if certain else _asks_for_bf16(module, call)
            if asked is not None:
                message = f"{module.segment(asked, 60)} switches the scaler on for bfloat16 too"
                yield self.finding(module, call, message, critical_path=True)
            elif either and _whatever_dtype(module, call, regions):
                message = (
                    f"the scaler is made for bfloat16 too, which autocast (line {regions[0].call.lineno}) may take"
                )
                yield self.finding(
                    module, call, message, severity=Severity.LOW, likelihood="possible", critical_path=True
                )
            if certain and _as_often(module, call, regions):
                message = f"the scaler is on, and autocast (line {regions[0].call.lineno}) computes in bfloat16"
                yield self.finding(module, call, message, critical_path=True)


def _asks_for_bf16(module: Module, call: ast.Call) -> ast.expr | None:
    """Return the condition of a scaler that holds for bfloat16, where no other one keeps it from that; else None."""
    flag = argument(call, None, "enabled")
    asked = [(flag, True)] if flag is not None else []
    asked += list(tests_above(module, call))
    said = [(test, holds_for_bf16(module, test), inside) for test, inside in asked]
    if any(answer is not None and answer != inside for _, answer, inside in said):
        return None
    return next((test for test, answer, inside in said if answer and inside), None)


def _of_training(module: Module) -> list[Region]:
    """Return the regions of the functions that train, where there are some, else all that are not off."""
    regions = [r for r in regions_in(module) if r.enabled is not False]
    training = {enclosing(module, c) for c in module.calls_of("backward", "scale")}
    return [r for r in regions if enclosing(module, r.call) in training] or regions


def _whatever_dtype(module: Module, call: ast.Call, regions: list[Region]) -> bool:
    """Whether neither the scaler nor its use depends on what the dtype of the regions depends on."""
    flag = argument(call, None, "enabled")
    conditions = [] if flag is None else [flag]
    conditions += [test for test, _ in tests_above(module, call)]
    for use in module.calls.get("scale", ()):
        conditions += [test for test, _ in tests_above(module, use)]
    if truth(module, flag) is False or not all(_plain(c) for c in conditions):
        return False
    dtypes = [d for r in regions if (d := _dtype_given(module, r)) is not None]
    given = frozenset((key(d) or "").split(".")[-1].strip("_") for d in dtypes)
    asked = frozenset().union(*(flag_words(module, c) for c in conditions if not only_asks_for_any(c, given)))
    chosen = frozenset().union(*(flag_words(module, d) for d in dtypes)) - _COMMON
    return not asked & chosen and not any(_PRECISION.search(word) for word in asked)


def _dtype_given(module: Module, region: Region) -> ast.expr | None:
    if region.call not in module.tree.parents:
        return None
    return next((k.value for k in region.call.keywords if k.arg == "dtype"), None) or argument(region.call, 1, "dtype")


def _plain(condition: ast.expr) -> bool:
    """Whether a condition can be read: it calls nothing that may know of the dtype."""
    return all(called(at) in _KNOWN for at in ast.walk(condition) if isinstance(at, ast.Call))


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
