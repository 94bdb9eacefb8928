"""Casts of a model to float16: which calls are some, which model they leave so, and whether that is taken back."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._precision.cast_models import stands_for
from ampguard.auditing.rules.amp._steps import bound_to, enclosing, tests_above

ADAPTERS = ("peft", "lora", "Lora", "LoRA")
"""Words of files that may train adapters beside the model."""


def to_half(module: Module, call: ast.Call) -> bool:
    """Whether the call gives float16 for certain."""
    if called(call) == "half":
        return not call.args
    if called(call) == "from_pretrained":
        given = [value for name, value in named_arguments(module, call) if name in ("torch_dtype", "dtype")]
        return not trains_adapters(module) and any(dtypes_of(module, a) == {"float16"} for a in given)
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    return any(isinstance(a, ast.Attribute | ast.Name) and dtypes_of(module, a) == {"float16"} for a in given)


def trains_adapters(module: Module) -> bool:
    """Whether what is trained are adapters, of float32 parameters of their own, in whatever run of a file."""
    if not module.mentions(ADAPTERS):
        return False
    added = module.calls.get("get_peft_model", ())
    return not added or not all(any(tests_above(module, call)) for call in added)


def named_arguments(module: Module, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Walk what a call is given by name, also from `**options` that are written out in the same scope."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value
            continue
        values = [keyword.value, *assigned(module, keyword.value)]
        for options in (v for v in values if isinstance(v, ast.Dict)):
            pairs = zip(options.keys, options.values, strict=True)
            yield from ((str(k.value), v) for k, v in pairs if isinstance(k, ast.Constant))


def model_of(module: Module, call: ast.Call) -> str | None:
    """Return the key of the model that a cast leaves in float16: `model.half()`, `model = Net().half().to(device)`."""
    end: ast.expr = call
    while isinstance(up := module.tree.parents[end], ast.Attribute):
        outer = module.tree.parents[up]
        if not isinstance(outer, ast.Call) or up.attr not in _KEEPS or _to_full(module, outer):
            return None
        end = outer
    chosen = module.tree.parents[end]
    if isinstance(chosen, ast.IfExp) and chosen.body is end:
        end = chosen  # `net.half() if args.fp16 else net`: the choice is one of the tests above the cast
    statement = module.tree.statement(end)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is end:
        return bound_to(module, end)
    model = receiver(call)
    while isinstance(model, ast.Call) and called(model) in _KEEPS and receiver(model) is not None:
        model = receiver(model)
    return key(model) if called(call) != "from_pretrained" else None


_KEEPS = frozenset({"to", "cuda", "train", "eval", "requires_grad_"})
"""Methods of a model that leave its dtype as it is."""


def taken_back(module: Module, place: str, cast: ast.Call) -> bool:
    """Whether the model is cast to float32 again in the same function."""
    around = enclosing(module, cast)
    raised = [n for n in module.tree.all(ast.Assign) if n.lineno > cast.lineno and enclosing(module, n) is around]
    if any((key(n.targets[0]) or "").endswith(".data") and "float" in ast.unparse(n.value) for n in raised):
        return True
    if any(enclosing(module, c) is around for c in module.calls.get("cast_training_params", ())):
        return True
    return any(
        c.lineno >= cast.lineno
        and enclosing(module, c) is around
        and _to_full(module, c)
        and stands_for(module, receiver(c), place, cast)
        for c in module.calls_of("float", "to")
    )


def _to_full(module: Module, call: ast.Call) -> bool:
    given = [*call.args, *(k.value for k in call.keywords)]
    return called(call) == "float" or any(
        isinstance(a, ast.Attribute) and dtypes_of(module, a) == {"float32"} for a in given
    )
