"""Uses, in `__init__` itself, of an attribute that is kept from a parameter that is None by default.

`self.features = features`, and right below `for layer in self.features.modules()`: whoever makes the object without
it fails. Under a test of something else it is told where another place of the class asks about it, or where a call of
the project leaves the parameter out.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, tested_in_method
from ampguard.auditing.flow.optional_plain import asks_about, failing_uses, is_conditional
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk_scope

_CALLERS = 8
"""Files read for the calls of one class."""


def uses_of_what_init_keeps(module: Module) -> Iterator[Use]:
    """Walk such uses of each attribute in each `__init__`."""
    if not module.mentions(("=None", "= None")):
        return
    for function in module.functions:
        cls = module.tree.parents[function] if function.name == "__init__" else None
        if not isinstance(cls, ast.ClassDef):
            continue
        for arg, default in parameters(function):
            kept = _kept(function, arg.arg) if default is not None and is_none_literal(default) else None
            for use in _uses_of(module, cls, function, arg.arg, kept) if kept is not None else ():
                yield Use(key(kept.targets[0]) or arg.arg, use, arg)  # type: ignore[union-attr]


def _kept(function: Function, name: str) -> ast.Assign | None:
    """Return the statement of `__init__` itself that keeps a parameter as it is: `self.x = x`."""
    for statement in function.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        if key(statement.targets[0]) == name:
            return None
        if key(statement.value) == name and (key(statement.targets[0]) or "").startswith("self."):
            return statement
    return None


def _uses_of(module: Module, cls: ast.ClassDef, function: Function, name: str, kept: ast.Assign) -> Iterator[ast.AST]:
    """Walk the uses behind the keeping, to the first that always runs, where nothing asks before and None gets there.

    One under a test of something else does not spare the next one.
    """
    place, told = key(kept.targets[0]) or "", None
    found = [*failing_uses(module, function, place), *failing_uses(module, function, name)]
    for use in sorted(found, key=lambda node: (node.lineno, node.col_offset)):  # type: ignore[attr-defined]
        if use.lineno < kept.lineno and not is_conditional(module, use, function):  # type: ignore[attr-defined]
            return  # who leaves it out fails there
        if use.lineno <= kept.lineno or _is_seen_to(module, function, use, (name, place)):  # type: ignore[attr-defined]
            continue
        if not is_conditional(module, use, function):
            yield use
            return
        if told is None and (_is_doubted(module, cls, place) or _is_left_out(module, cls, function, name)):
            told = use
            yield use


def _is_seen_to(module: Module, function: Function, use: ast.AST, places: tuple[str, ...]) -> bool:
    """Whether a test of the attribute or of its words stands before a use or around it, or it has a value by then."""
    line: int = use.lineno  # type: ignore[attr-defined]
    if any(True for _ in module.tree.handlers_around(use)) or module.tree.function(use) is not function:
        return True
    for node in walk_scope(function):
        if getattr(node, "lineno", line + 1) > line:
            continue
        test = node.test if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert) else None
        if test is not None and (any(asks_about(test, place) for place in places)):
            return True
        if isinstance(node, ast.BoolOp) and any(asks_about(v, place) for v in node.values for place in places):
            return True
        bound = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        gives = any(key(b) in places for b in bound) and not (
            isinstance(node, ast.Assign) and key(node.value) in places
        )
        if gives and _is_on_the_way(module, node, use) and not module.tree.inside(use, node):
            return True
    words = re.compile("|".join(re.escape(w) for w in places[0].split("_") if len(w) > 2) or "$^")
    tests = (at.test for at in module.tree.above(use) if isinstance(at, ast.If | ast.IfExp | ast.While))
    return any(words.search(ast.unparse(test)) for test in tests)


def _is_on_the_way(module: Module, node: ast.AST, use: ast.AST) -> bool:
    """Whether what gives a value runs before every use: it stands in a block around the use."""
    return module.tree.inside(use, module.tree.parents[node])


def _is_doubted(module: Module, cls: ast.ClassDef, place: str) -> bool:
    """Whether a method of the class asks about an attribute."""
    methods = (item for item in cls.body if isinstance(item, FUNCTIONS))
    return any(place in tested_in_method(module, m) for m in methods)


def _is_left_out(module: Module, cls: ast.ClassDef, function: Function, name: str) -> bool:
    """Whether a call of the project makes the object without the parameter, or with None in its place."""
    paths = [path for path, _ in module.project.texts(f"{cls.name}(") if "test" not in path]
    for path in paths[:_CALLERS]:
        where = module if path == module.path else module.project.module(path)
        for call in where.calls_of(cls.name) if where is not None else ():
            if any(k.arg is None for k in call.keywords) or any(isinstance(a, ast.Starred) for a in call.args):
                continue
            given = argument_for(call, function, name)
            if given is None or is_none_literal(given):
                return True
    return False
