"""Logarithms, roots and divisions in half precision that meet a zero."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.given import flow_of, values_given
from ampguard.auditing.reading.halves import (
    FLOAT32_UNDER_AUTOCAST,
    WORDS,
    autocast_around,
    half,
    lowers,
    speaks_of_half,
)
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.reaching import reaching
from ampguard.auditing.reading.tree import argument, called, key, receiver
from ampguard.auditing.rules._base import Rule

_LOST = 2.0**-25
"""What float16 rounds to zero: half of its smallest number, 2 ** -24, rounds to even. Measured with torch 2.13."""

_SENSITIVE = ("log", "log2", "log10", "sqrt", "rsqrt", "reciprocal")
_MAY_BE_ZERO = frozenset({"softmax", "sigmoid", "relu", "abs", "square", "norm", "sum", "std", "var", "amax", "exp"})
_OPTIMIZERS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
_MASTERS = ("FP16_Optimizer", "amp.initialize", "deepspeed", "master_param")
"""Words of files in which something else keeps float32 copies of the parameters."""


class HalfPrecisionWithoutEpsilon(Rule):
    """A logarithm, root or division of a half-precision tensor meets a zero that no epsilon keeps away.

    ## What it does

    Finds, for tensors that certainly are float16: `log`, `rsqrt` and divisions of what can be zero (a softmax, a
    norm, a sum, a standard deviation) without an epsilon; an epsilon that rounds to zero, such as `1e-8`, also in
    `clamp(min=1e-12)`; and Adam over `.half()` parameters with an epsilon that rounds to zero, as the default does.
    Under autocast `log`, `exp`, `pow`, `sum`, `norm`, `rsqrt` and `1 / x` run in float32 and are left alone, but
    `x + 1e-8` before them is still computed in float16.

    ## Why is this bad

    The smallest number of float16 is 6e-8. Probabilities and squares below it are zero, and so is an epsilon of 1e-8:
    `log(x + 1e-8)` is -inf, `x / (x.std() + 1e-8)` NaN, and Adam divides 0 by 0 on the first step of every parameter
    whose gradient is zero.

    ## Example

    ```python
    import torch

    def entropy(logits):
        p = logits.half().softmax(-1)
        return -(p * torch.log(p + 1e-8)).sum(-1)
    ```

    ## Use instead

    ```python
    import torch

    def entropy(logits):
        logp = logits.float().log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)
    ```

    ## Fix safety

    Computing in float32 is exact and costs memory for the tensor in question; a greater epsilon (1e-4) changes
    results near zero.

    ## References

    - https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
    - https://docs.pytorch.org/docs/stable/type_info.html#torch.torch.finfo
    """

    code = "NUM002"
    name = "half-precision-without-epsilon"
    severity = Severity.MEDIUM
    likelihood = "likely"
    impact = "inf or NaN in the loss or the weights as soon as one entry is zero."
    risk = "Low: results change only where they are inf or NaN today, or in their last digits."
    fix = "Compute this in float32 (`x.float()`), or take an epsilon that the dtype holds, such as 1e-4."
    words = WORDS

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield sensitive operations and optimizers in half precision."""
        if not speaks_of_half(module):
            return
        for call in module.calls_of(*_SENSITIVE):
            tensor = _subject(module, call)
            if tensor is not None:
                free = called(call) in FLOAT32_UNDER_AUTOCAST and lowers(autocast_around(module, call)) is not None
                yield from self._operand(module, call, tensor, named=f"{called(call)}()", float32=free)
        for node in module.tree.all(ast.BinOp):
            if isinstance(node.op, ast.Div):
                yield from self._operand(module, node, node.right, named="the division", float32=False)
        for call in module.calls_of(*_OPTIMIZERS):
            yield from self._optimizer(module, call)

    def _operand(
        self, module: Module, node: ast.expr, tensor: ast.expr, *, named: str, float32: bool
    ) -> Iterator[Finding]:
        inner, eps = _with_epsilon(module, tensor)
        if eps is not None:
            if abs(eps) <= _LOST and half(module, inner) == "float16":
                what = module.segment(tensor, 40)
                yield self.finding(module, node, f"the {eps:g} in `{what}` is 0 in float16, and {named} meets a zero")
            return
        dtype = None if float32 or named == "sqrt()" or not _may_be_zero(module, tensor) else half(module, tensor)
        if dtype == "float16":  # bfloat16 reaches as near to zero as float32
            what = module.segment(tensor, 40)
            yield self.finding(module, node, f"{named} of `{what}`, which is float16 and may be 0, has no epsilon")

    def _optimizer(self, module: Module, call: ast.Call) -> Iterator[Finding]:
        if not any(d.startswith("torch.optim.") for d in module.names.dotted(call.func)) or module.mentions(_MASTERS):
            return
        model = _model_of(call)
        given = argument(call, 3, "eps")
        eps = 1e-8 if given is None else number(module, given)
        if model is None or eps is None or eps > _LOST or not _is_half_model(module, model, call):
            return
        yield self.finding(
            module,
            call,
            f"{called(call)} over the float16 parameters of `{module.segment(model)}`: its eps {eps:g} is 0 in float16",
            impact="The first step divides 0 by 0: every parameter whose gradient is zero becomes NaN.",
            fix="Keep the parameters in float32 and use autocast, or give an eps of 1e-4.",
        )


def _subject(module: Module, call: ast.Call) -> ast.expr | None:
    dotted = module.names.dotted(call.func)
    if any(d.startswith("torch.") for d in dotted):
        return call.args[0] if call.args else None
    if any(d.split(".")[0] in ("math", "numpy", "np") for d in dotted):
        return None
    return receiver(call)


def _with_epsilon(module: Module, node: ast.expr) -> tuple[ast.expr, float | None]:
    """Return the tensor without what keeps it from zero, and that number where it is known; inf where it is not."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for tensor, added in ((node.left, node.right), (node.right, node.left)):
            eps = number(module, added, defaults=True)
            if eps is not None:
                return tensor, eps
        return node, float("inf") if half(module, node.left) is None or half(module, node.right) is None else None
    if isinstance(node, ast.Call) and called(node) in ("clamp", "clamp_min", "clip", "clamp_", "clamp_min_"):
        given = argument(node, 0, "min")
        clamped = receiver(node)
        if given is not None and clamped is not None:
            least = number(module, given, defaults=True)
            return clamped, float("inf") if least is None else least
    return node, None


def _may_be_zero(module: Module, node: ast.expr) -> bool:
    """Whether the value is of a kind that is zero now and then: a softmax, a norm, a sum of squares, a spread."""
    if isinstance(node, ast.Call):
        return called(node) in _MAY_BE_ZERO and not (called(node) == "exp" and receiver(node) is None)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Pow) or (isinstance(node.op, ast.Sub) and half(module, node.right) is not None)
    place = key(node)
    if place is None or not any(_is_call_of_zero(v) for v in values_given(module, place, flow_of(module, node))):
        return False
    definitions = reaching(module, (place,), node)
    values = [d.value for d in definitions if d.kind == "assign" and d.value is not None]
    return bool(values) and len(values) == len(definitions) and all(_is_call_of_zero(v) for v in values)


def _is_call_of_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and called(node) in _MAY_BE_ZERO


def _model_of(call: ast.Call) -> ast.expr | None:
    """Return `net` of `Adam(net.parameters())`."""
    first = argument(call, 0, "params")
    return receiver(first) if isinstance(first, ast.Call) and called(first) == "parameters" else None


def _is_half_model(module: Module, model: ast.expr, at: ast.Call) -> bool:
    """Whether the last thing done to the model's dtype before the optimizer is `.half()`."""
    place, scope = key(model), module.tree.scope(at)
    casts = [
        call
        for call in module.calls_of("half", "float", "double", "bfloat16")
        if not call.args
        and call.lineno <= at.lineno
        and module.tree.scope(call) is scope
        and _concerns(module, call, place)
    ]
    return (
        bool(casts)
        and called(max(casts, key=lambda c: (c.lineno, c.col_offset))) == "half"
        and not _in_branch(module, casts[-1], at)
    )


def _concerns(module: Module, call: ast.Call, place: str | None) -> bool:
    if place is None:
        return False
    statement = module.tree.statement(call)
    if isinstance(statement, ast.Assign) and statement.value is call:
        return any(key(t) == place for t in statement.targets)
    return isinstance(statement, ast.Expr) and statement.value is call and key(receiver(call)) == place


def _in_branch(module: Module, cast: ast.Call, at: ast.Call) -> bool:
    """Whether the cast stands under a condition that the optimizer does not stand under."""
    branch = module.tree.nearest(cast, ast.If)
    return branch is not None and not module.tree.inside(at, branch)
