"""The parts of a training step as the structural rules of this family see them: backward calls, uses of a scaler."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Loop, called, key, receiver, walk

_SCALER_USES = ("scale", "step", "unscale_", "update")

RUNNERS = (
    *("ccelerator", "from accelerate", "import accelerate", "deepspeed", "ightning", "fabric", "model_engine"),
    *("Seq2SeqTrainer", "colossalai"),
)
"""Words of the frameworks that scale, step and switch modes themselves."""


def runs_backward(module: Module) -> bool:
    """Whether a framework may run the backward pass, or count the micro-batches: its name alone tells neither."""
    if not module.mentions(RUNNERS):
        return False
    handed = (c for c in module.calls_of("backward", "manual_backward") if c.args)
    return any(True for _ in handed) or module.mentions((".accumulate(", "deepspeed", "Seq2SeqTrainer", "ightning"))


def backward_calls(module: Module) -> list[ast.Call]:
    """Return the calls `loss.backward()`; engines that take the loss as an argument are not among them."""
    return [c for c in module.calls.get("backward", ()) if receiver(c) is not None and not c.args]


def loss_of(module: Module, call: ast.Call) -> tuple[ast.expr, bool]:
    """Return the loss of a backward call without `scaler.scale(...)` around it, and whether that was there."""
    loss = receiver(call)
    assert loss is not None
    if isinstance(loss, ast.Call) and called(loss) == "scale" and loss.args and receiver(loss) is not None:
        return loss.args[0], True
    if isinstance(loss, ast.Name):
        for value in module.names.values(loss.id, loss):
            if isinstance(value, ast.Call) and called(value) == "scale" and is_scaler(module, receiver(value)):
                return value.args[0] if value.args else loss, True
    return loss, False


def scaler_uses(module: Module, place: str, around: ast.AST) -> list[ast.Call]:
    """Return the calls below `around` that scale, step or update with the scaler of that key."""
    return [
        call
        for call in module.calls_of(*_SCALER_USES)
        if key(receiver(call)) == place and module.tree.inside(call, around)
    ]


def optimizers_with(module: Module, place: str, around: ast.AST) -> list[ast.expr]:
    """Return the optimizers that the scaler of that key steps, or that are handed on together with it."""
    found = [c.args[0] for c in scaler_uses(module, place, around) if called(c) == "step" and c.args]
    for calls in module.calls.values():
        for call in calls:
            given = [*call.args, *(k.value for k in call.keywords)]
            if any(key(a) == place for a in given) and module.tree.inside(call, around):
                found += [a for a in given if is_optimizer(module, a)]
    return found


def assigned_below(module: Module, around: ast.AST) -> frozenset[str]:
    """Return the keys that something below a node gives a new value."""
    return module.once(("assigned below", around), lambda: frozenset(_assigned_below(around)))


def _assigned_below(around: ast.AST) -> Iterator[str]:
    for node in walk(around):
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            place = key(node)
            if place:
                yield place
        elif isinstance(node, ast.arg):
            yield node.arg


def bases(place: str) -> Iterator[str]:
    """Walk a key and what it is reached through: "self.a.b", "self.a", "self"."""
    while place:
        yield place
        cut = max(place.rfind("."), place.rfind("["))
        place = place[:cut] if cut > 0 else ""


def outlives_loop(module: Module, node: ast.expr, loop: Loop) -> bool:
    """Whether what an expression names was made before the loop."""
    place = _whole(node)
    return place is not None and not set(bases(place)) & assigned_below(module, loop)


def outlives_function(module: Module, node: ast.expr, function: Function) -> bool:
    """Whether what an expression names was handed to the function or belongs to its object."""
    place = _whole(node)
    if place is None:
        return False
    given = {arg.arg for arg, _ in parameters(function)}
    made = {k for statement in function.body for k in assigned_below(module, statement)}
    return not set(bases(place)) & made and place.split(".")[0].split("[")[0] in given


def _whole(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        node = node.value
    return key(node)


def callers(module: Module, function: Function) -> list[ast.Call]:
    """Return the calls in the same file that run a function, by name where the object is not known."""
    found = module.calls.get(function.name, [])
    return [c for c in found if module.tree.function(c) is not function and _may_run(module, c, function)]


def _may_run(module: Module, call: ast.Call, function: Function) -> bool:
    place = target(module, call)
    return place is None or place[1] is function


def enclosing(module: Module, node: ast.AST) -> ast.AST:
    """Return the function around a node, or the module."""
    return module.tree.function(node) or module.root


def tests_above(module: Module, node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Walk the tests of the `if`s and conditional expressions around a node in its function, and which arm it is in."""
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, ast.If | ast.IfExp) and below is not at.test:
            body = at.body if isinstance(at.body, list) else [at.body]
            yield at.test, any(below is item for item in body)
        if isinstance(at, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            return
        below = at


def arms(module: Module, one: ast.AST, other: ast.AST) -> bool:
    """Whether two nodes stand in different arms of one `if`, so that only one of them runs."""
    first = dict(_arms_of(module, one))
    return any(first.get(branch, side) != side for branch, side in _arms_of(module, other))


def _arms_of(module: Module, node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, ast.If | ast.IfExp) and below is not at.test:
            body = at.body if isinstance(at.body, list) else [at.body]
            yield at, any(below is item for item in body)
        below = at


def bound_to(module: Module, value: ast.expr) -> str | None:
    """Return the key that the statement around an expression assigns to, or None."""
    statement = module.tree.statement(value)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        return key(statement.targets[0])
    if isinstance(statement, ast.AnnAssign):
        return key(statement.target)
    return None
