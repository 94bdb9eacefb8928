"""Uses of what may be None that need no path: nothing in the function asks, and the use stands under no test.

A parameter whose default is None (or whose annotation admits it) and that is used at once; one that a function of the
file hands on in that state; a name that an `except` or an `else` leaves None; an object that `__init__` makes only
where an option says so. Any name counts, because nothing is guessed: the default itself fails.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.lowering import calls_by_function
from ampguard.auditing.flow.optional import Use, is_thing
from ampguard.auditing.reading.calls import attributes, bases, target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope

_ADMITS_NONE = re.compile(r"^(typing\.|t\.)?Optional\[|\| ?None$|^None ?\|")
_STUBS = re.compile(r"abstractmethod|overload|fixture|hookimpl|validator|property")


def plain_uses(module: Module) -> Iterator[Use]:
    """Walk such uses of a file, the first of each place in each function."""
    handed = _handed_names(module)
    for function in module.functions:
        if _takes_none(function) or function.name in handed:
            yield from _of_parameters(module, function)
    for node in module.tree.all(ast.Assign):
        around = module.tree.function(node) if _may_leave_none(module, node) else None
        use = _of_local(module, around, node) if around is not None else None
        if use is not None:
            yield use
    yield from _of_attributes(module)


def _is_stub(function: Function) -> bool:
    return any(_STUBS.search(ast.unparse(d)) for d in function.decorator_list)


def _takes_none(function: Function) -> bool:
    """Whether a function has a parameter that is None by default, or whose annotation admits it."""
    a = function.args
    if any(d is not None and _is_none(d) for d in (*a.defaults, *a.kw_defaults)):
        return True
    given = (arg.annotation for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs))
    return any(isinstance(at, ast.Subscript | ast.BinOp) and _ADMITS_NONE.search(ast.unparse(at)) for at in given)


def _handed_names(module: Module) -> set[str]:
    """Return the names of what is called with a parameter that is None by default."""
    found: set[str] = set()
    for function in module.functions:
        empty = {arg.arg for arg, default in parameters(function) if default is not None and _is_none(default)}
        for call in calls_by_function(module).get(function, ()) if empty else ():
            given = (*call.args, *(k.value for k in call.keywords))
            if any(isinstance(g, ast.Name) and g.id in empty for g in given):
                found.add(called(call))
    return found


def _of_parameters(module: Module, function: Function) -> Iterator[Use]:
    """Walk the uses of parameters that are None by default, or that the file hands on while they are."""
    if _is_stub(function):
        return
    for arg, default in parameters(function):
        empty = isinstance(default, ast.Constant) and default.value is None
        if default is not None and not empty:
            continue
        admitted = arg.annotation is not None and bool(_ADMITS_NONE.search(ast.unparse(arg.annotation)))
        use = _use_at_once(module, function, arg.arg)
        if use is None:
            continue
        origin = arg if empty or admitted else _handed_on(module, function, arg.arg)
        if origin is not None:
            yield Use(arg.arg, use, origin)


def _handed_on(module: Module, function: Function, name: str) -> ast.arg | None:
    """Return the parameter of a caller in the file that is None by default, untouched, and handed on at once."""
    for call in module.calls.get(function.name, ()):
        around, place = module.tree.function(call), target(module, call)
        if around is None or around is function or place is None or place[1] is not function:
            continue
        given = key(argument_for(call, function, name))
        for arg, default in parameters(around):
            none = isinstance(default, ast.Constant) and default.value is None
            untouched = none and arg.arg == given and not _asked(around, given) and not _bound(around, given)
            if untouched and not _conditional(module, call, around):
                return arg
    return None


def _use_at_once(module: Module, function: Function, name: str) -> ast.AST | None:
    """Return the first use of a name in a function that neither asks about it nor binds it, if no test stands above."""
    use = next(_uses(function, name), None)
    if use is None or _conditional(module, use, function):
        return None
    if _asked(function, name) or _bound(function, name):
        return None
    early = (n for n in walk_scope(function) if isinstance(n, ast.Return | ast.Raise | ast.Yield | ast.YieldFrom))
    return None if any(n.lineno < use.lineno for n in early) else use  # type: ignore[attr-defined]


def _uses(around: ast.AST, name: str) -> Iterator[ast.AST]:
    """Walk what fails where a name is None: `x.a`, `x[0]`, `"a" in x`, `x()`, `for a in x`, `*x`, `len(x)`."""
    body = around.body if isinstance(around, FUNCTIONS) else [around]
    for node in (n for statement in body for n in (statement, *walk_scope(statement))):  # decorators are not run in it
        if isinstance(node, ast.Attribute | ast.Subscript) and key(node.value) == name:
            if isinstance(node, ast.Subscript) or not node.attr.startswith("__"):
                yield node
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            if key(node.comparators[0]) == name:
                yield node
        elif isinstance(node, ast.Call):
            measured = isinstance(node.func, ast.Name) and node.func.id in ("len", "enumerate", "sorted", "reversed")
            if key(node.func) == name or (measured and node.args and key(node.args[0]) == name):
                yield node
        elif isinstance(node, ast.For) and key(node.iter) == name:
            yield node.iter


def _asked(function: Function, name: str) -> bool:
    """Whether a test of the function mentions the name, but for `"a" in name`; or it is handed to what may ask."""
    for node in ast.walk(function):
        holds = isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn)
        if holds and key(node.comparators[0]) == name:  # type: ignore[attr-defined]
            continue
        tests: list[ast.AST] = []
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            tests = [node.test]
        elif isinstance(node, ast.BoolOp):
            tests = list(node.values)
        elif isinstance(node, ast.comprehension):
            tests = list(node.ifs)
        elif isinstance(node, ast.Match):
            tests = [node.subject]
        elif isinstance(node, ast.Compare):
            tests = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and key(node.func) in ("isinstance", "hasattr", "getattr", "callable", "type"):
            tests = list(node.args)
        if any(_mentions(test, name) for test in tests):
            return True
    return False


def _mentions(node: ast.AST, name: str) -> bool:
    """Whether an expression asks about the place itself; `"a" in x` and `x.a > 1` do not: they need it."""
    place = key(node)
    if place is not None:
        return place == name
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return _mentions(node.left, name)
    return any(_mentions(child, name) for child in ast.iter_child_nodes(node))


def _bound(function: Function, name: str) -> bool:
    """Whether a function gives the name a value."""
    return any(
        isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, ast.Store | ast.Del) and key(n) == name
        for n in ast.walk(function)
    )


def _conditional(module: Module, node: ast.AST, function: ast.AST, *, loops: bool = False) -> bool:
    """Whether a node runs only under some test, in a loop or a nested function, or where a failure is caught.

    With `loops`, what runs in a plain loop counts as run.
    """
    below = node
    for above in module.tree.above(node):
        if above is function:
            return False
        if isinstance(above, ast.For | ast.comprehension) and (below is above.iter or loops):
            below = above
            continue
        if isinstance(above, ast.If | ast.While) and below is above.test:
            below = above
            continue
        if isinstance(above, ast.IfExp | ast.BoolOp):
            first = above.values[0] if isinstance(above, ast.BoolOp) else above.test
            if below is first:
                below = above
                continue
        if isinstance(above, _BRANCHES):
            return True
        below = above
    return True


_BRANCHES = (
    *(ast.If, ast.IfExp, ast.BoolOp, ast.While, ast.For, ast.AsyncFor, ast.Try, ast.ExceptHandler, ast.Match),
    *(ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp),
)


def _may_leave_none(module: Module, node: ast.Assign) -> bool:
    """Whether an assignment to a plain name may be one that leaves None: asked of every assignment, so cheap."""
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        return False
    value = node.value
    return _left_none(module, node, module.tree.parents[node]) if isinstance(value, _NONE_GIVERS) else False


_NONE_GIVERS = (ast.Constant, ast.IfExp, ast.Call)


def _of_local(module: Module, function: Function, node: ast.Assign) -> Use | None:
    """Return the use of a name that one way leaves None, with no question about it anywhere in the function."""
    name, branch = node.targets[0].id, module.tree.parents[node]  # type: ignore[attr-defined]
    if next(module.tree.loops(node), None) is not None or _is_stub(function):
        return None
    end = _end_of(module, node, branch)
    others = [n for n in walk_scope(function) if isinstance(n, ast.Assign) and n is not node and _sets(n, name)]
    if any(n.lineno > end for n in others) or _asked(function, name):
        return None
    for use in _uses(function, name):
        behind = use.lineno > end and not any(True for _ in module.tree.handlers_around(use))  # type: ignore[attr-defined]
        if behind and (isinstance(branch, ast.ExceptHandler) or not _conditional(module, use, function)):
            return Use(name, use, node)
    return None


def _sets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for t in node.targets for n in ast.walk(t))


def _left_none(module: Module, node: ast.Assign, branch: ast.AST) -> bool:
    """Whether an assignment leaves None where its sibling gives a value: in `except`, in one arm, in a ternary."""
    name = node.targets[0].id  # type: ignore[attr-defined]
    if isinstance(node.value, ast.IfExp):
        arms = (node.value.body, node.value.orelse)
        return sum(_is_none(a) for a in arms) == 1
    if isinstance(node.value, ast.Call):
        return _answers_none(node.value)
    if not _is_none(node.value):
        return False
    if isinstance(branch, ast.ExceptHandler):
        attempt = module.tree.parents[branch]
        tried = attempt.body if isinstance(attempt, ast.Try) else []
        leaves = isinstance(branch.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
        return not leaves and any(isinstance(s, ast.Assign) and _sets(s, name) for s in tried)
    if isinstance(branch, ast.If) and node in branch.orelse:
        return any(isinstance(s, ast.Assign) and _sets(s, name) for s in branch.body)
    return False


def _answers_none(call: ast.Call) -> bool:
    """Whether a call is one that answers None: `d.get(k, None)`, `os.environ.get(k)`, `os.getenv(k)`, `which(p)`."""
    name, owner = called(call), key(receiver(call)) or ""
    if name == "get" and len(call.args) == 2 and not call.keywords:
        return _is_none(call.args[1])
    if name == "getenv" or (name == "get" and owner.endswith("environ")):
        return len(call.args) == 1 and not call.keywords
    return name == "which" and owner in ("shutil", "")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _end_of(module: Module, node: ast.Assign, branch: ast.AST) -> int:
    """Return the last line of the statement whose arms differ."""
    if isinstance(node.value, ast.IfExp | ast.Call):
        return node.end_lineno or node.lineno
    at = module.tree.parents[branch] if isinstance(branch, ast.ExceptHandler) else branch
    return getattr(at, "end_lineno", None) or node.lineno


def _of_attributes(module: Module) -> Iterator[Use]:
    """Walk the uses of objects of `self` that `__init__` makes only where an option says so."""
    told: set[tuple[ast.AST | None, str]] = set()
    for owner in module.tree.all(ast.Attribute):
        if not (isinstance(owner.value, ast.Name) and owner.value.id == "self" and is_thing(f"self.{owner.attr}")):
            continue
        above = module.tree.parents[owner]
        if not isinstance(above, ast.Attribute) and not (isinstance(above, ast.Call) and above.func is owner):
            continue
        place, function = f"self.{owner.attr}", module.tree.function(owner)
        if function is None or function.name == "__init__" or (function, place) in told:
            continue
        told.add((function, place))
        made = _made_by_choice(module, function, place)
        use = next(_uses(function, place), None) if made is not None else None
        if made is not None and use is not None and not _conditional(module, use, function, loops=True):
            yield Use(place, use, made)


def _made_by_choice(module: Module, function: Function, place: str) -> ast.IfExp | None:
    """Return the `Scaler() if half else None` that an attribute is, where no method of the class asks about it."""
    cls = module.tree.class_of(function)
    classes = [(module, cls), *bases(module, cls)] if cls is not None else []
    values = [v for where, c in classes for v in attributes(where, c).get(place.removeprefix("self."), ())]
    made = values[0] if len(values) == 1 else None
    if not isinstance(made, ast.IfExp) or not any(isinstance(a, ast.Call) for a in (made.body, made.orelse)):
        return None
    nothing = [a for a in (made.body, made.orelse) if isinstance(a, ast.Constant) and a.value in (None, False)]
    methods = [item for _, c in classes for item in c.body if isinstance(item, FUNCTIONS)]
    return made if nothing and not any(_asked(item, place) for item in methods) else None
