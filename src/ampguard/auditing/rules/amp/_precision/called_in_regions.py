"""Backward passes that run inside an autocast region through what only a name leads to.

A function that the region hands on (`optimizer.step(closure)`), and a method of an object that is not known
(`self.logic.train_step(batch)`), where every function of that name runs a backward pass. Functions and objects of the
project that run one are followed into files that this one says nothing of, and what is called as scalers are that go
backward themselves (`loss_scaler(loss, optimizer)`) is taken for one.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradient_events import WORDS
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, decorations, region_around, region_of
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk, walk_scope

_TRAINS = regex(r"_*(train|training|fit|optimi[sz]e|forward_(and_)?backward)(_?(step|batch|iter|iteration|one_\w+))?_*")
_BACKWARD = regex(r"\.(manual_)?backward\(")
_SCALER = regex(r"(^|[._])(loss|amp|grad|native|fp16)?_?scaler$")
_DEPTH = 2
"""Calls followed from one in a region."""

_OWN = regex(r"\bself\.(\w+)\(")


def trained_in_regions(module: Module) -> Iterator[tuple[ast.Call, Region]]:
    """Walk the calls in regions that lead to a backward pass by name alone, with the region."""
    for call in _candidates(module):
        region = region_around(module, call)
        if region is not None and region.enabled is not False:
            yield call, region
    for call, region in _inside(module):
        if _is_own_scaler(module, call) or _leads_backward(module, call) or _by_name_alone(module, call):
            yield call, region


def _inside(module: Module) -> Iterator[tuple[ast.Call, Region]]:
    """Walk the calls in regions that are not switched off, of the statements of their own function."""
    for call in (node for node in _blocks(module) if isinstance(node, ast.Call)):
        region = region_around(module, call)
        if region is not None and region.enabled is not False:
            yield call, region


def _blocks(module: Module) -> Iterator[ast.AST]:
    """Walk all that stands in a region: below a `with`, or in a function that is decorated."""
    for block in module.tree.all(ast.With, ast.AsyncWith):
        if any(region_of(module, item.context_expr) is not None for item in block.items):
            yield from (at for statement in block.body for at in walk(statement))
    for function in module.functions:
        if function.decorator_list and any(True for _ in decorations(module, function)):
            yield from walk_scope(function)


def _is_own_scaler(module: Module, call: ast.Call) -> bool:
    """Whether a scaler is called with the loss: torch's own cannot be, those that are run the backward pass."""
    place = key(call.func) or ""
    given = call.args[0] if len(call.args) + len(call.keywords) > 1 and call.args else None
    named = _SCALER.search(place) and given is not None and "loss" in (key(given) or "").lower()
    return bool(named) and target(module, call) is None


def _leads_backward(module: Module, call: ast.Call, depth: int = 0) -> bool:
    """Whether what a call runs goes backward, outside of a region of its own that is switched off."""
    place = target(module, call, ("backward(",))
    if place is None or not place[0].mentions(("backward(",)):
        return False
    if not depth and place[0] is module and module.mentions(WORDS):
        return False  # what this file says itself is read by its skeletons
    where, function = place
    found = (c for c in where.calls_of("backward", "manual_backward") if where.tree.function(c) is function)
    inner = [c for c in found if key(receiver(c)) != "torch.autograd"]  # what captures graphs calls that, not a step
    if inner:
        around = (region_around(where, c) for c in inner)
        return any(region is None or region.enabled is not False for region in around)
    calls = [n for n in walk_scope(function) if isinstance(n, ast.Call)] if depth < _DEPTH else []
    return any(_leads_backward(where, c, depth + 1) for c in calls)


def _by_name_alone(module: Module, call: ast.Call) -> bool:
    """Whether a method of an unknown object is given a loss, and all of that name in the project go backward."""
    given = [key(a) or "" for a in call.args[:2]]
    owner, name = receiver(call), called(call)
    if owner is None or not any("loss" in place.lower() for place in given) or target(module, call) is not None:
        return False
    paths = [path for path, _ in module.project.texts(f"def {name}(")]
    homes = [where for path in paths if (where := module.project.module(path)) is not None] if len(paths) < 4 else []
    return bool(homes) and all(_all_run_backward(where, name) for where in homes)


def _candidates(module: Module) -> Iterator[ast.Call]:
    for name, calls in module.calls.items():
        if _TRAINS.fullmatch(name):
            for call in calls:
                if receiver(call) is not None and target(module, call) is None and _all_run_backward(module, name):
                    yield call
    if "backward" in module.text:
        yield from (c for c in module.calls_of("step") if any(_is_closure(module, arg) for arg in c.args))


def _is_closure(module: Module, node: ast.expr) -> bool:
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    last = bound[1][-1].node if bound is not None else None
    return isinstance(last, FUNCTIONS) and bool(_BACKWARD.search(_source(module, last)))


def _all_run_backward(module: Module, name: str) -> bool:
    """Whether the file defines methods of that name, and each that does anything runs a backward pass."""
    functions = [f for f in module.functions if f.name == name and not _is_empty(f)]
    return bool(functions) and all(_runs_backward(module, f) for f in functions if not _hands_on(module, f, name))


def _runs_backward(module: Module, function: Function) -> bool:
    text = _source(module, function)
    if _BACKWARD.search(text):
        return True
    own = module.tree.class_of(function)
    names = set(_OWN.findall(text))
    others = (f for f in module.functions if f.name in names and module.tree.class_of(f) is own and f is not function)
    return own is not None and any(_BACKWARD.search(_source(module, f)) for f in others)


def _hands_on(module: Module, function: Function, name: str) -> bool:
    """Whether a function only calls another one of its own name, as the handler that opens the region does."""
    return any(called(c) == name for c in module.calls_of(name) if module.tree.inside(c, function))


def _is_empty(function: Function) -> bool:
    """Whether a function is abstract: nothing but a docstring, `pass`, `...` or a raise."""
    return all(isinstance(s, ast.Expr | ast.Pass | ast.Raise) and not _acts(s) for s in function.body)


def _acts(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)


def _source(module: Module, function: Function) -> str:
    return module.text_of(function)
