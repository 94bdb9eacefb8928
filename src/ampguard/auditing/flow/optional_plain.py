"""Uses of what may be None that need no path: nothing in the function asks, and the use stands under no test.

A parameter whose default is None (or whose annotation admits it) and that is used at once; one that a function of the
file hands on in that state; a name that an `except` or an `else` leaves None. Any name counts, because nothing is
guessed: the default itself fails.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_needs import needed_by_display, needed_in_call
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, is_none_literal, key, receiver, walk, walk_scope

_STUBS = regex(r"abstractmethod|overload|fixture|hookimpl|validator|property")


def plain_uses(module: Module) -> Iterator[Use]:
    """Walk such uses of a file, the first of each place in each function."""
    handed = handed_names(module)
    for function in module.functions:
        if _takes_none(function) or function.name in handed:
            yield from _of_parameters(module, function, is_handed=function.name in handed)
    for node in module.tree.all(ast.Assign):
        around = module.tree.function(node) if _may_leave_none(module, node) else None
        use = _of_local(module, around, node) if around is not None else None
        if use is not None:
            yield use


def is_stub(function: Function) -> bool:
    """Whether a decorator says that a function is not called as it is written."""
    return any(_STUBS.search(ast.unparse(d)) for d in function.decorator_list)


def _takes_none(function: Function) -> bool:
    """Whether a function has a parameter that is None by default, or whose annotation admits it."""
    a = function.args
    if any(d is not None and is_none_literal(d) for d in (*a.defaults, *a.kw_defaults)):
        return True
    given = (arg.annotation for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs))
    return any(map(admits_none, given))


def handed_names(module: Module) -> set[str]:
    """Return the names of what is called with a parameter that is None by default."""
    return module.once("handed as None", lambda: _handed_names(module))


def _handed_names(module: Module) -> set[str]:
    found: set[str] = set()
    for function in module.functions:
        empty = {arg.arg for arg, default in parameters(function) if default is not None and is_none_literal(default)}
        for held in (held for name in empty for held in module.tree.named(name, function)):
            above = module.tree.parents[held]
            call = module.tree.parents[above] if isinstance(above, ast.keyword) else above
            if isinstance(call, ast.Call) and call.func is not held and module.tree.function(call) is function:
                found.add(called(call))
    return found


_Asked = list[tuple[str | None, list[ast.expr]]]
"""What is tested, or handed to what may ask; with the place that an `"a" in place` needs, which is no question."""


def _asked(module: Module, function: Function) -> _Asked:
    return module.once(("asked in", function), lambda: _questions(function))


def _questions(function: Function) -> _Asked:
    found: _Asked = []
    for node in walk(function):
        kind = node.__class__
        if kind in _TESTS and (tests := _TESTS[kind](node)):
            held = key(node.comparators[0]) if kind is ast.Compare and _searches(node) else None  # type: ignore[attr-defined]
            found.append((held, tests))
    return found


def _is_needed(module: Module, function: Function, name: str) -> bool:
    """Whether something that may fail is done with a name, and nothing binds it."""
    held = module.tree.named(name, function)
    if any(node.ctx.__class__ is not ast.Load for node in held):
        return False
    above = ((node, module.tree.parents[node]) for node in held)
    return any(owner.__class__ in _OWNERS and node in _OWNERS[owner.__class__](owner) for node, owner in above)


def _searches(node: Any) -> bool:
    return isinstance(node.ops[0], ast.In | ast.NotIn)


_OWNERS: Mapping[type, Callable[[Any], Sequence[Any]]] = {
    ast.Attribute: lambda node: (node.value,),
    ast.Subscript: lambda node: (node.value,),
    ast.Call: lambda node: (node.func, *node.args),
    ast.For: lambda node: (node.iter,),
    ast.Compare: lambda node: node.comparators[:1],
    **dict.fromkeys((ast.Starred, ast.keyword, ast.Dict, ast.comprehension), needed_by_display),
    **dict.fromkeys((ast.FormattedValue, ast.UnaryOp), needed_by_display),
}
"""Where a name stands that fails if it is None: more than `failing_uses` takes, to spare the others its walk."""


def _of_parameters(module: Module, function: Function, *, is_handed: bool) -> Iterator[Use]:
    """Walk the uses of parameters that are None by default, or that the file hands on while they are."""
    text = body_text(module, function)
    for arg, default in parameters(function):
        empty = default is not None and is_none_literal(default)
        admitted = empty or (default is None and admits_none(arg.annotation))
        if not admitted and (default is not None or not is_handed or arg.arg in ("self", "cls")):
            continue
        if not may_need(arg.arg, text) or plainly_asked(arg.arg, text):
            continue  # as the text shows without a walk: handed on only, or asked about
        if not _is_needed(module, function, arg.arg):
            continue
        use = _use_at_once(module, function, arg.arg)
        if use is None or is_stub(function):
            continue
        origin = arg if admitted else _handed_on(module, function, arg.arg)
        if origin is not None:
            yield Use(arg.arg, use, origin)


def body_text(module: Module, function: Function) -> str:
    """Return the text of the body of a function."""
    return "\n".join(module.lines[function.body[0].lineno - 1 : function.end_lineno])


def may_need(name: str, text: str, *, reckons: bool = False) -> bool:
    """Whether anything is written that fails where a name is None: all that `failing_uses` yields, and more.

    With `reckons`, sums and orders count too: all that `needed_by` tells.
    """
    at = text.find(name)
    while at >= 0:
        end = at + len(name)
        before, after = text[max(0, at - 3) : at], text[end : end + 2]
        if after[:1] in _OPENED or after == " (" or before[-1:] in _HELD or before[-2:] == "( " or before == "in ":
            return True
        if (before[-2:] == ", " and after[:1] == ")") or (before[-1:] == "{" and after[:1] == ":"):
            return True
        if reckons and (before[-2:].strip(" ")[-1:] in _SIGNS or after.strip(" ")[:1] in _SIGNS):
            return True
        at = text.find(name, at + 1)
    return False


_OPENED = frozenset(".[(")
"""What follows a name that is reached into, indexed or called."""

_HELD = frozenset("(*")
"""What stands before a name that is the first of what is given, or unpacked."""

_SIGNS = frozenset("+-*/<>%@")


def plainly_asked(name: str, text: str) -> bool:
    """Whether `name is None` or `name is not None` is written outside of comments and strings."""
    for question in (f"{name} is None", f"{name} is not None"):
        at = text.find(question)
        while at >= 0:
            before = text[text.rfind("\n", 0, at) + 1 : at]
            if '"' in before or "'" in before:
                before = _STRINGS.sub("", before)
            if not _IN_WORDS.search(before):
                return True
            at = text.find(question, at + 1)
    return False


_STRINGS = regex(r"\"[^\"]*\"|'[^']*'")
_IN_WORDS = regex(r"[#\"']|[\w.]$")
"""What stands before a name in its line that makes it part of a comment, a string or another name."""


def admits_none(annotation: ast.expr | None) -> bool:
    """Whether an annotation is `Optional[...]`, or a union that begins or ends with None."""
    if isinstance(annotation, ast.Subscript):
        return key(annotation.value) in _OPTIONAL
    if not (isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr)):
        return False
    first = annotation.left
    while isinstance(first, ast.BinOp):
        first = first.left
    return is_none_literal(annotation.right) or is_none_literal(first)


_OPTIONAL = ("Optional", "typing.Optional", "t.Optional")


def _handed_on(module: Module, function: Function, name: str) -> ast.arg | None:
    """Return the parameter of a caller in the file that is None by default, untouched, and handed on at once."""
    handing = handing_call(module, function, name)
    return handing[1] if handing is not None else None


def handing_call(
    module: Module, function: Function, name: str, *, loops: bool = False
) -> tuple[ast.Call, ast.arg] | None:
    """Return a call of the file that hands on a parameter of its own function as it is, None by default.

    With `loops`, what is handed on in a plain loop counts as well.
    """
    for call in module.calls.get(function.name, ()):
        around, given = module.tree.function(call), key(argument_for(call, function, name))
        if around is None or around is function or given is None:
            continue
        for arg, default in parameters(around):
            none = isinstance(default, ast.Constant) and default.value is None
            untouched = none and arg.arg == given and not is_touched(module, around, given)
            if (
                untouched
                and not is_conditional(module, call, around, loops=loops)
                and not _leaves_the_file(module, call)
            ):
                # Asked last, and of this file alone: whose function it is may take other files to tell.
                place = target(module, call, (f"def {function.name}(",))
                if place is not None and place[1] is function:
                    return call, arg
    return None


def _leaves_the_file(module: Module, call: ast.Call) -> bool:
    """Whether a call of `super()` runs a method of a base from another file: known without reading that file."""
    owner = receiver(call)
    if not (isinstance(owner, ast.Call) and called(owner) == "super"):
        return False
    cls = module.tree.class_of(call)
    names = {key(base) for base in cls.bases} if cls is not None else set()
    classes: list[ast.ClassDef] = module.tree.all(ast.ClassDef)
    return not any(own.name in names for own in classes)


def _use_at_once(module: Module, function: Function, name: str) -> ast.AST | None:
    """Return the first use of a name in a function that neither asks about it nor binds it, if no test stands above."""
    use = next(failing_uses(module, function, name), None)
    if use is None or is_conditional(module, use, function):
        return None
    if is_touched(module, function, name):
        return None
    early = (n for n in walk_scope(function) if isinstance(n, ast.Return | ast.Raise | ast.Yield | ast.YieldFrom))
    return None if any(n.lineno < use.lineno for n in early) else use  # type: ignore[attr-defined]


def is_touched(module: Module, function: Function, name: str) -> bool:
    """Whether a function asks about a plain name, or binds it."""
    held = module.tree.named(name, function)
    return any(node.ctx.__class__ is not ast.Load for node in held) or is_asked(module, function, name)


def failing_uses(module: Module, around: ast.AST, name: str) -> Iterator[ast.AST]:
    """Walk what fails where a name is None, as `needed_by` tells it; but for sums and orders, which numbers are in."""
    for node in _owners_of(module, around, name) if name.isidentifier() else _below(around):
        if node.__class__ in _NEEDING and not _reckons(node) and any(key(n) == name for n in needed_by(node)):
            yield node.iter if isinstance(node, _GOING_OVER) else node


def _below(around: ast.AST) -> Iterator[ast.AST]:
    body = around.body if isinstance(around, FUNCTIONS) else [around]
    yield from (n for statement in body for n in (statement, *walk_scope(statement)))  # decorators are not run in it


def _owners_of(module: Module, around: ast.AST, name: str) -> Iterator[ast.AST]:
    """Walk what a bare name stands in, where it is read in the scope of a function's body or of a statement."""
    is_function = isinstance(around, FUNCTIONS)
    first = around.body[0].lineno if is_function else 0  # type: ignore[attr-defined]
    scope = around if is_function else module.tree.scope(around)
    told: set[ast.AST] = set()
    for held in module.tree.named(name, around):
        above = module.tree.parents[held]
        if held.lineno >= first and module.tree.scope(held) is scope and above not in told:
            told.add(above)
            yield above


def needed_by(node: ast.AST) -> Sequence[ast.expr]:
    """Return what a node fails without: `x` of `x.a`, `x[0]`, `"a" in x`, `x()`, `for a in x`, `len(x)`, `x - 1`."""
    if isinstance(node, ast.Attribute):
        return () if node.attr.startswith("__") else (node.value,)
    if isinstance(node, ast.Subscript):
        return (node.value,)
    if isinstance(node, ast.Compare):
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            return (node.comparators[0],)
        return (node.left, node.comparators[0]) if isinstance(node.ops[0], _ORDERS) else ()
    if isinstance(node, ast.Call):
        return (node.func, *needed_in_call(node))
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.BitOr | ast.BitAnd | ast.BitXor):
            return ()
        return (node.left,) if isinstance(node.op, ast.Mod) else (node.left, node.right)  # `"%s" % None` is a text
    return (node.iter,) if isinstance(node, ast.For) else needed_by_display(node)


_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_NEEDING = frozenset(
    {ast.Attribute, ast.Subscript, ast.Compare, ast.Call, ast.For, ast.Starred, ast.keyword, ast.Dict}
    | {ast.comprehension, ast.FormattedValue, ast.UnaryOp}
)
_GOING_OVER = (ast.For, ast.comprehension)


def _reckons(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], _ORDERS)


def is_asked(module: Module, function: Function, name: str) -> bool:
    """Whether a test of the function mentions the name, but for `"a" in name`; or it is handed to what may ask."""
    asked = _asked(module, function)
    return any(held != name and any(asks_about(test, name) for test in tests) for held, tests in asked)


_ASKING = ("isinstance", "hasattr", "getattr", "callable", "type")
_TESTS: Mapping[type, Callable[[Any], list[ast.expr]]] = {
    **dict.fromkeys((ast.If, ast.IfExp, ast.While, ast.Assert), lambda node: [node.test]),
    ast.BoolOp: lambda node: node.values,
    ast.comprehension: lambda node: node.ifs,
    ast.Match: lambda node: [node.subject],
    ast.Compare: lambda node: [node.left, *node.comparators],
    ast.Call: lambda node: node.args if key(node.func) in _ASKING else [],
}
"""What may be a question about a place."""


def asks_about(node: ast.AST, name: str) -> bool:
    """Whether an expression asks about the place itself; `"a" in x`, `x.a > 1`, `len(x) > 1` do not: they need it."""
    place = key(node)
    if place is not None:
        return place == name
    if isinstance(node, ast.Call) and key(node.func) == "len":
        return False
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return asks_about(node.left, name)
    return any(asks_about(child, name) for child in ast.iter_child_nodes(node))


def is_conditional(module: Module, node: ast.AST, function: ast.AST, *, loops: bool = False) -> bool:
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
        if isinstance(above, _DISPLAYS) and module.tree.inside(node, above.generators[0].iter):
            below = above  # the first of them is gone over at once
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


_DISPLAYS = (ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)
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
    text = body_text(module, function)
    if not may_need(name, text) or plainly_asked(name, text):
        return None
    if next(module.tree.loops(node), None) is not None:
        return None
    end = _end_of(module, node, branch)
    if any(n is not node and n.lineno > end and _sets(n, name) for n in _assignments(module, function)):
        return None
    if is_asked(module, function, name):
        return None
    for use in failing_uses(module, function, name):
        behind = use.lineno > end and not any(True for _ in module.tree.handlers_around(use))  # type: ignore[attr-defined]
        if behind and (isinstance(branch, ast.ExceptHandler) or not is_conditional(module, use, function)):
            return None if _leaves_for_it(function, node, branch, use) else Use(name, use, node)
    return None


def _leaves_for_it(function: Function, node: ast.Assign, branch: ast.AST, use: ast.AST) -> bool:
    """Whether a function leaves, between what is left None and a use, for what decided it: `if rank != 0: return`."""
    deciding = node.value if isinstance(node.value, ast.IfExp) else branch
    if not isinstance(deciding, ast.If | ast.IfExp):
        return False
    places = {key(n) for n in walk(deciding.test) if isinstance(n, ast.Name | ast.Attribute)} - {"self", None}
    early = (s for s in function.body if isinstance(s, ast.If) and node.lineno < s.lineno < use.lineno)  # type: ignore[attr-defined]
    leaving = (s for s in early if isinstance(s.body[-1], ast.Return | ast.Raise))
    return any(key(n) in places for s in leaving for n in walk(s.test) if isinstance(n, ast.Name | ast.Attribute))


def _assignments(module: Module, function: Function) -> list[ast.Assign]:
    found = module.once("plain assignments by function", lambda: group(module, module.tree.all(ast.Assign)))
    return found.get(function, [])  # type: ignore[return-value]


def _sets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for t in node.targets for n in walk(t))


def _left_none(module: Module, node: ast.Assign, branch: ast.AST) -> bool:
    """Whether an assignment leaves None where its sibling gives a value: in `except`, in one arm, in a ternary."""
    name = node.targets[0].id  # type: ignore[attr-defined]
    if isinstance(node.value, ast.IfExp):
        arms = (node.value.body, node.value.orelse)
        return sum(is_none_literal(a) for a in arms) == 1
    if isinstance(node.value, ast.Call):
        return _answers_none(node.value)
    if not is_none_literal(node.value):
        return False
    if isinstance(branch, ast.ExceptHandler):
        attempt = module.tree.parents[branch]
        tried = attempt.body if isinstance(attempt, ast.Try) else []
        leaves = isinstance(branch.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
        return not leaves and any(isinstance(s, ast.Assign) and _sets(s, name) for s in tried)
    if isinstance(branch, ast.If) and node in branch.orelse:
        if isinstance(branch.orelse[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
            return False
        return any(isinstance(s, ast.Assign) and _sets(s, name) for s in branch.body)
    return False


def _answers_none(call: ast.Call) -> bool:
    """Whether a call is one that answers None: `d.get(k, None)`, `os.environ.get(k)`, `os.getenv(k)`, `which(p)`."""
    name, owner = called(call), key(receiver(call)) or ""
    if name == "get" and len(call.args) == 2 and not call.keywords:
        return is_none_literal(call.args[1])
    if name == "getenv" or (name == "get" and owner.endswith("environ")):
        return len(call.args) == 1 and not call.keywords
    return name == "which" and owner in ("shutil", "")


def _end_of(module: Module, node: ast.Assign, branch: ast.AST) -> int:
    """Return the last line of the statement whose arms differ."""
    if isinstance(node.value, ast.IfExp | ast.Call):
        return node.end_lineno or node.lineno
    at = module.tree.parents[branch] if isinstance(branch, ast.ExceptHandler) else branch
    return getattr(at, "end_lineno", None) or node.lineno
