"""What a dictionary of states holds: a checkpoint's payload, traced back through the code that fills it.

Followed: dict literals, `dict(...)`, `**other`, `a | b`, `state["x"] = ...`, `state.update(...)`, attributes of
`self`, dataclasses of the project, functions of the project that return such a dictionary. What cannot be followed
makes the contents *open*: something more may be in it, and nobody may say that a thing is missing.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ampguard.auditing.reading.calls import Place, assigned, constructed, target
from ampguard.auditing.reading.copies import copied_parameter, given_to, items_of
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.state_kinds import kinds_of_word, state_kinds
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk_scope

_DEPTH = 6
"""Steps back from the payload to its parts."""

_WHOLE = frozenset({"deepcopy", "copy", "asdict", "vars", "dict", "OrderedDict", "_asdict", "cpu", "to_dict", "items"})
"""Calls whose result holds what their argument or receiver holds."""

_HARMLESS = frozenset(
    {"print", "len", "torch_save", "save", "isinstance", "type", "id", "str", "repr", "keys", "info", "debug", "list"}
    | {"sorted", "pop", "get", "items", "values", "deepcopy", "asdict", "update", "setdefault", "load_state_dict"}
)
"""Calls that add nothing to a dictionary given to them."""


@dataclass
class Contents:
    """What a payload holds.

    Attributes:
        kinds: Of "model", "optimizer", "scheduler", "scaler", "rng", "progress" those that are in it.
        open: Whether something may be in it that could not be followed.
        parameter: The parameter of the enclosing function that it is, where it is nothing else.
    """

    kinds: set[str] = field(default_factory=set)
    open: bool = False
    parameter: str | None = None

    def add(self, other: "Contents") -> None:
        """Take in what another part holds."""
        self.kinds |= other.kinds
        self.open = self.open or other.open or other.parameter is not None


def contents(module: Module, node: ast.expr | None, *, depth: int = 0) -> Contents:
    """Return what the expression holds when it is used where it stands."""
    found = Contents()
    if node is None or depth > _DEPTH:
        found.open = True
    elif isinstance(node, ast.Dict):
        _add_dict(module, node, found, depth)
    elif isinstance(node, ast.Name):
        _add_name(module, node, found, depth)
    elif isinstance(node, ast.Attribute):
        _add_attribute(module, node, found, depth)
    elif isinstance(node, ast.Call):
        _add_call(module, node, found, depth)
    elif isinstance(node, ast.IfExp | ast.BoolOp | ast.BinOp | ast.List | ast.Tuple | ast.Starred | ast.NamedExpr):
        for part in _parts(node):
            found.add(contents(module, part, depth=depth + 1))
    elif isinstance(node, ast.DictComp):
        _add_comprehension(module, node, found, depth)
    elif not isinstance(node, ast.Constant):
        found.open = True
    return found


def _parts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.List | ast.Tuple):
        return node.elts
    return [node.value] if isinstance(node, ast.Starred | ast.NamedExpr) else []


def _add_comprehension(module: Module, node: ast.DictComp, found: Contents, depth: int) -> None:
    """Add `{name: value.cpu() for name, value in states.items()}`: what `states` holds, where that can be followed."""
    over = items_of(node.generators[0].iter)
    inner = contents(module, over, depth=depth + 1) if over is not None else Contents(open=True)
    stated = _value_kinds(module, node.value)
    if inner.open or inner.parameter is not None or len(node.generators) > 1:
        found.kinds |= stated or {"model"}
    else:
        found.add(inner)
        found.kinds |= stated


def _add_dict(module: Module, node: ast.Dict, found: Contents, depth: int) -> None:
    for name, value in zip(node.keys, node.values, strict=True):
        if name is None:
            found.add(contents(module, value, depth=depth + 1))
        else:
            _add_item(module, name, value, found)


def _add_item(module: Module, name: ast.expr, value: ast.expr, found: Contents) -> None:
    if isinstance(value, ast.Constant) and value.value is None:
        return
    kinds = _value_kinds(module, value)
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        kinds |= kinds_of_word(name.value)
    elif not kinds:
        found.open = True
    found.kinds |= kinds
    if isinstance(value, ast.Dict):
        _add_dict(module, value, found, 0)


def _value_kinds(module: Module, value: ast.expr) -> set[str]:
    """Return what a value is: by the object whose state it is, whatever that object's key is called."""
    kinds: set[str] = set()
    for node in (value, *walk_scope(value)):
        if isinstance(node, ast.Call) and called(node) in ("state_dict", "get_state"):
            kinds |= state_kinds(module, receiver(node))
        elif isinstance(node, ast.Call) and called(node) in ("get_rng_state", "get_rng_state_all", "getstate"):
            kinds.add("rng")
        elif isinstance(node, ast.Name | ast.Attribute) and is_scaler(module, node):
            kinds.add("scaler")
        elif isinstance(node, ast.Name) and isinstance(
            module.tree.parents.get(node), ast.Call | ast.keyword | ast.Dict
        ):
            kinds |= kinds_of_word(node.id) - {"model", "progress"}
    return kinds


def _add_name(module: Module, node: ast.Name, found: Contents, depth: int) -> None:
    looked = module.names.lookup(node.id, node)
    if looked is None:
        found.open = True
        return
    scope, bindings = looked
    since = _last_whole(module, node)
    for binding in bindings:
        line = getattr(binding.node, "lineno", 0)
        if since is not None and not since.lineno <= line <= node.lineno:
            continue
        if module.tree.inside(node, binding.node):  # `state = asdict(state)`: the new one is not in the old one
            continue
        if binding.kind == "parameter":
            found.parameter = node.id if since is None and len(bindings) == 1 else None
            found.open = found.open or found.parameter is None
        elif binding.kind == "assign" and binding.value is not None:
            found.add(contents(module, binding.value, depth=depth + 1))
        else:
            found.open = True
    before = len(found.kinds)
    start = since.lineno if since is not None else 0
    _add_mutations(module, scope, node.id, found, (start, node.lineno), depth)
    if found.parameter is not None and len(found.kinds) != before:
        found.parameter, found.open = None, True


def _last_whole(module: Module, node: ast.Name) -> ast.stmt | None:
    """Return the last plain assignment that every way to the node runs through, by the blocks around the node."""
    at: ast.AST = module.tree.statement(node)
    while True:
        above = module.tree.parents.get(at)
        if above is None or isinstance(at, (*FUNCTIONS, ast.ClassDef)):
            return None
        for block in (getattr(above, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and at in block:
                for statement in reversed(block[: block.index(at)]):
                    if node.id in _assigned_names(statement):
                        return statement  # type: ignore[no-any-return]
        at = above


def _assigned_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Assign):
        return [t.id for t in statement.targets if isinstance(t, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


def _add_attribute(module: Module, node: ast.Attribute, found: Contents, depth: int) -> None:
    values = assigned(module, node)
    made = [value for value in values if not _is_load(value)]  # what is loaded was saved by this very code
    if not made:
        found.open = True
    for value in made:
        found.add(contents(module, value, depth=depth + 1))
    cls = module.tree.class_of(node)
    place = key(node)
    if cls is not None and place is not None:
        _add_mutations(module, cls, place, found, (0, 10**9), depth)


def _is_load(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and key(value.func) == "torch.load"


def _add_mutations(
    module: Module, scope: ast.AST, place: str, found: Contents, lines: tuple[int, int], depth: int
) -> None:
    """Add what `place["x"] = ...` and `place.update(...)` put in between two lines, and what other calls might."""
    for target_, value in module.once("subscript stores", lambda: list(_stores(module))):
        if key(target_.value) == place and lines[0] <= target_.lineno and module.tree.inside(target_, scope):
            _add_item(module, target_.slice, value, found)
    for call in module.once("calls by argument", lambda: _by_argument(module)).get(place, ()):
        if lines[0] <= call.lineno <= lines[1] and module.tree.inside(call, scope):
            _add_through_call(module, call, place, found, depth)


def _stores(module: Module) -> Iterator[tuple[ast.Subscript, ast.expr]]:
    for node in module.tree.all(ast.Assign):
        for target_ in node.targets:
            if isinstance(target_, ast.Subscript):
                yield target_, node.value


def _by_argument(module: Module) -> dict[str, list[ast.Call]]:
    """Return calls by the names that they are given, or whose method they are."""
    found: dict[str, list[ast.Call]] = {}
    for call in module.tree.all(ast.Call):
        for node in (*call.args, *(k.value for k in call.keywords), receiver(call)):
            place = key(node)
            if place is not None:
                found.setdefault(place, []).append(call)
    return found


def _add_through_call(module: Module, call: ast.Call, place: str, found: Contents, depth: int) -> None:
    if key(receiver(call)) == place:
        if called(call) == "update":
            for value in call.args:
                found.add(contents(module, value, depth=depth + 1))
            for item in call.keywords:
                _add_item(module, ast.Constant(item.arg or ""), item.value, found)
            found.open = found.open or any(item.arg is None for item in call.keywords)
        elif called(call) == "setdefault" and len(call.args) == 2:
            _add_item(module, call.args[0], call.args[1], found)
        return
    if called(call) not in _HARMLESS and changes_argument(module, call, place):
        found.open = True


def changes_argument(module: Module, call: ast.Call, place: str) -> bool:
    """Whether a call may put something into the dictionary that it is given."""
    if re.search(r"save|upload|dump|write|log|print|send|push|load", called(call), re.I):
        return False
    place_of = target(module, call)
    if place_of is None:
        return True
    function = place_of[1]
    name = given_as(call, place_of, place)
    return name is None or any(_changes(n, name) for n in walk_scope(function))


def _changes(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Store) and key(node.value) == name
    if isinstance(node, ast.Call):
        if called(node) == "update" and key(receiver(node)) == name:
            return True
        return called(node) not in _HARMLESS and name in map(key, node.args)
    return False


def given_as(call: ast.Call, place: Place, argument: str) -> str | None:
    """Return the parameter of the called function that an argument (by its key) arrives as."""
    names = [arg.arg for arg, _ in parameters(place[1])]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    for position, value in enumerate(call.args):
        if key(value) == argument:
            return names[position] if position < len(names) else None
    return next((k.arg for k in call.keywords if key(k.value) == argument), None)


def _add_call(module: Module, node: ast.Call, found: Contents, depth: int) -> None:
    name, owner = called(node), receiver(node)
    place = target(module, node)
    if constructed(module, node) is not None or name in ("dict", "OrderedDict", "Namespace", "SimpleNamespace"):
        _add_arguments(module, node, found, depth)
    elif name in _WHOLE:
        for part in (*node.args[:1], *([owner] if owner is not None and not node.args else [])):
            found.add(contents(module, part, depth=depth + 1))
    elif place is not None and name != "__init__":
        _add_returned(place, node, module, found, depth)
    elif name == "state_dict":
        found.kinds |= state_kinds(module, owner)
        found.open = key(owner) in ("self", None)
    else:
        found.kinds |= _value_kinds(module, node)
        found.open = True


def _add_arguments(module: Module, node: ast.Call, found: Contents, depth: int) -> None:
    for value in node.args:
        found.add(contents(module, value, depth=depth + 1))
    for item in node.keywords:
        if item.arg is None:
            found.add(contents(module, item.value, depth=depth + 1))
        else:
            _add_item(module, ast.Constant(item.arg), item.value, found)


def _add_returned(place: Place, node: ast.Call, caller: Module, found: Contents, depth: int) -> None:
    """Add what a function of the project returns; arguments count too, since they may be put in."""
    where, function = place
    returned = [n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None]
    found.open = found.open or not returned
    copied = copied_parameter(function, returned)
    for value in returned if copied is None else ():
        held = contents(where, value, depth=depth + 1)
        back = given_to(node, function, held.parameter)  # `return states`, after something was taken out of them
        found.add(contents(caller, back, depth=depth + 1) if back is not None else held)
    if copied is not None:
        found.add(contents(caller, given_to(node, function, copied), depth=depth + 1))
    for argument_ in (*node.args, *(k.value for k in node.keywords)):
        found.kinds |= _value_kinds(caller, argument_)
