"""Uses of attributes that their class takes to be None at times, wherever they come from.

`module = self.ema.module if self.ema else self.model` says that `self.ema` may be None although a base class, a
configuration or a builder gives it; the same class then writes `self.ema.decay` under no test of it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing, tested_in_method
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, bases
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, is_none_literal, key, walk

_TIED = regex(r"(^|[^a-z])(use|with|has|is|enabled?|do|need|rank|main|master|amp|fp16)(_|[^a-z]|$)")
_WRITES = regex(r"writer|logger|tracker|run|tb|tensorboard|wandb|mlflow|neptune")
"""What one rank alone has: the tests for that are of many kinds, and stand anywhere."""

_QUESTION = regex(r"\b(?:if|and|not|or|assert)\s+(?:not\s+)?\(?self\.(\w+)")


def uses_of_doubted_attributes(module: Module) -> Iterator[Use]:
    """Walk the first use, in each method, of an attribute that the class asks about in one place and not in this."""
    lines = module.about("scaler", "sched", "ema", "swa", "run")  # things, but for those that write
    asked = {name for name in _QUESTION.findall(lines) if is_thing(f"self.{name}") and not _WRITES.search(name)}
    if not asked:
        return
    doubts: dict[ast.ClassDef, set[str]] = {}
    told: set[tuple[Function, str]] = set()
    for node in module.tree.all(ast.Attribute):
        place = key(node.value) if isinstance(node.value, ast.Attribute) and node.value.attr in asked else None
        if place is None or place.count(".") != 1 or not place.startswith("self."):
            continue
        function, cls = module.tree.function(node), module.tree.class_of(node)
        if function is None or cls is None or (function, place) in told or function.name == "__init__":
            continue
        if cls not in doubts:
            doubts[cls] = set(_doubted(module, cls, asked))
        if place in doubts[cls] and not is_looked_after(module, node, function, place):
            told.add((function, place))
            yield Use(place, node, function)


def _doubted(module: Module, cls: ast.ClassDef, asked: set[str]) -> Iterator[str]:
    """Walk the attributes that a method of a class asks about, and that no method sees to or makes for certain."""
    for name in asked:
        place, values = f"self.{name}", attributes(module, cls).get(name, [])
        testing = [m for m in cls.body if isinstance(m, FUNCTIONS) and place in tested_in_method(module, m)]
        if not testing or any(is_none_literal(v) for v in values):
            continue  # what is None by a line of its own is followed along its paths
        from_bases = [(where, v) for where, base in bases(module, cls) for v in attributes(where, base).get(name, ())]
        given = [(module, v) for v in values] or from_bases
        if len(given) == 1 and not _is_certain(*given[0]):
            yield place


def _is_certain(module: Module, value: ast.expr) -> bool:
    """Whether a value is an object that is made, and not one that a builder or a configuration may leave out."""
    if isinstance(value, ast.Name):
        return not _may_be_none(module, value)
    return not isinstance(value, ast.Attribute | ast.Call) or (
        isinstance(value, ast.Call) and called(value)[:1].isupper()
    )


def _may_be_none(module: Module, name: ast.Name) -> bool:
    """Whether a name that is kept is a parameter that may be None."""
    function = module.tree.function(name)
    for arg, default in parameters(function) if function is not None else ():
        if arg.arg == name.id:
            return default is not None and is_none_literal(default)
    return False


def is_looked_after(module: Module, node: ast.AST, function: Function, place: str) -> bool:
    """Whether a test of the place, or one that may go with it, stands around a use or before it, or a handler does."""
    word = place.rpartition(".")[2]
    parts = re.compile("|".join({word, *word.split("_")} - {"model", "lr", "grad"}))
    if parts.search(function.name) or any(True for _ in module.tree.handlers_around(node)):
        return True
    for above in module.tree.above(node):
        if isinstance(above, (*FUNCTIONS, ast.Lambda)):
            break
        tests = _tests_of(module, node, above)
        if any(parts.search(text := ast.unparse(t)) or _TIED.search(text) for t in tests):
            return True
    for inner in walk(function):
        if getattr(inner, "lineno", 0) >= node.lineno:  # type: ignore[attr-defined]
            continue
        if isinstance(inner, ast.Assert) and place in ast.unparse(inner.test):
            return True
        leaves = isinstance(inner, ast.If) and isinstance(inner.body[-1], ast.Return | ast.Raise | ast.Continue)
        if leaves and (parts.search(text := ast.unparse(inner.test)) or _TIED.search(text)):  # type: ignore[attr-defined]
            return True
        if isinstance(inner, ast.Assign) and any(key(t) == place for t in inner.targets):
            return True
    calls = [c for c in module.calls.get(function.name, ()) if module.tree.function(c) is not function]
    return bool(calls) and all(_is_asked_around(module, c, parts) for c in calls)


def _tests_of(module: Module, node: ast.AST, above: ast.AST) -> list[ast.expr]:
    if isinstance(above, ast.If | ast.IfExp | ast.While):
        return [above.test]
    if isinstance(above, ast.BoolOp):
        return [v for v in above.values if not module.tree.inside(node, v)]
    return [t for g in above.generators for t in g.ifs] if isinstance(above, ast.ListComp | ast.GeneratorExp) else []


def _is_asked_around(module: Module, call: ast.Call, parts: re.Pattern[str]) -> bool:
    tests = (t for above in module.tree.above(call) for t in _tests_of(module, call, above))
    return any(parts.search(ast.unparse(t)) for t in tests)
