"""Tests for convergence that half precision cannot answer."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.halves import WORDS, half, speaks_of_half
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, receiver
from ampguard.auditing.rules._base import Rule

_STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next number. Source: torch.finfo(dtype).eps."""

_NEVER = 2.0**-24
"""Smallest difference of two float16 numbers that differ."""


class HalfConvergenceComparison(Rule):
    """Half-precision values are compared more exactly than their format tells them apart.

    ## What it does

    Finds, for values that certainly are float16 or bfloat16: a loop that ends where two of them are equal, a
    difference that is compared with a tolerance below the format's step at 1 (0.001 in float16, 0.008 in bfloat16),
    and `torch.allclose` or `torch.isclose` with tolerances below it, as their defaults are.

    ## Why is this bad

    Near 1 float16 knows a number every 0.001. Two losses of training are then equal by rounding, and the loop stops
    early; or they jump by whole steps, and a tolerance of 1e-6 is never met unless they are equal.

    ## Example

    ```python
    import torch

    def iterate(step, x):
        x = x.half()
        while True:
            y = step(x).half()
            if (y - x).abs().max() < 1e-6:
                break
            x = y
        return x
    ```

    ## Use instead

    ```python
    import torch

    def iterate(step, x):
        x = x.float()
        while True:
            y = step(x).float()
            if (y - x).abs().max() < 1e-6:
                break
            x = y
        return x
    ```

    ## Fix safety

    Comparing in float32 costs nothing that matters, but values that were computed in half keep their steps: choose
    the tolerance by the format that computed them.

    ## References

    - https://docs.pytorch.org/docs/stable/type_info.html#torch.torch.finfo
    - https://docs.pytorch.org/docs/stable/generated/torch.allclose.html (rtol 1e-5, atol 1e-8)
    """

    code = "NUM003"
    name = "half-convergence-comparison"
    severity = Severity.LOW
    likelihood = "likely"
    impact = "The loop stops too early or never, depending on how the values are rounded."
    risk = "Low: the place decides when to stop, so its results change."
    fix = "Compare in float32, with a tolerance above the format's step."
    words = WORDS

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield comparisons of half values that end loops, and closeness tests."""
        if not speaks_of_half(module):
            return
        for node in module.tree.all(ast.Compare):
            if len(node.ops) == 1:
                yield from self._compared(module, node)
        for call in module.calls_of("allclose", "isclose"):
            yield from self._close(module, call)

    def _compared(self, module: Module, node: ast.Compare) -> Iterator[Finding]:
        left, op, right = node.left, node.ops[0], node.comparators[0]
        if isinstance(op, ast.Eq | ast.NotEq):
            dtype = half(module, _tensor(left)) if _ends_loop(module, node) else None
            if dtype is not None and half(module, _tensor(right)) == dtype:
                yield self.finding(
                    module, node, f"`{module.segment(node)}` ends the loop where two {dtype} values are equal"
                )
        elif isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            difference, bound = (left, right) if isinstance(op, ast.Lt | ast.LtE) else (right, left)
            if _is_difference(difference):
                yield from self._tolerance(module, node, difference, number(module, bound, defaults=True))

    def _tolerance(
        self, module: Module, node: ast.Compare, difference: ast.expr, tolerance: float | None
    ) -> Iterator[Finding]:
        dtype = half(module, _tensor(difference)) if tolerance is not None and tolerance > 0 else None
        if dtype is None or tolerance is None or tolerance >= _STEP[dtype]:
            return
        never = dtype == "float16" and tolerance < _NEVER
        yield self.finding(
            module,
            node,
            f"`{module.segment(node)}`: {dtype} values near 1 differ by {_STEP[dtype]:g} or not at all",
            severity=Severity.MEDIUM if never else Severity.LOW,
        )

    def _close(self, module: Module, call: ast.Call) -> Iterator[Finding]:
        if not any(d.startswith("torch.") for d in module.names.dotted(call.func)) or len(call.args) < 2:
            return
        dtype = half(module, call.args[0])
        if dtype is None or half(module, call.args[1]) != dtype:
            return
        relative, absolute = argument(call, 2, "rtol"), argument(call, 3, "atol")
        bounds = [
            1e-5 if relative is None else number(module, relative),
            1e-8 if absolute is None else number(module, absolute),
        ]
        if all(b is not None and b < _STEP[dtype] for b in bounds):
            what = module.segment(call)
            yield self.finding(module, call, f"`{what}` asks for more than {dtype} tells apart ({_STEP[dtype]:g} at 1)")


def _tensor(node: ast.expr) -> ast.expr:
    """Return the tensor whose value a number is: `x` of `x.item()`, `float(x)`, `abs(x)`."""
    if isinstance(node, ast.Call):
        if called(node) == "item" and receiver(node) is not None:
            return _tensor(receiver(node))  # type: ignore[arg-type]
        if called(node) in ("float", "abs") and receiver(node) is None and node.args:
            return _tensor(node.args[0])
    return node


def _is_difference(node: ast.expr) -> bool:
    """Whether the expression measures how far two things are apart: `(a - b).abs().max()`, `abs(a - b)`."""
    while isinstance(node, ast.Call):
        inner = receiver(node) if called(node) in ("abs", "max", "mean", "norm", "item", "sum") else None
        if inner is None or isinstance(inner, ast.Name):
            inner = node.args[0] if node.args else inner
        if inner is None:
            return False
        node = inner
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)


def _ends_loop(module: Module, node: ast.Compare) -> bool:
    """Whether the comparison decides that a loop goes on: the test of a `while`, or of an `if` that leaves a loop."""
    at = module.tree.parents.get(node)
    while isinstance(at, ast.BoolOp | ast.UnaryOp | ast.Call | ast.Attribute):
        at = module.tree.parents.get(at)
    if isinstance(at, ast.While):
        return True
    return isinstance(at, ast.If) and leaves(at.body) and next(module.tree.loops(at), None) is not None
