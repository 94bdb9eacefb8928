"""Uses of what a function of the project handed back among other things, and left None by a setting.

A factory begins with `fine = None`, makes it under `if args.n_fine > 0`, and returns `{"fine": fine, ...}`, or `fine`
in a tuple. Its caller writes `made["fine"].state_dict()` under no test of either. Followed are plain functions, found
by the key or by the name, and methods of `self`; and uses in the function that unpacks, of an attribute in the other
methods.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional import Use, is_thing
from ampguard.auditing.flow.optional_attributes import runs_untold
from ampguard.auditing.flow.optional_plain import failing_uses, is_asked
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, definition, target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk, walk_scope

_ITEM = regex(r"\[[\"']\w+[\"']\](\.\w|\()")
_OFTEN_NONE = regex(r"(^|_)(sampler|ema|teacher|scheduler|scaler|writer|logger|tracker)(_|$)")
_ONE_RANK = regex(r"rank|main|master|local|primary|chief|zero|is_first", re.IGNORECASE)
_WORDS = regex(r"[a-zA-Z]{2,}|[A-Z]")
_OF_NO_MEANING = frozenset({"self", "args", "cfg", "config", "opt", "not", "and", "or", "is", "none", "use", "true"})


@dataclass(frozen=True)
class _Left:
    """What a factory leaves None: the None, and the tests that decide it."""

    none: ast.expr
    tests: tuple[ast.expr, ...]


@dataclass(frozen=True)
class _Part:
    """A part of what a function hands back.

    Attributes:
        place: How its user spells it.
        position: Its place in a tuple; None where one thing is handed back.
        item: Its key in a dictionary, "" where it is none.
    """

    place: str
    position: int | None
    item: str


def uses_of_what_was_handed_back(module: Module) -> Iterator[Use]:
    """Walk the first use of each such place in each function."""
    items = _items_used(module)
    for statement in module.tree.all(ast.Assign):
        call, bound = statement.value, statement.targets[0]
        if not isinstance(call, ast.Call) or not (items or isinstance(bound, ast.Tuple)) or not _is_followed(call):
            continue
        for part in _parts(bound, items):
            function = module.tree.function(statement)
            words = (f"'{part.item}'", f'"{part.item}"', f"{part.item}=") if part.item else ("None",)
            made = _factory(module, call, words) if function is not None else None
            left = _left_none(*made, part) if made is not None else None
            if function is None or made is None or left is None or not _is_open(made[1], call, left):
                continue
            for user in _users(module, function, part):
                use = _first_use(module, user, statement, part, left)
                if use is not None:
                    yield Use(part.place, use, statement)


def _is_followed(call: ast.Call) -> bool:
    """Whether a call runs a plain function, or a method of the object's own."""
    return isinstance(call.func, ast.Name) or key(getattr(call.func, "value", None)) == "self"


def _factory(module: Module, call: ast.Call, words: tuple[str, ...]) -> tuple[Module, Function] | None:
    if isinstance(call.func, ast.Attribute):
        return target(module, call, words)
    made = definition(module, call.func, words)
    return (made[0], made[1]) if made is not None and isinstance(made[1], FUNCTIONS) else None


def _users(module: Module, function: Function, part: _Part) -> Iterator[Function]:
    """Walk the functions that may use a part: the one that unpacks it, or all methods but that one for an attribute."""
    if not part.place.startswith("self."):
        yield function
        return
    cls, name = module.tree.class_of(function), part.place.removeprefix("self.")
    if cls is None or name in attributes(module, cls):
        return  # a line of its own gives it too
    for item in (item for item in cls.body if isinstance(item, FUNCTIONS) and item is not function):
        if part.place in module.text_of(item) and runs_untold(module, item, name):
            yield item


def _items_used(module: Module) -> dict[str, set[str]]:
    """Return, by the name of a dictionary, the keys of what is used right out of it: `made["fine"].train()`."""
    found: dict[str, set[str]] = {}
    for node in module.tree.all(ast.Subscript) if _ITEM.search(module.text) else ():
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        used = isinstance(index, str) and isinstance(module.tree.parents[node], ast.Attribute | ast.Call)
        if used and isinstance(node.value, ast.Name):
            found.setdefault(node.value.id, set()).add(str(index))
    return found


def _parts(bound: ast.expr, items: dict[str, set[str]]) -> Iterator[_Part]:
    """Walk what may have been left None of all that a call hands back."""
    several = isinstance(bound, ast.Tuple)
    elements = bound.elts if isinstance(bound, ast.Tuple) else [bound]
    for index, element in enumerate(elements):
        if isinstance(element, ast.Starred):
            return
        place, position = key(element) or "", index if several else None
        for item in sorted(items.get(place, ())):
            yield _Part(f"{place}[{item!r}]", position, item)
        own = place.count(".") == 1 and place.startswith("self.")
        if several and (own or place.isidentifier()) and (is_thing(place) or _OFTEN_NONE.search(place)):
            yield _Part(place, position, "")


def _left_none(where: Module, function: Function, part: _Part) -> _Left | None:
    """Return what leaves a part None of all that a function returns."""
    if "None" not in where.text_of(function):
        return None
    returned = [n.value for n in walk_scope(function) if isinstance(n, ast.Return)]
    value = returned[0] if len(returned) == 1 else None
    if part.position is not None:
        elements = value.elts if isinstance(value, ast.Tuple) else []
        value = elements[part.position] if part.position < len(elements) else None
    if part.item:
        value = _item_of(where, function, value, part.item)
    return _none_of(where, function, value)


def _item_of(where: Module, function: Function, value: ast.expr | None, item: str) -> ast.expr | None:
    """Return what a dictionary, or the name of one, holds under a key; None where it may get it elsewhere too."""
    name = value.id if isinstance(value, ast.Name) else ""
    values = where.names.values(name, value) if name and value is not None else [value]
    made = values[0] if len(values) == 1 else None
    found: ast.expr | None = None
    if isinstance(made, ast.Dict):
        pairs = zip(made.keys, made.values, strict=True)
        found = next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == item), None)
    elif isinstance(made, ast.Call) and key(made.func) == "dict":
        found = next((k.value for k in made.keywords if k.arg == item), None)
    place = f"{name}[{item!r}]"
    again = found is not None and any(isinstance(n, ast.Subscript) and key(n) == place for n in walk(function))
    return None if again else found


def _none_of(where: Module, function: Function, value: ast.expr | None) -> _Left | None:
    """Return the None that one way through a function leaves a value, with what decides it."""
    if isinstance(value, ast.IfExp):
        none = next((arm for arm in (value.body, value.orelse) if is_none_literal(arm)), None)
        return _Left(none, (value.test,)) if none is not None else None
    if not isinstance(value, ast.Name) or any(arg.arg == value.id for arg, _ in parameters(function)):
        return None
    found = where.names.lookup(value.id, value)
    if found is None or found[0] is not function:
        return None
    stored = [n for n in where.tree.named(value.id, function) if isinstance(n.ctx, ast.Store)]
    values = [b.value for b in found[1] if b.kind == "assign" and b.value is not None]
    if len(values) == 1 and len(stored) == 1:
        return _none_of(where, function, values[0]) if isinstance(values[0], ast.IfExp) else None
    nones = [v for v in values if is_none_literal(v)]
    tests = [_deciding(where, name, function) for name in stored if not _gives_none(where, name)]
    if (
        len(nones) != 1
        or not tests
        or not all(tests)
        or any(key(n) == value.id for own in tests for t in own for n in walk(t))
    ):
        return None
    if not _comes_first_or_beside(where, nones[0], stored):
        return None
    return _Left(nones[0], tuple(t for own in tests for t in own))


def _gives_none(where: Module, name: ast.Name) -> bool:
    statement = where.tree.statement(name)
    return isinstance(statement, ast.Assign | ast.AnnAssign) and is_none_literal(statement.value)


def _deciding(where: Module, node: ast.AST, function: Function) -> list[ast.expr]:
    """Return the tests of the `if`s without an `else` for the rest, or of which the `else` gives None, above a node."""
    found = []
    for above in where.tree.above(node):
        if above is function:
            break
        if isinstance(above, ast.If):
            found.append(above.test)
        elif not isinstance(above, ast.Assign | ast.Tuple | ast.With):
            return []
    return found


def _comes_first_or_beside(where: Module, none: ast.expr, stored: list[ast.Name]) -> bool:
    """Whether one `if` makes all objects, and the None stands in front of it or in its other arm."""
    statement = where.tree.statement(none)
    others = [where.tree.statement(n) for n in stored if not _gives_none(where, n)]
    block = where.tree.parents[statement]
    branches = {next((a for a in where.tree.above(s) if where.tree.parents.get(a) is block), None) for s in others}
    if isinstance(block, ast.If):
        return _stands_beside(where, statement, others)
    if len(branches) != 1 or not isinstance(branch := branches.pop(), ast.If):
        return False
    arms = [any(where.tree.inside(s, b) for s in others for b in arm) for arm in (branch.body, branch.orelse)]
    return statement.lineno < branch.lineno and not all(arms)


def _stands_beside(where: Module, statement: ast.stmt, others: list[ast.stmt]) -> bool:
    """Whether a None and all objects stand in different arms of one `if`, with as many `elif`s as there are."""
    chain = [at for at in where.tree.above(statement) if isinstance(at, ast.If)]
    block = chain[0].orelse if statement in chain[0].orelse else chain[0].body
    if any(where.tree.inside(s, b) for s in others for b in block):
        return False
    return any(all(where.tree.inside(s, at) for s in others) for at in chain)


def _is_open(function: Function, call: ast.Call, left: _Left) -> bool:
    """Whether the tests hang on settings: on no rank, and on no parameter that the call settles by a constant."""
    names = {arg.arg: default for arg, default in parameters(function)}
    for test in left.tests:
        if _ONE_RANK.search(ast.unparse(test)):
            return False
        held = {n.value for n in walk(test) if isinstance(n, ast.Attribute | ast.Subscript)}
        for name in (n for n in walk(test) if isinstance(n, ast.Name) and n.id in names and n not in held):
            given = argument_for(call, function, name.id) or names[name.id]
            if given is None or isinstance(given, ast.Constant):
                return False
    return True


def _first_use(module: Module, function: Function, bound: ast.Assign, part: _Part, left: _Left) -> ast.AST | None:
    """Return the first use under no test of the part itself or of what decided it."""
    place = part.place
    if is_asked(module, function, place) or _stored_again(function, bound, place):
        return None
    told = {w.lower() for t in left.tests for w in _WORDS.findall(ast.unparse(t))} - _OF_NO_MEANING
    told |= {w.lower() for w in _WORDS.findall(part.item or place)}
    own = module.tree.function(bound) is function
    for use in failing_uses(module, function, place):
        if (own and use.lineno <= bound.lineno) or any(True for _ in module.tree.handlers_around(use)):  # type: ignore[attr-defined]
            continue
        if not any(told & _said(test) for test in _tests_around(module, function, use)):
            return use
    return None


def _said(test: ast.expr) -> set[str]:
    return {word.lower() for word in _WORDS.findall(ast.unparse(test))}


def _stored_again(function: Function, bound: ast.Assign, place: str) -> bool:
    """Whether a function gives the place, or the dictionary that holds it, another value."""
    places = (place, place.partition("[")[0])
    stored = (n for n in walk(function) if isinstance(getattr(n, "ctx", None), ast.Store) and key(n) in places)
    own = set(walk(bound))
    return any(n not in own for n in stored)


def _tests_around(module: Module, function: Function, use: ast.AST) -> Iterator[ast.expr]:
    """Walk the tests above a use, and those before it that leave."""
    for above in module.tree.above(use):
        if above is function:
            break
        if isinstance(above, ast.If | ast.IfExp | ast.While):
            yield above.test
        elif isinstance(above, ast.BoolOp):
            yield above
    line: int = use.lineno  # type: ignore[attr-defined]
    for node in walk_scope(function):
        if not isinstance(node, ast.If | ast.Assert) or node.lineno >= line:
            continue
        if isinstance(node, ast.Assert) or isinstance(node.body[-1], ast.Return | ast.Raise):
            yield node.test
