"""How an expression of plain Python comes to be zero or empty: traced back to where the zero comes from.

An expression is followed through arithmetic, names (all definitions that reach it), `self.x` of a class, items of
dictionaries, unpacking and functions of the project. Guards on the way end the search. What is a parameter, or comes
from a call that cannot be seen, is not guessed about: the answer is then None.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ampguard.auditing.reading.calls import attributes, constructed, target
from ampguard.auditing.reading.counters import counted_inside, filled_with, first_index
from ampguard.auditing.reading.given import flow_of, given_elsewhere, is_given
from ampguard.auditing.reading.guards import excludes_zero, nonzero, spelled, tests_before
from ampguard.auditing.reading.intervals import incomplete_batches, sum_of_lengths
from ampguard.auditing.reading.measures import allocator, masked, span
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.passes import since_assigned, without_pass
from ampguard.auditing.reading.quotients import default_zero, difference, element, floored, part_of_length
from ampguard.auditing.reading.reaching import Definition, Way, is_expected, reaching
from ampguard.auditing.reading.states import begins_at_nothing
from ampguard.auditing.reading.timings import spans_of
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.reading.zeros import Kind, Search, Zero, is_nothing

_LISTINGS = frozenset({"glob", "iglob", "listdir", "iterdir", "rglob", "scandir"})
_MEASURED = frozenset({"time", "memory", "whole time"})
_SETTLED = frozenset({"floored", "chosen", "quotient", "devices", "listed", "filtered"})
_WEAK = frozenset({"quotient", "single", "empty", "option"})
_SAME = frozenset({"list", "sorted", "tuple", "set", "reversed", "frozenset", "enumerate", "zip", "tqdm", "float"}) | {
    "len",
    "abs",
    "sum",
    "Counter",
}


def zero(module: Module, node: ast.expr, search: Search | None = None) -> Zero | None:
    """Return how the expression may come to be zero or empty where it stands, or None where nothing says so."""
    search = search or Search()
    known: dict[ast.expr, Zero | None] = module.once("zeros", dict)
    if node in known:
        return known[node]
    if not search.enter(node):
        return None
    earlier, search.cut = search.cut, False
    found = _guarded(module, node, _zero(module, node, search))
    if not search.cut:  # an answer that was cut short is good for this search alone
        known[node] = found
    search.leave(node, earlier)
    return found


def _guarded(module: Module, node: ast.expr, found: Zero | None) -> Zero | None:
    if found is None:
        return None
    spellings = found.spellings | spelled(node)
    return None if nonzero(module, node, spellings) else replace(found, spellings=spellings)


def _zero(module: Module, node: ast.expr, search: Search) -> Zero | None:
    measured = _measured(module, node)
    if measured is not None:
        return measured
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        place = key(node)
        if place is None:
            return element(module, node) if isinstance(node, ast.Subscript) else _seconds(module, node, search)
        return _seconds(module, node, search) or _place(module, place, node, search) or default_zero(module, node)
    if isinstance(node, ast.BinOp):
        return _arithmetic(module, node, search)
    if isinstance(node, ast.Call):
        return _call(module, node, search)
    if isinstance(node, ast.IfExp):
        return _worst(_branches(module, node, search))
    if isinstance(node, ast.BoolOp):
        deciding = node.values[-2 if is_nothing(node.values[-1]) else -1]
        return zero(module, deciding, search) if isinstance(node.op, ast.Or) else None
    if isinstance(node, ast.NamedExpr):
        return zero(module, node.value, search)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return zero(module, node.operand, search)
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        return _comprehension(module, node, search)
    return None


def _measured(module: Module, node: ast.expr) -> Zero | None:
    if not isinstance(node, ast.BinOp | ast.Call):
        return None
    how = span(module, node)
    if how is not None:
        return Zero("time", f"is {how}", node.lineno)
    if isinstance(node, ast.Call) and called(node) == "device_count":
        return _devices(module, node)
    counter = allocator(module, node)
    return Zero("memory", f"is {counter}(), 0 where nothing was allocated there", node.lineno) if counter else None


def _devices(module: Module, node: ast.Call) -> Zero | None:
    """How many GPUs there are, where the code has not asked whether there is one."""
    asked = any("is_available" in ast.unparse(test) for test, _ in tests_before(module, node))
    if asked or not any(n.endswith("cuda.device_count") for n in module.names.dotted(node.func)):
        return None
    return Zero("devices", "is the number of GPUs, 0 on a machine without one", node.lineno)


def _seconds(module: Module, node: ast.expr, search: Search) -> Zero | None:
    """`(now - start).seconds`: whole seconds of a difference of datetimes."""
    if isinstance(node, ast.Attribute) and node.attr in ("seconds", "microseconds", "days"):
        found = zero(module, node.value, search)
        return _whole(found) if found is not None and found.kind == "time" else None
    return None


def _whole(found: Zero) -> Zero:
    return replace(found, kind="whole time", why=f"{found.why}, cut to whole units") if found.kind == "time" else found


def _arithmetic(module: Module, node: ast.BinOp, search: Search) -> Zero | None:
    left = zero(module, node.left, search)
    if isinstance(node.op, ast.Sub):
        right = zero(module, node.right, search) if left is not None else None
        both = left is not None and right is not None and left.kind == right.kind == "memory"
        return left if both else difference(module, node) or since_assigned(module, node)
    if isinstance(node.op, ast.FloorDiv):
        return floored(module, node) or (_whole(left) if left is not None else None)
    if isinstance(node.op, ast.Div | ast.Pow):
        return left
    if isinstance(node.op, ast.Add):
        right = zero(module, node.right, search) if left is not None else None
        if left is None or right is None or not _both_at_once(module, node, left, right):
            return None
        return replace(max(left, right, key=lambda z: z.rank), spellings=left.spellings | right.spellings)
    return left or zero(module, node.right, search) if isinstance(node.op, ast.Mult) else None


def _both_at_once(module: Module, node: ast.BinOp, left: Zero, right: Zero) -> bool:
    """Whether two counters can be zero together: not where every item counts in one or the other."""
    places = (key(node.left), key(node.right))
    if not (left.grows and right.grows) or places[0] is None or places[1] is None:
        return True
    return any(
        d.way < Way.NO_PASS and d.kind == "assign" and is_nothing(d.value)
        for d in reaching(module, (places[0], places[1]), node)
    )


def _call(module: Module, node: ast.Call, search: Search) -> Zero | None:
    name, arguments = called(node), node.args
    if name in ("max", "min") and len(arguments) > 1 and receiver(node) is None:
        found = [zero(module, a, search) for a in arguments if not is_nothing(a)]
        if name == "max" and not all(found):
            return None
        return _worst(found)
    counted = (
        receiver(node) if name == "item" and not arguments else arguments[0] if name == "int" and arguments else None
    )
    condition = masked(module, counted) if counted is not None else None
    if condition is not None:
        kind: Kind = "empty" if isinstance(condition, ast.Name | ast.Attribute) else "masked"  # by its name alone
        return Zero(kind, f"counts only the elements for which `{module.segment(condition, 40)}`", node.lineno)
    spans = spans_of(module, node)
    if spans is not None:
        return Zero("time", f"is {spans}", node.lineno)
    if name in ("int", "round", "floor") and arguments:
        inner = zero(module, arguments[0], search)
        return _whole(inner) if inner is not None else part_of_length(module, arguments[0]) if name != "round" else None
    if name == "total_seconds" and receiver(node) is not None:
        return zero(module, receiver(node), search)  # type: ignore[arg-type]
    if name == "filter" and receiver(node) is None and len(arguments) == 2:
        return Zero("filtered", f"holds only what `{module.segment(arguments[0], 40)}` lets through", node.lineno)
    if name == "ceil" and len(arguments) == 1:
        return zero(module, arguments[0], search)
    if name == "sum" and arguments and (parts := sum_of_lengths(module, arguments[0])) is not None:
        return parts
    if name == "len" and arguments and (batches := incomplete_batches(module, arguments[0])) is not None:
        return batches
    if name in _LISTINGS:
        return Zero("listed", f"holds the files that {name}() found", node.lineno)
    if name in _SAME and arguments and receiver(node) is None:
        return zero(module, arguments[0], search)
    found_in = target(module, node)
    return _returned(module, node, *found_in, None, search) if found_in is not None else None


def _branches(module: Module, node: ast.IfExp, search: Search) -> Iterator[Zero | None]:
    for value, other in ((node.body, node.orelse), (node.orelse, node.body)):
        if is_nothing(value):
            why = f"is 0 where `{module.segment(node.test, 40)}` decides so"
            yield Zero("chosen", why, node.lineno, grows=(other,))
        else:
            yield zero(module, value, search)


def _comprehension(
    module: Module, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, search: Search
) -> Zero | None:
    if (
        isinstance(node, ast.GeneratorExp | ast.ListComp)
        and isinstance(node.elt, ast.Compare)
        and _is_summed(module, node)
    ):
        return Zero("filtered", f"counts only the items for which `{module.segment(node.elt, 40)}`", node.lineno)
    for generator in node.generators:
        if generator.ifs:
            why = f"holds only the items for which `{module.segment(generator.ifs[0], 40)}` is true"
            return Zero("chosen" if _is_asked_for(generator.ifs[0]) else "filtered", why, node.lineno)
    return _worst(zero(module, g.iter, search) for g in node.generators)


def _is_summed(module: Module, node: ast.expr) -> bool:
    around = module.tree.parents[node]
    return isinstance(around, ast.Call) and called(around) == "sum" and receiver(around) is None


def _is_asked_for(test: ast.expr) -> bool:
    """Whether a filter asks for what is certainly there (`p.requires_grad`), or for what the caller names."""
    named = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.In) and isinstance(test.left, ast.Attribute)
    all_but_one = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq) and _is_text(test.comparators[0])
    return named or all_but_one or is_expected(test)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _worst(found: Iterable[Zero | None]) -> Zero | None:
    return min((z for z in found if z is not None), key=lambda z: z.rank, default=None)


def _place(module: Module, place: str, at: ast.AST, search: Search) -> Zero | None:
    """Return how a name, an attribute or an item may be zero where `at` is evaluated."""
    if not _is_computed(module, place, at) or not search.enter((place, at)):
        return None
    found, scope = None, flow_of(module, at)
    outside = Definition("start", scope)
    if is_given(module, place, scope) or _outside(module, place, outside, search) is not None:
        definitions = reaching(module, (place,), at)
        found = _worst(_defined(module, place, d, definitions, search) for d in definitions)
    search.leave((place, at), cut=search.cut)
    return found


def _is_computed(module: Module, place: str, at: ast.AST) -> bool:
    """Whether a plain name is assigned in its function at all; parameters and imports tell nothing."""
    if not place.isidentifier():
        return True
    found = module.names.lookup(place, at)
    return found is not None and any(b.kind in ("assign", "loop", "other") for b in found[1])


def _defined(
    module: Module, place: str, definition: Definition, others: list[Definition], search: Search
) -> Zero | None:
    spellings = frozenset({place, f"len({place})"})
    if any(excludes_zero(module, test, truth, spellings) for test, truth in definition.conditions):
        return None
    value, kind = definition.value, definition.kind
    if kind == "start":
        return _outside(module, place, definition, search)
    if value is None:
        return None
    if kind == "loop":
        return first_index(place, definition)
    if kind == "item":
        return _part(module, value, definition.index, search)
    if kind == "object":
        return _member(module, place, definition, others, search)
    if kind in ("assign", "add") and is_nothing(value):
        return _initial(module, place, definition, others, search) if kind == "assign" else None
    if kind == "assign":
        return zero(module, value, search)
    if kind == "add" and isinstance(definition.node, ast.AugAssign):
        return _added(module, definition.node, search)
    return None


def _initial(
    module: Module, place: str, definition: Definition, others: list[Definition], search: Search
) -> Zero | None:
    """A literal zero (or nothing) that may still be there: how came what should have changed it to be skipped?"""
    number = isinstance(definition.value, ast.Constant)
    touched = any(d.kind == "touch" for d in others)
    if touched and (not number or ("." in place and _may_be_set_elsewhere(module, place, definition.node))):
        return None
    changes = [d for d in others if d.kind in ("add", "assign", "change") and d is not definition]
    if not changes:
        return counted_inside(module, place, definition)
    grows = tuple(d.node for d in changes)
    together = filled_with(module, grows) | {place, f"len({place})"}
    start = f"starts {'at 0' if number else 'empty'} (line {_line(definition.node)})"
    if definition.way == Way.PLAIN:
        line = min(_line(node) for node in grows)
        return Zero("counted", f"{start} and grows only for some items (line {line})", line, together, grows)
    if definition.way == Way.CHOSEN:
        return Zero("chosen", f"{start} and stays so on one branch", _line(definition.node), together, grows)
    return _nothing_to_loop_over(module, changes, together, search) or without_pass(module, grows, together, start)


def _may_be_set_elsewhere(module: Module, place: str, at: ast.AST) -> bool:
    """Whether a call may count up the place: all but a plain `self.x` that one function of the file alone sets."""
    plain = place.startswith("self.") and place.count(".") == 1 and "[" not in place
    return not plain or given_elsewhere(module, place, flow_of(module, at))


def _nothing_to_loop_over(
    module: Module, changes: list[Definition], together: frozenset[str], search: Search
) -> Zero | None:
    """A counter of a loop's passes: zero only where the loop has none, so ask what it loops over."""
    for change in changes:
        for loop in module.tree.loops(change.node):
            if isinstance(loop, ast.For | ast.AsyncFor):
                found = zero(module, loop.iter, search)
                if found is not None:
                    return replace(found, spellings=found.spellings | together)
    return None


def _added(module: Module, node: ast.AugAssign, search: Search) -> Zero | None:
    value = node.value
    while isinstance(value, ast.Call) and called(value) in ("int", "float") and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, ast.Compare) or (isinstance(value, ast.IfExp) and is_nothing(value.orelse)):
        return Zero("counted", f"counts only where `{module.segment(value, 40)}`", node.lineno)
    return zero(module, node.value, search)


def _part(module: Module, value: ast.expr, index: int | None, search: Search) -> Zero | None:
    """One item of what is unpacked: of a function's returned tuple."""
    if not isinstance(value, ast.Call):
        return None
    found = target(module, value)
    return _returned(module, value, *found, index, search) if found is not None else None


def _returned(
    module: Module, call: ast.Call, where: Module, function: Function, part: int | str | None, search: Search
) -> Zero | None:
    """What a function of the project returns; `part`: of the tuple or dictionary that it returns."""
    if not search.enter((function, part)):
        return None
    found = _worst(_of_return(where, function, part, search))
    search.leave((function, part), cut=search.cut)
    if found is None or found.kind in _WEAK:
        return None
    line = f"{where.path}:{found.line}" if where is not module else f"line {found.line}"
    return Zero(_far(found.kind), f"{found.why} ({function.name}(), {line})", call.lineno)


def _far(kind: Kind) -> Kind:
    """A count behind a call is less sure: what the caller knows of the arguments is not seen."""
    return "chosen" if kind in ("counted", "filtered", "floored", "index", "waiting") else kind


def _of_return(where: Module, function: Function, part: int | str | None, search: Search) -> Iterator[Zero | None]:
    for node in walk_scope(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield _item(where, node.value, part, node, search)


def _item(module: Module, value: ast.expr, part: int | str | None, at: ast.AST, search: Search) -> Zero | None:
    """One part of a value: the n-th of a tuple, the item of a dictionary; the value itself where `part` is None."""
    if part is None:
        return None if isinstance(value, ast.Tuple | ast.Dict) else zero(module, value, search)
    if isinstance(value, ast.Tuple | ast.List) and isinstance(part, int):
        return zero(module, value.elts[part], search) if part < len(value.elts) else None
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        return next(
            (zero(module, v, search) for k, v in pairs if isinstance(k, ast.Constant) and k.value == part),
            None,
        )
    place = key(value)
    if place is not None:
        return _place(module, f"{place}[{part!r}]", at, search)
    found = target(module, value) if isinstance(value, ast.Call) else None
    return _returned(module, value, *found, part, search) if found is not None else None  # type: ignore[arg-type]


def _member(
    module: Module, place: str, definition: Definition, others: list[Definition], search: Search
) -> Zero | None:
    """An attribute or item of what an object was made from."""
    value = definition.value
    suffix = place[len(_bound_of(definition.node, place)) :]
    if value is None or not suffix:
        return None
    if suffix.startswith("["):
        try:
            part = ast.literal_eval(suffix[1:-1])
        except (ValueError, SyntaxError):
            return None
        return _item(module, value, part, definition.node, search)
    built = constructed(module, value)
    if built is None or suffix.count(".") != 1:
        return None
    if any(d.kind == "touch" for d in others):
        return None
    return _fresh(module, place, *built, suffix[1:], search)


def _fresh(module: Module, place: str, where: Module, cls: ast.ClassDef, name: str, search: Search) -> Zero | None:
    """An attribute of an object made in this function, which nothing in the function's own flow has used since."""
    values = attributes(where, cls).get(name, [])
    begin = [_begun_at(where, v) for v in values]
    if values and all(is_nothing(v) for v in begin) and _counted_by_another_name(module, place, name):
        return Zero("state", f"starts at 0 in {cls.name} and is counted by another name", values[0].lineno)
    if not values or not all(is_nothing(v) for v in values) or not _grows(module, place, where, cls, name):
        return _worst(z for v in values if (z := zero(where, v, search)) and z.kind in ("time", "memory"))
    return Zero("waiting", f"starts at 0 in {cls.name} and something else counts it", values[0].lineno)


def _grows(module: Module, place: str, where: Module, cls: ast.ClassDef, name: str) -> bool:
    return any(key(n.target) == place for n in module.tree.all(ast.AugAssign)) or any(
        key(n.target) == f"self.{name}" and where.tree.class_of(n) is cls for n in where.tree.all(ast.AugAssign)
    )


def _begun_at(where: Module, value: ast.expr) -> ast.expr | None:
    """Return what an attribute is set to: of a parameter its default."""
    function = where.tree.function(value) if isinstance(value, ast.Name) else None
    given = parameters(function) if function is not None else ()
    return next((default for arg, default in given if arg.arg == key(value)), value)


def _counted_by_another_name(module: Module, place: str, name: str) -> bool:
    """Whether the object of a place is given another name, and counts by that: `at = a if odd else b; at.n += 1`."""
    base, counts = place.rpartition(".")[0], [n for n in module.tree.all(ast.AugAssign) if _is_of(n.target, name)]
    owners = {key(n.target.value) for n in counts} - {base, "self"}
    given = (n for n in module.tree.all(ast.Assign) if key(n.targets[0]) in owners)
    return bool(owners) and any(key(part) == base for n in given for part in walk(n.value))


def _is_of(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == name


def _bound_of(node: ast.AST, place: str) -> str:
    """Return which part of the place an assignment binds: `full` of `full['time']`; the place itself if unknown."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    elements = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
    return next((k for e in elements if (k := key(e)) and place.startswith((f"{k}.", f"{k}["))), place)


def _outside(module: Module, place: str, definition: Definition, search: Search) -> Zero | None:
    """What comes into a method from its object: `self.x`, by what the class assigns to it."""
    function = definition.node
    if not place.startswith("self.") or place.count(".") != 1 or "[" in place or not isinstance(function, FUNCTIONS):
        return None
    cls, name = module.tree.class_of(function), place.removeprefix("self.")
    if cls is None or function.name == "__init__":
        return None
    begun = begins_at_nothing(module, cls, place)
    if begun is not None:
        return Zero("state", f"starts at 0 (line {begun.lineno}) and is counted in another method", begun.lineno)
    values = attributes(module, cls).get(name, [])
    found = [z for v in values if (z := zero(module, v, search)) is not None]
    settled = len(found) == len(values)
    return _worst(z for z in found if z.kind in _MEASURED or (settled and z.kind in _SETTLED))


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)
