"""`torch.cuda.is_bf16_supported()` taken for a promise of speed."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Edit, Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule

_BF16 = regex(r"bfloat16|bf16", re.IGNORECASE)
_CAPABILITY = regex(r"get_device_capability|including_emulation")


class EmulatedBf16(Rule):
    """bfloat16 is chosen by `torch.cuda.is_bf16_supported()`, which is true where it is only emulated.

    ## What it does
    Finds that call without `including_emulation=False` where its answer chooses bfloat16 as the dtype, in code that
    does not look at the device's compute capability either.

    ## Why is this bad
    On GPUs before Ampere (V100, T4) it is true as well: bfloat16 works there by emulation, slower than float32. The run
    that was to be faster is slower, without a word.

    ## Example
    ```python
    import torch

    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    ```

    ## Use instead
    ```python
    import torch

    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    ```

    ## Fix safety
    Old GPUs then run in float16, which needs a scaler.

    ## References
    - https://pytorch.org/docs/stable/generated/torch.cuda.is_bf16_supported.html
    """

    code = "AMP028"
    name = "emulated-bf16-taken-for-support"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "A GPU before Ampere runs bfloat16 by emulation, slower than float32."
    risk = "Low: such GPUs then take the other branch, which must be ready for float16."
    fix = "Ask torch.cuda.is_bf16_supported(including_emulation=False)."
    words = ("is_bf16_supported",)
    torch = ">=2.4"

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every such question whose answer chooses a dtype."""
        if _CAPABILITY.search(module.text):
            return
        for call in module.calls.get("is_bf16_supported", ()):
            names = module.names.dotted(call.func)
            if (
                "torch.cuda.is_bf16_supported" in names
                and not call.args
                and not call.keywords
                and _chooses(module, call)
            ):
                message = "is_bf16_supported() is true where bfloat16 is only emulated, and chooses the dtype here"
                yield self.finding(module, call, message, edit=_edit(module, call))


def _chooses(module: Module, call: ast.Call) -> bool:
    """Whether the answer selects bfloat16: in a conditional, or as a flag of that name."""
    for at in module.tree.above(call):
        if isinstance(at, ast.IfExp):
            return bool(_BF16.search(ast.unparse(at.body) + ast.unparse(at.orelse)))
        if isinstance(at, ast.If):
            return any(isinstance(s, ast.Assign) and _BF16.search(ast.unparse(s.value)) for s in (*at.body, *at.orelse))
        if isinstance(at, ast.Assign):
            return any(_BF16.search(ast.unparse(target)) for target in at.targets)
        if isinstance(at, ast.stmt):
            return False
    return False


def _edit(module: Module, call: ast.Call) -> Edit | None:
    line = module.lines[call.lineno - 1]
    if call.lineno != call.end_lineno or not line.isascii() or call.end_col_offset is None:
        return None
    new = line[: call.end_col_offset - 1] + "including_emulation=False" + line[call.end_col_offset - 1 :]
    return Edit(first_line=call.lineno, last_line=call.lineno, lines=(new,))
