"""Which tensors are certainly in half precision: made or cast so, or computed so inside an autocast region.

A tensor is half where every definition that reaches it says so. Autocast lowers matrix products and convolutions; it
runs logarithms, exponentials, powers, sums, norms and losses in float32 (`FLOAT32_UNDER_AUTOCAST`), and leaves the
rest in the dtype that comes in. Regions count for the functions of the same file that are called inside them too.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned, class_of_object, constructed, method, target
from ampguard.auditing.reading.given import flow_of, values_given
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.number_types import is_number
from ampguard.auditing.reading.precision import Region, dtypes_of, region_around, regions_in
from ampguard.auditing.reading.reaching import Definition, reaching
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk

WORDS = ("half", "float16", "autocast")
"""A file that holds none of these says nothing of half precision."""

FLOAT32_UNDER_AUTOCAST = frozenset(
    {"acos", "asin", "binary_cross_entropy_with_logits", "cosh", "cosine_embedding_loss", "cdist", "cross_entropy"}
    | {"cosine_similarity", "cumprod", "cumsum", "dist", "erfinv", "exp", "expm1", "group_norm", "kl_div", "l1_loss"}
    | {"hinge_embedding_loss", "layer_norm", "log", "log10", "log_softmax", "log1p", "log2", "margin_ranking_loss"}
    | {"mse_loss", "nll_loss", "norm", "normalize", "pdist", "poisson_nll_loss", "pow", "prod", "reciprocal", "rsqrt"}
    | {"sinh", "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus", "sum", "renorm", "tan", "norm"}
    | {"triplet_margin_loss", "multi_margin_loss", "multilabel_margin_loss", "logsumexp", "huber_loss"}
)
"""Source: docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast to float32"; `1 / x` and `x ** y` too."""

_LOWERED = frozenset(
    {"matmul", "bmm", "mm", "mv", "baddbmm", "addmm", "addbmm", "einsum", "linear", "conv1d", "conv2d", "conv3d"}
    | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "scaled_dot_product_attention", "multi_dot"}
)
_MADE = frozenset(
    {"zeros", "ones", "empty", "full", "rand", "randn", "tensor", "as_tensor", "arange", "zeros_like", "ones_like"}
    | {"randn_like", "rand_like", "full_like", "empty_like"}
)
_KEEPS = frozenset(
    {
        "abs",
        "relu",
        "sigmoid",
        "tanh",
        "sqrt",
        "view",
        "reshape",
        "permute",
        "transpose",
        "contiguous",
        "clone",
        "detach",
    }
    | {"squeeze", "unsqueeze", "flatten", "masked_fill", "masked_fill_", "clamp", "clamp_min", "mean", "max", "amax"}
    | {
        "min",
        "amin",
        "std",
        "var",
        "square",
        "cuda",
        "cpu",
        "expand",
        "repeat",
        "neg",
        "div",
        "add",
        "mul",
        "sub",
        "tril",
    }
    | {"triu", "requires_grad_", "item", "square_", "clamp_", "softmax"}
)
_MOVES = ("cuda", "cpu", "to", "half", "float", "train", "eval")
_DTYPES = ("half", "float16", "bfloat16")
_DEPTH = 8
_CALLED_DEPTH = 3


def half(module: Module, node: ast.expr, *, depth: int = 0) -> str | None:
    """Return "float16" or "bfloat16" where the tensor certainly is in that precision, else None."""
    if depth > _DEPTH or not speaks_of_half(module):
        return None
    if isinstance(node, ast.Call):
        return _called(module, node, depth)
    if isinstance(node, ast.BinOp):
        return _binary(module, node, depth)
    if isinstance(node, ast.UnaryOp | ast.Subscript):
        inner = node.operand if isinstance(node, ast.UnaryOp) else node.value
        if key(node) is None:
            return half(module, inner, depth=depth + 1)
    place = key(node)
    return _defined(module, place, node, depth) if place is not None else None


def speaks_of_half(module: Module) -> bool:
    """Whether the file casts to half, makes tensors so, or opens an autocast region; without that none is half."""
    return module.once("speaks of half", lambda: _speaks_of_half(module))


def _speaks_of_half(module: Module) -> bool:
    if any(not call.args for call in module.calls_of("half", "bfloat16")):
        return True
    named = module.tree.all(ast.Attribute)
    if any(node.attr in _DTYPES and module.names.stands_for(node, f"torch.{node.attr}") for node in named):
        return True
    return module.mentions(("autocast",)) and any(lowers(region) for region in regions_in(module))


def autocast_around(module: Module, node: ast.AST) -> Region | None:
    """Return the autocast region that a node runs in: the one around it, or one in which its function is called."""
    region = region_around(module, node)
    if region is not None:
        return region
    function = module.tree.function(node)
    inside: dict[Function, Region] = module.once("functions under autocast", lambda: _functions_inside(module))
    return inside.get(function) if function is not None else None


def lowers(region: Region | None) -> str | None:
    """Return the precision that a region computes in where that is certain and it is not switched off."""
    if region is None or region.enabled is False:
        return None
    return region.certain if region.certain in ("float16", "bfloat16") else None


def _called(module: Module, node: ast.Call, depth: int) -> str | None:
    name, owner = called(node), receiver(node)
    if owner is not None and not node.args and name in ("half", "bfloat16"):
        return "float16" if name == "half" else "bfloat16"
    if name in ("float", "double"):
        return None
    if owner is not None and name in ("to", "type"):
        return _cast(module, node, owner, depth)
    if name in _MADE:
        return _certain(module, argument(node, None, "dtype"))
    subject = _subject(module, node)
    around = lowers(autocast_around(module, node))
    if around is not None and name in _LOWERED:
        return around
    if around is not None and name in FLOAT32_UNDER_AUTOCAST:
        return None
    keeps = name in _KEEPS or name in FLOAT32_UNDER_AUTOCAST or name in _LOWERED
    if subject is None or not keeps or argument(node, None, "dtype") is not None:
        return None
    return half(module, subject, depth=depth + 1)


def _cast(module: Module, node: ast.Call, owner: ast.expr, depth: int) -> str | None:
    for given in (*node.args, *(k.value for k in node.keywords if k.arg == "dtype")):
        dtype = _certain(module, given)
        if dtype is not None:
            return dtype
        if any(d != "unknown" for d in dtypes_of(module, given)):
            return None
    only_moves = len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
    return half(module, owner, depth=depth + 1) if only_moves else None


def _certain(module: Module, node: ast.expr | None) -> str | None:
    dtypes = dtypes_of(module, node) if node is not None and not isinstance(node, ast.Constant) else frozenset()
    return next(iter(dtypes)) if len(dtypes) == 1 and dtypes & {"float16", "bfloat16"} else None


def _subject(module: Module, node: ast.Call) -> ast.expr | None:
    """Return the tensor that a call works on: its receiver, or the first argument of a function of torch."""
    if any(d.startswith("torch.") for d in module.names.dotted(node.func)):
        return node.args[0] if node.args else None
    return receiver(node)


def _binary(module: Module, node: ast.BinOp, depth: int) -> str | None:
    around = lowers(autocast_around(module, node))
    if isinstance(node.op, ast.MatMult) and around is not None:
        return around
    if isinstance(node.op, ast.Pow) and around is not None:
        return None
    left, right = half(module, node.left, depth=depth + 1), half(module, node.right, depth=depth + 1)
    if left is not None and left == right:
        return left
    if left is not None and _is_scalar(module, node.right):
        return left
    if isinstance(node.op, ast.Div) and around is not None:
        return None  # `1 / x` runs in float32
    return right if right is not None and _is_scalar(module, node.left) else None


def _is_scalar(module: Module, node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and any(d.startswith("math.") for d in module.names.dotted(node.func)):
        return True
    return is_number(module, node) is True


def _defined(module: Module, place: str, node: ast.expr, depth: int) -> str | None:
    if not values_given(module, place, flow_of(module, node)):
        return None
    found = {_by(module, d, depth) for d in reaching(module, (place,), node) if d.kind != "touch"}
    return found.pop() if len(found) == 1 else None


def _by(module: Module, definition: Definition, depth: int) -> str | None:
    if definition.kind != "assign" or definition.value is None:
        return None
    return half(module, definition.value, depth=depth + 1)


def _functions_inside(module: Module) -> dict[Function, Region]:
    """Return the functions of this file that code inside an autocast region calls, directly or through each other."""
    found: dict[Function, Region] = {}
    if not module.mentions(("autocast",)) or not any(lowers(region) for region in regions_in(module)):
        return found
    for calls in module.calls.values():
        for call in calls:
            region = region_around(module, call)
            if region is not None and lowers(region) is not None:
                _follow(module, call, region, found, 0)
    return found


def _follow(module: Module, call: ast.Call, region: Region, found: dict[Function, Region], depth: int) -> None:
    for function in _run_by(module, call):
        if function in found or depth > _CALLED_DEPTH:
            continue
        found[function] = region
        for inner in walk(function):
            if isinstance(inner, ast.Call) and region_around(module, inner) is None:
                _follow(module, inner, region, found, depth + 1)


def _run_by(module: Module, call: ast.Call) -> Iterator[Function]:
    """Walk the functions of this file that a call runs: also `forward` where a module of torch is called."""
    place = target(module, call)
    if place is not None and place[0] is module and place[1].name != "__init__":
        yield place[1]
    owner = _class_of_model(module, call.func)
    forward = method(*owner, "forward") if owner is not None and owner[0] is module else None
    if forward is not None and forward[0] is module:
        yield forward[1]


def _class_of_model(module: Module, node: ast.expr) -> tuple[Module, ast.ClassDef] | None:
    """Return the class of the object that is called, through `.cuda()` and the like after its construction."""
    for value in assigned(module, node):
        while isinstance(value, ast.Call) and called(value) in _MOVES and receiver(value) is not None:
            value = receiver(value)  # type: ignore[assignment]
        built = constructed(module, value)
        if built is not None:
            return built
    return class_of_object(module, node)
