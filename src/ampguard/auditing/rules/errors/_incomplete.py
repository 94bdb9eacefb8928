"""What goes on incomplete after failures that were only told: errors collected and logged, caches with holes.

Two shapes: a list of failures that a function collects (or is handed) and only tells, while it fills its object or
returns the rest; and a loop that logs what fails while it fills `self.cache[key]`, which another method reads by key.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.handlers import Catch, catches, tells
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk, walk_scope

_FAILURES = regex(r"(\w+_)?(errors?|failures?|failed|exceptions?)(_\w+)?")
_FILLS = frozenset({"append", "add", "update", "extend", "put"})
_CHECKS = regex(r"valid|check|lint|verify|audit|report|main|test|bench|scan|diagnos|probe|summar|delete|clean|upload")
"""What a function is called that is there to find failures, or to end things."""


@dataclass(frozen=True)
class OnlyTold:
    """Failures that are told and nothing else: the condition, their name, and what goes on without what failed."""

    at: ast.If
    failures: str
    goes_on: str


def only_told(module: Module) -> Iterator[OnlyTold]:
    """Walk the conditions `if errors:` that tell, where nothing else is done with errors that handlers collected."""
    if module.role != "library" or not module.mentions(("rror", "ail", "xception")):
        return
    for node in module.tree.all(ast.If):
        name = _asked(node.test)
        if name is None or node.orelse or not _FAILURES.fullmatch(name.id):
            continue
        function = module.tree.function(node)
        if function is None or _CHECKS.search(function.name.lower()) or not _only_tells(module, node.body):
            continue
        goes_on = _goes_on(function, name.id)
        if goes_on is not None and _used_there_alone(function, name.id, node) and _collected(module, function, name.id):
            yield OnlyTold(node, name.id, goes_on)


def missing_later(catch: Catch) -> ast.Subscript | None:
    """Return the read of `self.cache[key]` in another method that fails where a loop has passed over a failure."""
    module, cls = catch.module, catch.module.tree.class_of(catch.node)
    if cls is None or catch.raises or next(module.tree.loops(catch.node), None) is None:
        return None
    filled = {place for s in catch.guarded for n in (s, *walk_scope(s)) if (place := _filled(n)) is not None}
    filled -= {place for node in catch.nodes if (place := _filled(node)) is not None}
    own = module.tree.function(catch.node)
    for node in walk(cls) if filled else ():
        reads = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and key(node.value) in filled
        if reads and module.tree.function(node) is not own and not _looks_first(module, node):  # type: ignore[arg-type]
            return node  # type: ignore[return-value]
    return None


def _filled(node: ast.AST) -> str | None:
    """Return the attribute of `self` of which a statement sets an item."""
    goal = node.targets[0] if isinstance(node, ast.Assign) else None
    place = key(goal.value) if isinstance(goal, ast.Subscript) else None
    return place if place is not None and place.startswith("self.") else None


def _looks_first(module: Module, read: ast.Subscript) -> bool:
    """Whether the function of a read asks what is there, or answers for what is not."""
    function = module.tree.function(read)
    place = key(read.value) or ""
    says = module.text_of(function) if function is not None else ""
    return f"in {place}" in says or f"len({place}" in says or any(True for _ in module.tree.handlers_around(read))


def _asked(test: ast.expr) -> ast.Name | None:
    """Return the name of `if errors:`, `if len(errors) > 0:`."""
    at = test.left if isinstance(test, ast.Compare) and len(test.ops) == 1 else test
    at = at.args[0] if isinstance(at, ast.Call) and called(at) == "len" and at.args else at
    return at if isinstance(at, ast.Name) else None


def _only_tells(module: Module, body: list[ast.stmt]) -> bool:
    calls = [s.value for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    return len(calls) == len(body) and all(_logs(module, call) for call in calls)


def _logs(module: Module, call: ast.Call) -> bool:
    found = target(module, call)
    return tells(module, call) and (found is None or not any(isinstance(n, ast.Raise) for n in walk_scope(found[1])))


def _goes_on(function: Function, failures: str) -> str | None:
    """Return what a function fills or returns beside its failures: an attribute of its object, or an answer."""
    for node in walk_scope(function):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Name) and node.value.id != failures:
            return node.value.id
        place = _filled(node)
        if isinstance(node, ast.Call) and called(node) in _FILLS:
            place = key(receiver(node))
        if place is not None and place.startswith("self."):
            return place
    return None


def _used_there_alone(function: Function, name: str, told: ast.If) -> bool:
    """Whether nothing but the condition and its lines reads a name, apart from what is put into it."""
    first, last = told.lineno, told.end_lineno or told.lineno
    own = list(walk_scope(function))
    put = {receiver(n) for n in own if isinstance(n, ast.Call) and called(n) in _FILLS}
    reads = (n for n in own if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load))
    return all(first <= n.lineno <= last or n in put for n in reads)


def _collected(module: Module, function: Function, name: str) -> bool:
    """Whether handlers put what failed under a name, here or in the function of the project that answers it."""
    bound = [b for b in module.names.bindings_in(function).get(name, ()) if b.kind in ("assign", "other")]
    if any(isinstance(b.value, ast.List) for b in bound):
        return _collects(module, function, name)
    for binding in bound:
        place = target(module, binding.value) if isinstance(binding.value, ast.Call) else None
        if place is not None and any(_collects(*place, answer) for answer in _answers(place[1])):
            return True
    return False


def _answers(function: Function) -> set[str]:
    """Return the names of failures that a function returns."""
    returns = (n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None)
    names = {n.id for value in returns for n in (getattr(value, "elts", None) or [value]) if isinstance(n, ast.Name)}
    return {name for name in names if _FAILURES.fullmatch(name)}


def _collects(module: Module, function: Function, name: str) -> bool:
    """Whether a handler of every error, or a condition about an error, puts something into a list."""
    for node in walk_scope(function):
        if isinstance(node, ast.Call) and called(node) in _FILLS and key(receiver(node)) == name:
            above = module.tree.nearest(node, ast.ExceptHandler, ast.If)
            if isinstance(above, ast.ExceptHandler):
                return any(c.node is above and c.broad for c in catches(module))
            if isinstance(above, ast.If) and (asked := _asked(above.test)) is not None:
                return bool(_FAILURES.fullmatch(asked.id))
    return False
