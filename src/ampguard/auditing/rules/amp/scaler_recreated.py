"""A scaler that lives shorter than the optimizer it steps."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import truth
from ampguard.auditing.reading.tree import Function, Loop, argument, called, key
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._steps import (
    bound_to,
    callers,
    optimizers_with,
    outlives_function,
    outlives_loop,
    scaler_uses,
)

_EPOCH = re.compile(r"^(cur(rent)?_?|i_?|this_?)?epoch(_?(idx|index|num|number|i|id|no))?$")
"""A parameter of this name says that the function runs once an epoch; `epochs` and `num_epochs` say the opposite."""


class ScalerRecreated(Rule):
    """A gradient scaler is constructed anew for every step or every epoch.

    ## What it does
    Finds a `GradScaler(...)` inside a loop that steps an optimizer made before that loop, and one inside a function
    that steps an optimizer handed to it, where the function makes one step or one epoch. A scaler that is made
    together with its optimizer (one training run after another) is fine, and so is one made once behind
    `if scaler is None`.

    ## Why is this bad
    A scaler finds its scale by experience. A new one starts at 65536 again: the first steps overflow and are skipped,
    and the scale never grows for as long as the scaler lives less than `growth_interval` (2000) steps.

    ## Example
    ```python
    import torch


    def train_step(model, optimizer, batch):
        scaler = torch.amp.GradScaler("cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch


    def train_step(model, optimizer, scaler, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Safe: the same scaler kept for the whole run is what the documentation asks for. Save its state with the checkpoint.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html: one scaler at the start of training
    - torch.amp.GradScaler: `init_scale=65536`, `growth_interval=2000`
    """

    code = "AMP020"
    name = "scaler-recreated"
    severity = Severity.MEDIUM
    impact = "The scale starts at 65536 again and again: steps are skipped each time, and it never settles."
    risk = "Low: a scaler made once, beside its optimizer, does the same work."
    fix = "Construct the scaler once, where the optimizer is constructed, and pass it in."
    words = ("GradScaler",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every construction whose scaler does not live as long as its optimizer."""
        for call in scaler_constructions(module):
            place = bound_to(module, call)
            off = truth(module, argument(call, None, "enabled")) is False
            if place is None or off or _guarded(module, call, place):
                continue
            why = _in_loop(module, call, place) or _in_function(module, call, place)
            if why:
                yield self.finding(module, call, f"{place} is constructed {why}", critical_path=True)


def _guarded(module: Module, call: ast.Call, place: str) -> bool:
    """Whether the construction stands under a test of the scaler itself, or its state is restored right after."""
    last = place.split(".")[-1]
    for at in module.tree.above(call):
        if isinstance(at, ast.If | ast.IfExp) and last in ast.unparse(at.test):
            return True
        if isinstance(at, ast.BoolOp) and any(key(value) == place for value in at.values):
            return True
        if isinstance(at, ast.ExceptHandler):
            return True
    function = module.tree.function(call)
    return any(
        key(c.func) == f"{place}.load_state_dict" and module.tree.function(c) is function
        for c in module.calls.get("load_state_dict", ())
    )


def _in_loop(module: Module, call: ast.Call, place: str) -> str:
    for loop in module.tree.loops(call):
        optimizers = optimizers_with(module, place, loop)
        if optimizers and all(outlives_loop(module, o, loop) for o in optimizers) and not _breaks_at_end(loop):
            how = "epoch" if _holds_a_loop_of_steps(module, place, loop) else "step"
            return f"in the loop at line {loop.lineno}, anew for every {how}" + _while(module, optimizers[0])
    return ""


def _holds_a_loop_of_steps(module: Module, place: str, loop: Loop) -> bool:
    uses = scaler_uses(module, place, loop)
    return any(at is not loop and module.tree.inside(at, loop) for use in uses for at in module.tree.loops(use))


def _breaks_at_end(loop: Loop) -> bool:
    return isinstance(loop.body[-1], ast.Break | ast.Return)


def _while(module: Module, optimizer: ast.expr) -> str:
    return f", while {module.segment(optimizer, 30)} lives on"


def _in_function(module: Module, call: ast.Call, place: str) -> str:
    function = module.tree.function(call)
    if function is None or function.name == "__init__" or any(True for _ in module.tree.loops(call)):
        return ""
    uses = [c for c in scaler_uses(module, place, function) if module.tree.function(c) is function]
    steps = [c for c in uses if called(c) in ("scale", "step")]
    optimizers = optimizers_with(module, place, function)
    if not steps or not optimizers or not all(outlives_function(module, o, function) for o in optimizers):
        return ""
    depths = [sum(1 for _ in module.tree.loops(c)) for c in steps]
    how = _rhythm(module, function, max(depths))
    return how and f"in {function.name}(), {how}" + _while(module, optimizers[0])


def _rhythm(module: Module, function: Function, depth: int) -> str:
    """Return how often the function makes a scaler, as words; "" where it may be once."""
    calls = callers(module, function)
    looped = any(True for c in calls for _ in module.tree.loops(c))
    if depth == 0:
        return "" if calls and not looped else "anew for every step"
    per_epoch = any(_EPOCH.match(arg.arg) for arg, _ in parameters(function))
    if depth == 1 and (looped or per_epoch) and not _counts_epochs(function):
        return "anew for every epoch"
    return ""


def _counts_epochs(function: Function) -> bool:
    """Whether the function itself runs over the epochs."""
    return any(
        isinstance(node, ast.For) and "epoch" in ast.unparse(node.target).lower() + ast.unparse(node.iter).lower()
        for node in ast.walk(function)
    )
