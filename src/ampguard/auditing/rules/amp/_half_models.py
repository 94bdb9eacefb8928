"""Casts of a model to float16: which calls are some, which model they leave so, and whether that is taken back."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._steps import bound_to, enclosing
from ampguard.auditing.rules.amp._trained_parameters import optimizer_of

_OWN_COPIES = (
    *("master", "FP16_", "FP16Opt", "bitsandbytes", "bnb", "stochastic"),
    *("peft", "lora", "LoRA"),
)
"""What keeps the parameters, or what is added to them, in float32 by itself."""


def trained_in_half(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the cast, the model) of models in float16 whose own parameters an optimizer steps, where one trains."""
    if module.mentions(_OWN_COPIES):
        return
    for call in module.calls_of("half", "to"):
        place = model_of(module, call) if to_half(module, call) else None
        optimizer = optimizer_of(module, place, call) if place is not None else None
        if place is None or optimizer is None or taken_back(module, place, call):
            continue
        around = module.tree.class_of(call) or enclosing(module, call)
        if any(module.tree.inside(c, around) and not c.args for c in module.calls_of("backward")):
            yield call, place


def to_half(module: Module, call: ast.Call) -> bool:
    """Whether the call gives float16 for certain."""
    if called(call) == "half":
        return not call.args
    if called(call) == "from_pretrained":
        given = [k.value for k in call.keywords if k.arg in ("torch_dtype", "dtype")]
        adapted = module.mentions(("peft", "lora", "Lora", "LoRA"))  # these train float32 parameters of their own
        return not adapted and any(dtypes_of(module, a) == {"float16"} for a in given)
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    return any(isinstance(a, ast.Attribute | ast.Name) and dtypes_of(module, a) == {"float16"} for a in given)


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
        key(receiver(c)) == place and enclosing(module, c) is around and c.lineno >= cast.lineno and _to_full(module, c)
        for c in module.calls_of("float", "to")
    )


def _to_full(module: Module, call: ast.Call) -> bool:
    given = [*call.args, *(k.value for k in call.keywords)]
    return called(call) == "float" or any(
        isinstance(a, ast.Attribute) and dtypes_of(module, a) == {"float32"} for a in given
    )
