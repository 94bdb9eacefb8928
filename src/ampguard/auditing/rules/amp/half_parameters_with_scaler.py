"""A model whose parameters are float16, stepped by a gradient scaler."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_optimizer, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of, truth
from ampguard.auditing.reading.tree import argument, called, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._steps import arms, bound_to, enclosing, tests_above


class HalfParametersWithScaler(Rule):
    """The model that is trained is cast to float16, and a gradient scaler steps it.

    ## What it does
    Finds `model.half()` and `model.to(torch.float16)` where the parameters of that same model go to an optimizer or a
    Trainer afterwards, and a scaler that is not switched off is constructed, or `fp16=True` has the Trainer make one.
    Casts of inputs, of copies, of frozen or averaged models, and casts that are taken back or come after training are
    fine.

    ## Why is this bad
    The gradients of float16 parameters are float16, and `scaler.unscale_` and `scaler.step` refuse them:
    "Attempting to unscale FP16 gradients". Without the refusal small updates would be lost in rounding.

    ## Example
    ```python
    import torch


    def train(model, loader):
        model.half()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda")
        for batch in loader:
            scaler.scale(model(batch).mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Use instead
    ```python
    import torch


    def train(model, loader):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cuda")
        for batch in loader:
            with torch.autocast("cuda", dtype=torch.float16):
                loss = model(batch).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Fix safety
    Parameters take twice the memory, which is what mixed precision means: float32 weights, float16 arithmetic.

    ## References
    - https://github.com/pytorch/pytorch/issues/74739
    - https://pytorch.org/docs/stable/amp.html#gradient-scaling
    """

    code = "AMP022"
    name = "half-parameters-with-scaler"
    severity = Severity.CRITICAL
    impact = 'The first scaler.step raises "Attempting to unscale FP16 gradients".'
    risk = "Low: autocast needs no cast of the parameters; they take more memory."
    fix = "Keep the parameters in float32 and run the forward pass under autocast."
    words = ("GradScaler", "fp16=True", "mixed_precision=")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every cast of a trained model in a file that makes a scaler."""
        scalers = [c for c in scaler_constructions(module) if truth(module, argument(c, None, "enabled")) is not False]
        scalers += _with_a_scaler_inside(module)
        for call in module.calls_of("half", "to", "from_pretrained") if scalers else ():
            place = _model_of(module, call) if _to_half(module, call) else None
            if place is None:
                continue
            optimizer = _optimizer_of(module, place, call) or _trainer_of(module, place, call)
            scaler = next((s for s in scalers if _meets(module, call, s)), None)
            if optimizer is None or scaler is None or _taken_back(module, place, call):
                continue
            message = f"{place} is cast to float16, and the scaler of line {scaler.lineno} steps its parameters"
            yield self.finding(module, call, message, critical_path=True)


def _to_half(module: Module, call: ast.Call) -> bool:
    """Whether the call gives float16 for certain."""
    if called(call) == "half":
        return not call.args
    if called(call) == "from_pretrained":
        given = [k.value for k in call.keywords if k.arg in ("torch_dtype", "dtype")]
        adapted = module.mentions(("peft", "lora", "Lora", "LoRA"))  # these train float32 parameters of their own
        return not adapted and any(dtypes_of(module, a) == {"float16"} for a in given)
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
    return any(isinstance(a, ast.Attribute) and dtypes_of(module, a) == {"float16"} for a in given)


def _model_of(module: Module, call: ast.Call) -> str | None:
    """Return the key of the model that a cast leaves in float16: `model.half()`, `model = Net().half().to(device)`."""
    end = call
    while isinstance(up := module.tree.parents[end], ast.Attribute):
        outer = module.tree.parents[up]
        if not isinstance(outer, ast.Call) or up.attr not in _KEEPS or _to_full(module, outer):
            return None
        end = outer
    statement = module.tree.statement(end)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is end:
        return bound_to(module, end)
    return key(receiver(call)) if called(call) != "from_pretrained" else None


_KEEPS = frozenset({"to", "cuda", "train", "eval", "requires_grad_"})
"""Methods of a model that leave its dtype as it is."""


def _optimizer_of(module: Module, place: str, cast: ast.Call) -> ast.Call | None:
    """Return the construction, after the cast and in the same function, that takes the model's parameters."""
    around = enclosing(module, cast)
    for call in module.calls_of("parameters", "named_parameters"):
        if key(receiver(call)) != place or call.lineno < cast.lineno or enclosing(module, call) is not around:
            continue
        for at in module.tree.above(call):
            if isinstance(at, ast.Call) and _makes_optimizer(module, at):
                return None if arms(module, at, cast) or _made_again(module, place, cast, at) else at
            if isinstance(at, ast.stmt):
                break
    return None


def _with_a_scaler_inside(module: Module) -> list[ast.Call]:
    """Return what is told to train in float16, and makes a scaler for it: training arguments, an accelerator."""
    adapted = module.mentions(("peft", "lora", "Lora", "LoRA"))
    found = [] if adapted else [c for n, calls in module.calls.items() if n.endswith("Arguments") for c in calls]
    told = [c for c in found if any(k.arg == "fp16" and truth(module, k.value) for k in c.keywords if k.value)]
    words = [(c, argument(c, None, "mixed_precision")) for c in module.calls.get("Accelerator", ()) if not adapted]
    return told + [c for c, word in words if isinstance(word, ast.Constant) and word.value == "fp16"]


def _trainer_of(module: Module, place: str, cast: ast.Call) -> ast.Call | None:
    """Return the construction of a Trainer, after the cast and in the same function, that is handed the model."""
    around = enclosing(module, cast)
    for name, calls in module.calls.items():
        for call in calls if name.endswith("Trainer") else ():
            given = argument(call, 0, "model")
            if given is not None and key(given) == place and enclosing(module, call) is around:
                return call if call.lineno > cast.lineno and not _made_again(module, place, cast, call) else None
    return None


def _makes_optimizer(module: Module, call: ast.Call) -> bool:
    if any(name.startswith("torch.optim.") for name in module.names.dotted(call.func)):
        return True
    statement = module.tree.statement(call)
    return isinstance(statement, ast.Assign) and call is statement.value and is_optimizer(module, statement.targets[0])


def _made_again(module: Module, place: str, cast: ast.Call, optimizer: ast.Call) -> bool:
    """Whether the name stands for another model by the time the optimizer takes it."""
    between = [n for n in module.tree.all(ast.Assign) if cast.lineno < n.lineno < optimizer.lineno]
    return any(
        any(key(t) == place for t in node.targets) and not any(key(at) == place for at in ast.walk(node.value))
        for node in between
    )


def _meets(module: Module, cast: ast.Call, scaler: ast.Call) -> bool:
    """Whether the cast and an enabled scaler certainly meet in one run: same class or function, no other condition."""
    own, other = module.tree.class_of(cast), module.tree.class_of(scaler)
    if (own is not other) or (own is None and enclosing(module, cast) is not enclosing(module, scaler)):
        return False
    if arms(module, cast, scaler):
        return False
    conditions = {ast.unparse(test) for test, inside in tests_above(module, scaler) if inside}
    flag = argument(scaler, None, "enabled")
    if flag is not None and truth(module, flag) is None:
        conditions.add(ast.unparse(flag))
    ours = [(ast.unparse(test), inside) for test, inside in tests_above(module, cast)]
    return all(inside and (not conditions or test in conditions) for test, inside in ours)


def _taken_back(module: Module, place: str, cast: ast.Call) -> bool:
    """Whether the model is cast to float32 again in the same function."""
    around = enclosing(module, cast)
    return any(
        key(receiver(c)) == place and enclosing(module, c) is around and c.lineno >= cast.lineno and _to_full(module, c)
        for c in module.calls_of("float", "to")
    )


def _to_full(module: Module, call: ast.Call) -> bool:
    given = [*call.args, *(k.value for k in call.keywords)]
    return called(call) == "float" or any(
        isinstance(a, ast.Attribute) and dtypes_of(module, a) == {"float32"} for a in given
    )
