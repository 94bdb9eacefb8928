"""A scaler that lives shorter than the optimizer it steps."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import truth
from ampguard.auditing.reading.tree import Function, Loop, argument, called, key, receiver, walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._steps import (
    bound_to,
    callers,
    optimizers_with,
    outlives_function,
    outlives_loop,
    scaler_uses,
    tests_above,
)

_EPOCH = regex(r"^(cur(rent)?_?|i_?|this_?)?epoch(_?(idx|index|num|number|i|id|no))?$")
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
    for at in module.tree.above(call):
        if isinstance(at, ast.BoolOp) and any(key(value) == place for value in at.values):
            return True
        if isinstance(at, ast.ExceptHandler):
            return True
    if any(_may_ask_for(test, place, inside) for test, inside in tests_above(module, call)):
        return True
    around = next(module.tree.loops(call), None) or module.tree.function(call) or module.root
    return any(
        key(c.func) == f"{place}.load_state_dict" and module.tree.inside(c, around)
        for c in module.calls.get("load_state_dict", ())
    )


def _may_ask_for(test: ast.expr, place: str, inside: bool) -> bool:
    """Whether an arm of a test may be for a missing scaler: one where it is there never keeps an old one."""
    joined = ast.And if inside else ast.Or
    if isinstance(test, ast.BoolOp) and isinstance(test.op, joined):
        return any(_may_ask_for(value, place, inside) for value in test.values)
    there = ast.IsNot if inside else ast.Is
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], there) and key(test.left) == place:
        return False
    plain = key(test) == place and inside
    return not plain and place.split(".")[-1] in ast.unparse(test)


def _in_loop(module: Module, call: ast.Call, place: str) -> str:
    for loop in module.tree.loops(call):
        optimizers = optimizers_with(module, place, loop) or list(_stepped_around(module, place, loop))
        if optimizers and all(_outlives(module, o, loop) for o in optimizers) and not _breaks_at_end(loop):
            how = "epoch" if _holds_a_loop_of_steps(module, place, loop) else "step"
            return f"in the loop at line {loop.lineno}, anew for every {how}" + _while(module, optimizers[0])
    return ""


def _outlives(module: Module, optimizer: ast.expr, loop: Loop) -> bool:
    """Whether an optimizer was made before the loop: itself, or what it is taken from one after the other."""
    name = optimizer.id if isinstance(optimizer, ast.Name) else None
    around = (at for at in module.tree.loops(optimizer) if isinstance(at, ast.For))
    last = next((at for at in around if any(key(n) == name for n in ast.walk(at.target))), None) if name else None
    if last is None or last is loop or not module.tree.inside(last, loop):
        return outlives_loop(module, optimizer, loop)
    taken = [n for n in ast.walk(last.iter) if isinstance(n, ast.Name) and n.id not in ("enumerate", "zip", "range")]
    return bool(taken) and all(outlives_loop(module, name, loop) for name in taken)


def _stepped_around(module: Module, place: str, loop: Loop) -> Iterator[ast.expr]:
    """Walk what a scaler that scales in a loop steps elsewhere in its function or class, and what steps with it."""
    scales = [c for c in scaler_uses(module, place, loop) if called(c) == "scale"]
    around = module.tree.class_of(loop) if place.startswith("self.") else module.tree.function(loop)
    if not scales or around is None:
        return
    yield from optimizers_with(module, place, around)
    for call in module.calls_of(*(n for n in module.calls if "step" in n)):
        given = [*call.args, *(k.value for k in call.keywords)]
        owner = receiver(call)
        if owner is not None and any(key(a) == place for a in given) and module.tree.inside(call, loop):
            yield owner


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
    timed = [c for c in steps if called(c) == "step"] or steps  # a loop over micro-batches may only scale
    depths = [sum(1 for _ in module.tree.loops(c)) for c in timed]
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
        for node in walk(function)
    )
