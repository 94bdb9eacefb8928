"""A model whose parameters are float16, stepped by a gradient scaler."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import truth
from ampguard.auditing.reading.tree import argument, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.cast_models import trainer_of
from ampguard.auditing.rules.amp._precision.half_by_choice import chosen_half, scaling_where
from ampguard.auditing.rules.amp._precision.half_models import ADAPTERS, model_of, taken_back, trains_adapters
from ampguard.auditing.rules.amp._precision.loaded_half import in_half
from ampguard.auditing.rules.amp._precision.may_meet import may_meet
from ampguard.auditing.rules.amp._precision.trained_parameters import optimizer_of
from ampguard.auditing.rules.amp._steps import arms, enclosing, tests_above


class HalfParametersWithScaler(Rule):
    """The model that is trained is cast to float16, and a gradient scaler steps it.

    ## What it does
    Finds `model.half()` and `model.to(torch.float16)` where the parameters of that same model go to an optimizer or a
    Trainer afterwards, and a scaler that is not switched off is constructed, or `fp16=True` has the Trainer make one.
    The model may be loaded so, also by a function of the project. A cast to a dtype that is float16 just where the
    setting of an `Accelerator`, a scaler or training arguments makes them scale is found too (`fp16=not bf16`), and is
    high. Low: a cast where a test of something else than precision holds, or in a function that runs with the
    scaler's, or beside a scaler that is handed in, or training arguments that make one in some runs; and where some
    runs train adapters. Casts of inputs, of copies, of frozen or averaged models,
    and casts that are taken back or come after training are fine.

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
    words = ("GradScaler", "fp16=", "Accelerator(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every cast of a trained model in a file that makes a scaler."""
        if "_unscale_grads_" in module.text:
            return  # torch's own hook, replaced: float16 gradients are let through
        scalers = [c for c in scaler_constructions(module) if truth(module, argument(c, None, "enabled")) is not False]
        scalers += _with_a_scaler_inside(module)
        by_setting = [made for made, _ in scaling_where(module) if made not in scalers]
        if not scalers and not by_setting:
            by_setting = [c for c in module.calls.get("scale", ()) if c.args and is_scaler(module, receiver(c))]
        for call, place in in_half(module) if scalers or by_setting else ():
            optimizer = optimizer_of(module, place, call) or trainer_of(module, place, call)
            scaler = next((s for s in scalers if _meets(module, call, s)), None)
            if optimizer is None or taken_back(module, place, call):
                continue
            if scaler is None or module.mentions(ADAPTERS):
                yield from self._perhaps(module, call, place, scalers + by_setting)
                continue
            message = f"{place} is cast to float16, and the scaler of line {scaler.lineno} steps its parameters"
            yield self.finding(module, call, message, critical_path=True)
        yield from self._by_choice(module)

    def _perhaps(self, module: Module, cast: ast.Call, place: str, scalers: list[ast.Call]) -> Iterator[Finding]:
        """Yield a cast that meets a scaler where something holds that is no matter of precision, or through a call."""
        scaler = next((s for s in scalers if may_meet(module, cast, s)), None)
        if scaler is not None and module.role not in ("test", "benchmark"):
            message = f"{place} is cast to float16, and the scaler of line {scaler.lineno} may step its parameters"
            yield self.finding(module, cast, message, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _by_choice(self, module: Module) -> Iterator[Finding]:
        """Yield the casts of a trained model to a dtype that is float16 just where something scales."""
        scalers = list(scaling_where(module))
        for call in module.calls_of("to", "from_pretrained") if scalers else ():
            found = chosen_half(module, call, scalers)
            place = model_of(module, call) if found is not None else None
            if found is None or place is None or taken_back(module, place, call):
                continue
            if optimizer_of(module, place, call) is None and trainer_of(module, place, call) is None:
                continue
            test, scaler = found
            message = (
                f"{place} is cast to float16 where {test}, and what line {scaler.lineno} makes"
                " scales there and steps its parameters"
            )
            severity = Severity.LOW if module.mentions(ADAPTERS) else Severity.HIGH
            yield self.finding(module, call, message, severity=severity, likelihood="likely", critical_path=True)


def _with_a_scaler_inside(module: Module) -> list[ast.Call]:
    """Return what is told to train in float16, and makes a scaler for it: training arguments, an accelerator."""
    adapted = trains_adapters(module)
    found = [] if adapted else [c for n, calls in module.calls.items() if n.endswith("Arguments") for c in calls]
    told = [c for c in found if any(k.arg == "fp16" and truth(module, k.value) for k in c.keywords if k.value)]
    words = [(c, argument(c, None, "mixed_precision")) for c in module.calls.get("Accelerator", ()) if not adapted]
    return told + [c for c, word in words if isinstance(word, ast.Constant) and word.value == "fp16"]


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
