"""Where training happens: the loops that take a step in each pass, and what is a tensor of that step.

A loop trains when a backward or an optimizer step stands in it, or a call of a function of the project that does
one. Tensors are followed from the loss, through assignments: what it was computed from and what is computed from it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import critical_operation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Loop, called, receiver, walk_scope

_STEPS = ("backward", "optimizer step", "scaler step")
_TRAINS = regex(r"train|step|fit|optimi|backward|learn|epoch|run_(iter|batch)|update_", re.I)
_GIVES_TENSORS = regex(
    r"(^|_)(model|net|network|forward|criterion|loss_fn|loss_func|module|generator|discriminator|encoder)($|_)"
)
_FRAMEWORK_STEP = "training_step"
_NO_STEP = regex(r"_*(test|check|bench|profile|demo|main)")
_DEPTH = 3

_NO_TENSOR = frozenset(
    {"item", "tolist", "size", "dim", "numel", "backward", "keys", "items", "values", "pop", "get", "ndimension"}
    | {"element_size", "is_cuda", "get_device", "state_dict", "parameters", "zero_grad", "step", "update", "append"}
    | {"numpy", "get_lr", "get_last_lr", "named_parameters", "children", "modules", "train", "eval"}
)
_NO_TENSOR_ATTRIBUTES = frozenset({"shape", "device", "dtype", "ndim", "requires_grad", "is_cuda", "grad_fn"})
_PLAIN = frozenset(
    {"len", "range", "str", "repr", "isinstance", "type", "enumerate", "zip", "float", "int", "bool", "print", "dict"}
    | {"list", "tuple", "getattr", "hasattr", "time", "perf_counter", "sorted", "set", "format", "round", "join"}
)


def steps(module: Module) -> list[ast.Call]:
    """Return the backwards and the optimizer and scaler steps of a file."""
    return module.once(
        "training steps",
        lambda: [c for c in module.calls_of("backward", "step") if critical_operation(module, c) in _STEPS],
    )


def step_loops(module: Module) -> set[Loop]:
    """Return the loops that take a training step in each pass: the innermost ones around steps and step functions."""
    return module.once("step loops", lambda: _step_loops(module))


def _step_loops(module: Module) -> set[Loop]:
    found = {loop for step in steps(module) if (loop := next(module.tree.loops(step), None)) is not None}
    if len(module.tree.all(ast.For, ast.While)):
        for name, calls in module.calls.items():
            for call in calls if _may_train(module, name) else ():
                loop = next(module.tree.loops(call), None)
                if loop is not None and loop not in found and _takes_one_step(module, call):
                    found.add(loop)
    return found


def _may_train(module: Module, name: str) -> bool:
    """Whether it is worth finding out what a call runs: its name speaks of training, or names a function with steps."""
    return bool(_TRAINS.search(name)) or name in module.once("names with steps", lambda: _names_with_steps(module))


def _names_with_steps(module: Module) -> frozenset[str]:
    return frozenset(function.name for step in steps(module) if (function := module.tree.function(step)) is not None)


def _takes_one_step(module: Module, call: ast.Call) -> bool:
    """Whether a call runs a function of the project that takes a step outside of any loop of its own."""
    place = target(module, call)
    if place is None:
        return False
    where, function = place
    return any(where.tree.function(s) is function and not any(where.tree.loops(s)) for s in steps(where))


def region(module: Module, node: ast.AST) -> Loop | Function | None:
    """Return the outermost training loop around a node; else the function around it if that takes a training step."""
    loops = list(module.tree.loops(node))
    trained = [loop for loop in loops if trains(module, loop)]
    if trained:
        return trained[-1]
    function = module.tree.function(node)
    own = [s for s in steps(module) if called(s) == "backward" and module.tree.function(s) is function]
    return function if any(not any(module.tree.loops(s)) for s in own) else None


def trains(module: Module, loop: Loop) -> bool:
    """Whether training steps are taken below a loop, directly or through functions of the project."""
    return module.once(("trains", loop), lambda: _trains(module, loop))


def _trains(module: Module, loop: Loop) -> bool:
    if any(module.tree.inside(step, loop) for step in steps(module)):
        return True
    return any(
        isinstance(node, ast.Call) and _may_train(module, called(node)) and runs_steps(module, node)
        for statement in loop.body
        for node in (statement, *walk_scope(statement))
    )


def runs_steps(module: Module, call: ast.Call, *, depth: int = 0) -> bool:
    """Whether a call runs a function of the project that takes training steps, itself or through others."""
    place = target(module, call) if depth < _DEPTH else None
    if place is None:
        return False
    where, function = place
    if any(where.tree.inside(step, function) for step in steps(where)):
        return True
    return where.once(
        ("runs steps", function, depth),
        lambda: any(
            isinstance(node, ast.Call) and _may_train(where, called(node)) and runs_steps(where, node, depth=depth + 1)
            for node in walk_scope(function)
        ),
    )


def each_step(module: Module, node: ast.AST) -> Loop | None:
    """Return the step loop in whose every pass the node runs, without a condition of its own; None if there is none."""
    loop = next((at for at in module.tree.loops(node) if at in step_loops(module)), None)
    if loop is None:
        return None
    below: ast.AST = node
    for at in module.tree.above(node):
        if at is loop:
            return loop
        if _conditional(at, below) and not any(module.tree.inside(s, at) for s in steps(module)):
            return None
        below = at
    return None


def step_function(module: Module, node: ast.AST) -> Function | None:
    """Return the function around a node that is one training step and runs the node in every call; None if none is.

    Such a function goes backward outside of any loop of its own, and is called in a loop or named as a step; or it is
    the `training_step` of a framework, which goes backward itself.
    """
    function = module.tree.function(node)
    if function is None or not module.once(("one step", function), lambda: _is_one_step(module, function)):
        return None
    below: ast.AST = node
    for at in module.tree.above(node):
        if at is function:
            return function
        if isinstance(at, Loop) or (
            _conditional(at, below) and not any(module.tree.inside(s, at) for s in steps(module))
        ):
            return None
        below = at
    return None


def _is_one_step(module: Module, function: Function) -> bool:
    if function.name == _FRAMEWORK_STEP:
        return module.tree.class_of(function) is not None
    own = [s for s in steps(module) if called(s) == "backward" and module.tree.function(s) is function]
    if not own or _NO_STEP.match(function.name) or any(any(module.tree.loops(s)) for s in own):
        return False
    looped = any(any(module.tree.loops(call)) for call in module.calls.get(function.name, ()))
    return looped or bool(_TRAINS.search(function.name))


def _conditional(at: ast.AST, below: ast.AST) -> bool:
    """Whether `below` runs only in some of the cases in which `at` does."""
    if isinstance(at, ast.If | ast.IfExp):
        return below is not at.test
    if isinstance(at, ast.BoolOp):
        return below is not at.values[0]
    return isinstance(at, ast.ExceptHandler | ast.Match | ast.Lambda)


def step_tensors(module: Module, function: Function | ast.Module) -> frozenset[str]:
    """Return the names that stand for tensors of the training step in one function: the loss and its relatives."""
    return module.once(("step tensors", function), lambda: _step_tensors(module, function))


def _step_tensors(module: Module, function: Function | ast.Module) -> frozenset[str]:
    losses = {name for step in steps(module) for name in _losses(module, function, step)}
    if getattr(function, "name", "") == _FRAMEWORK_STEP:
        losses |= set(_returned(function))
    if not losses:  # nothing else starts a search: no name is a tensor of the step
        return frozenset()
    kinds = (ast.Assign, ast.AugAssign, ast.AnnAssign)
    nodes = [n for n in module.tree.all(*kinds) if n.value and module.tree.scope(n) is function]
    assigns = [(n, n.value, frozenset(_bound(n))) for n in sorted(nodes, key=lambda n: (n.lineno, n.col_offset))]
    given = {name for _, value, bound in assigns if _calls(value) for name in bound}
    found = set(losses)
    for node, value, bound in assigns:
        if isinstance(node, ast.Assign) and bound & losses:
            found |= given.intersection(_outputs(value))
    before = -1
    for _ in range(_DEPTH):
        if len(found) == before:
            break
        before = len(found)
        for _, value, bound in assigns:
            if not bound <= found and is_tensor(value, found):
                found |= bound
    plain = {name for _, value, bound in assigns if _is_plain(value) for name in bound}
    found -= plain - losses
    return frozenset(found.union(*(_values_in(module, function, found))))


def _values_in(module: Module, function: Function | ast.Module, found: set[str]) -> Iterator[set[str]]:
    """Walk what goes through a dictionary of tensors: `for name, value in losses.items()`, in comprehensions too."""
    for node in module.tree.all(ast.For, ast.comprehension):
        over = node.iter
        if not isinstance(over, ast.Call) or called(over) not in ("items", "values") or over.args:
            continue
        owner = receiver(over)
        if (
            isinstance(owner, ast.Name)
            and owner.id in found
            and (module.tree.function(node) or module.root) is function
        ):
            last = node.target.elts[-1] if isinstance(node.target, ast.Tuple) else node.target
            yield {last.id} if isinstance(last, ast.Name) else set()


def _losses(module: Module, function: Function | ast.Module, step: ast.Call) -> Iterator[str]:
    if called(step) != "backward" or (module.tree.function(step) or module.root) is not function:
        return
    owner = receiver(step)
    while isinstance(owner, ast.BinOp):
        owner = owner.left
    if isinstance(owner, ast.Call) and owner.args:  # scaler.scale(loss).backward()
        owner = owner.args[0]
    candidates = [owner, *step.args[:1]]
    for node in candidates:
        if isinstance(node, ast.Call) and called(node) == "scale" and node.args:  # fabric.backward(scaler.scale(loss))
            node = node.args[0]
        if isinstance(node, ast.BinOp):
            node = node.left
        if isinstance(node, ast.Name) and not node.id.startswith(("self", "model", "accelerator", "fabric")):
            yield node.id


def _returned(function: Function | ast.Module) -> Iterator[str]:
    """Walk the names that a framework's step returns as its loss: `return loss`, `return {"loss": loss}`."""
    for node in walk_scope(function):
        value = node.value if isinstance(node, ast.Return) else None
        if isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            value = next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "loss"), None)
        if isinstance(value, ast.Name):
            yield value.id


def _bound(node: ast.Assign | ast.AugAssign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [n.id for t in targets for n in (t, *walk_scope(t)) if isinstance(n, ast.Name)]


def _outputs(value: ast.expr) -> list[str]:
    return [n.id for n in (value, *walk_scope(value)) if isinstance(n, ast.Name)]


def _calls(value: ast.expr | None) -> bool:
    """Whether a value is what a model or a loss function gives, as its name tells."""
    return isinstance(value, ast.Call) and bool(_GIVES_TENSORS.search(called(value)))


def _is_plain(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) or (
        isinstance(value, ast.Call) and called(value) in (_PLAIN | {"item", "tolist", "numpy"})
    )


def is_tensor(node: ast.expr, names: set[str] | frozenset[str]) -> bool:
    """Whether an expression gives a tensor, when these names do."""
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Attribute):
        return node.attr not in _NO_TENSOR_ATTRIBUTES and is_tensor(node.value, names)
    if isinstance(node, ast.Subscript | ast.Starred):
        return is_tensor(node.value, names)
    if isinstance(node, ast.BinOp):
        return is_tensor(node.left, names) or is_tensor(node.right, names)
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.op, ast.Not) and is_tensor(node.operand, names)
    if not isinstance(node, ast.Call) or called(node) in _NO_TENSOR | _PLAIN:
        return False
    owner = receiver(node)
    if owner is not None and is_tensor(owner, names):
        return True
    root = owner
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in ("torch", "F") and any(is_tensor(a, names) for a in node.args)


def scope_of(module: Module, node: ast.AST) -> Function | ast.Module:
    """Return the function around a node, or the module."""
    found = module.tree.scope(node)
    return found if isinstance(found, (*FUNCTIONS, ast.Module)) else module.root
