"""Constants that float16 cannot hold."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.halves import WORDS, half, speaks_of_half
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, receiver
from ampguard.auditing.rules._base import Rule

_MAX = 65504.0
"""Greatest finite float16. Source: torch.finfo(torch.float16).max."""

_VALUES = {"masked_fill": 1, "masked_fill_": 1, "fill_": 0, "new_full": 1, "full_like": 1}
"""Calls that write a constant into a tensor, and where it stands among the arguments."""


class ConstantOutsideFp16Range(Rule):
    """A constant beyond 65504 is put into a float16 tensor.

    ## What it does

    Finds masks and other constants whose size is beyond float16's greatest number, 65504, where the tensor certainly
    is float16: cast or made so, or a matrix product inside a float16 autocast region (also in a function of the file
    that is called inside one). bfloat16 has float32's range and is left alone; `float("-inf")` is a float16 number.

    ## Why is this bad

    `masked_fill(mask, -1e9)` and `fill_(1e10)` raise "value cannot be converted to type Half without overflow" on a
    float16 tensor. `scores + mask * -1e9` becomes -inf without a word, and a row of which every entry is masked is
    then NaN after softmax. Code that was written for float32 or bfloat16 fails so on the first float16 run.

    ## Example

    ```python
    import torch

    def attend(query, key, value, mask):
        with torch.autocast("cuda", dtype=torch.float16):
            scores = torch.matmul(query, key.transpose(-2, -1))
            scores = scores.masked_fill(mask, -1e9)
            return torch.matmul(scores.softmax(-1), value)
    ```

    ## Use instead

    ```python
    import torch

    def attend(query, key, value, mask):
        with torch.autocast("cuda", dtype=torch.float16):
            scores = torch.matmul(query, key.transpose(-2, -1))
            scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
            return torch.matmul(scores.softmax(-1), value)
    ```

    ## Fix safety

    `torch.finfo(x.dtype).min` gives the same softmax as -1e9 wherever a row has one entry that is not masked.

    ## References

    - https://docs.pytorch.org/docs/stable/type_info.html#torch.torch.finfo
    - https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
    """

    code = "NUM004"
    name = "constant-outside-fp16-range"
    severity = Severity.MEDIUM
    likelihood = "likely"
    impact = "An overflow error, or -inf and then NaN in fully masked rows, as soon as this runs in float16."
    risk = "Low: the constant stands for 'masked out', and the dtype's own minimum says the same."
    fix = "Take the bound from the tensor: `torch.finfo(x.dtype).min`."
    words = WORDS

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield constants written into, added to or multiplied with float16 tensors."""
        if not speaks_of_half(module):
            return
        for call in module.calls_of(*_VALUES):
            tensor = call.args[0] if called(call) == "full_like" and call.args else receiver(call)
            value = argument(call, _VALUES[called(call)], "value")
            if tensor is not None and self._is_beyond(module, value) and half(module, tensor) == "float16":
                yield self._found(module, call, tensor, value, "raises there: it cannot be converted")
        for node in module.tree.all(ast.BinOp):
            if isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
                yield from self._combined(module, node)

    def _combined(self, module: Module, node: ast.BinOp) -> Iterator[Finding]:
        for tensor, value in ((node.left, node.right), (node.right, node.left)):
            if self._is_beyond(module, value) and half(module, tensor) == "float16":
                yield self._found(module, node, tensor, value, "becomes inf there")

    def _is_beyond(self, module: Module, node: ast.expr | None) -> bool:
        value = number(module, node)
        return value is not None and _MAX < abs(value) < float("inf")

    def _found(self, module: Module, node: ast.expr, tensor: ast.expr, value: ast.expr | None, outcome: str) -> Finding:
        what = module.segment(value, 20) if value is not None else "the constant"
        return self.finding(
            module, node, f"`{module.segment(tensor, 40)}` is float16, whose range ends at 65504; {what} {outcome}"
        )
