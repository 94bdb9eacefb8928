"""Uses of what a reading of the function in order finds to be None on some way: names, attributes, options.

What may be None is a parameter that is None by default or asked about, a name that a line leaves None, what `get`
answers where the function asks, and an attribute that `__init__` leaves None on some way. A use is told where no test
above it may tell that the object is there (`nullness_ties`), and nothing catches what it raises.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.nullness import Reading
from ampguard.auditing.flow.nullness_attributes import hot_nodes, left_by_init, resetting
from ampguard.auditing.flow.nullness_state import Maybe, State
from ampguard.auditing.flow.nullness_ties import akin, counts, is_of_ranks, tied, words_of
from ampguard.auditing.flow.optional import Use, is_thing, tested_in_method
from ampguard.auditing.flow.optional_both_arms import asked_in_the_other_arm
from ampguard.auditing.flow.optional_plain import body_text, is_stub, may_need, plainly_asked
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, called, is_none_literal, key, walk


def uses_of_what_is_left(module: Module) -> Iterator[Use]:
    """Walk the uses of what the function itself leaves None, the first of each place in each function."""
    return (use for use, kind in _all(module) if kind == "left")


def uses_of_nones(module: Module) -> Iterator[Use]:
    """Walk the uses of what is given to a function as None: parameters, attributes, keys of dictionaries."""
    yield from (use for use, kind in _all(module) if kind != "left")
    yield from _read_off_at_once(module)


def _all(module: Module) -> list[tuple[Use, str]]:
    return module.once("uses of nones", lambda: list(_uses(module)))


def _uses(module: Module) -> Iterator[tuple[Use, str]]:
    for function in module.functions:
        origins = _at_entry(module, function)
        names = [*origins, *_left_names(module, function)]
        copies = _copies(module, function, names)
        text = body_text(module, function)
        plans = "LR(" in text or "_warmup(" in text
        needed = {n for n in (*names, *copies) if "." in n or may_need(n, text, reckons=True) or plans}
        names = [n for n in dict.fromkeys((*names, *copies)) if n in needed or not needed.isdisjoint(copies)]
        if needed and not is_stub(function):
            yield from _read(module, function, names, {n: m for n, m in origins.items() if n in names})


def _read(module: Module, function: Function, names: list[str], origins: dict[str, Maybe]) -> Iterator[tuple[Use, str]]:
    found: dict[str, tuple[Use, str]] = {}

    def used(place: str, maybe: Maybe, node: ast.AST, state: State, is_caught: bool) -> bool:
        if is_caught or not _is_known(module, function, place, maybe, state):
            return False
        around = module.tree.nearest(node, ast.If)
        asked = around is not None and asked_in_the_other_arm(module, around, node, maybe.origin, place)
        if (tied(module, function, place, maybe, state.facts) and not asked) or _is_search(
            module, function, place, maybe
        ):
            return False
        told = found.get(place)
        at = _where(node)
        if told is None or told[0].node.lineno > at.lineno:  # type: ignore[attr-defined]
            found[place] = (Use(place, at, maybe.origin), maybe.kind)
        return True

    hot = hot_nodes(module, function, names)
    reading = Reading(hot, looked_up, resetting(module, function), used)
    reading.run(function, State(origins))
    yield from found.values()


def _where(node: ast.AST) -> ast.AST:
    return node.iter if isinstance(node, ast.For | ast.comprehension) else node


def _is_search(module: Module, function: Function, place: str, maybe: Maybe) -> bool:
    """Whether a loop looks for the best of something: it finds one wherever there are any."""
    if maybe.kind != "left" or not place.isidentifier():
        return False
    for held in module.tree.named(place, function):
        test = module.tree.nearest(held, ast.If) if not isinstance(held.ctx, ast.Load) else None
        if test is not None and any(True for _ in module.tree.loops(held)):
            orders = (n for n in walk(test.test) if isinstance(n, ast.Compare))
            if any(isinstance(op, ast.Lt | ast.Gt | ast.LtE | ast.GtE) for n in orders for op in n.ops):
                return True
    return False


def _copies(module: Module, function: Function, names: list[str]) -> list[str]:
    """Return the names that are given what another holds, as it is or through what hands it back."""
    found: list[str] = []
    for name in filter(str.isidentifier, names):
        for held in module.tree.named(name, function):
            at = module.tree.parents[held]
            while isinstance(at, ast.IfExp | ast.BoolOp | ast.keyword) or _hands_back(at):
                at = module.tree.parents[at]
            if isinstance(at, ast.Assign):
                bound = at.targets[0].elts if isinstance(at.targets[0], ast.Tuple) else at.targets
                found += [b.id for b in bound if isinstance(b, ast.Name)]
    return found


def _hands_back(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called(node) in ("prepare", "initialize")


def _is_known(module: Module, function: Function, place: str, maybe: Maybe, state: State) -> bool:
    """Whether more than a default says that a place may be None: a question, or a line that leaves it so."""
    if maybe.kind == "left" or maybe.passed:
        return True
    asked = place in tested_in_method(module, function) or f"exists({place})" in module.text_of(function)
    if maybe.kind == "attribute":
        cls = module.tree.class_of(function)
        asked = asked or (cls is not None and place in tested_in_method(module, cls))  # type: ignore[arg-type]
        return (asked or (is_thing(place) and not state.facts)) and not _is_seen_to(module, function, place)
    return asked or (maybe.kind == "default" and all(counts(text) for text, _ in state.facts - maybe.since))


def _read_off_at_once(module: Module) -> Iterator[Use]:
    """Walk what is read off the answer of a dictionary that may not have the key: `inputs.get("ids").squeeze(1)`."""
    if module.mentions(("ensordict",)):  # whose `get` raises
        return
    for call in module.calls.get("get", ()):
        above = module.tree.parents[call]
        if looked_up(call) is None or not (isinstance(above, ast.Attribute | ast.Subscript) and above.value is call):
            continue
        word = call.args[0].value  # type: ignore[attr-defined]
        if not _KEY.match(word) or _OF_NETS.search(key(call.func) or ""):
            continue
        if next(module.tree.handlers_around(call), None) is None and not _asks_above(module, call, word):
            yield Use(ast.unparse(call), above, call)


_KEY = regex(r"\w+$")
_OF_NETS = regex(r"request|session|client|meta\.get|http|redis|registry", re.IGNORECASE)


def _asks_above(module: Module, node: ast.AST, word: str) -> bool:
    """Whether a test before a node in its function speaks of a key."""
    around = module.tree.function(node) or module.root
    tests = (n.test for n in walk(around) if isinstance(n, ast.If | ast.IfExp | ast.Assert | ast.While))
    return any(repr(word) in ast.unparse(test) for test in tests)


def _is_seen_to(module: Module, function: Function, place: str) -> bool:
    """Whether the name of a method, or the tests around its calls, tell that an attribute is there."""
    words = words_of(place)
    if akin(words_of(function.name), words) or any(is_of_ranks(ast.unparse(d)) for d in function.decorator_list):
        return True
    for call in module.calls.get(function.name, ()):
        for above in module.tree.above(call):
            if isinstance(above, ast.If | ast.IfExp | ast.BoolOp) and akin(
                words_of(ast.unparse(getattr(above, "test", above))), words
            ):
                return True
            if isinstance(above, ast.FunctionDef):
                if akin(words_of(above.name), words):
                    return True
                break
    return False


def looked_up(value: ast.expr) -> str | None:
    """Return "looked up" for what `get` answers without a default."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in ("get", "getenv"):
        one = len(value.args) == 1 and not value.keywords and isinstance(value.args[0], ast.Constant)
        return "looked up" if one and isinstance(value.args[0].value, str) else None  # type: ignore[attr-defined]
    return None


def _at_entry(module: Module, function: Function) -> dict[str, Maybe]:
    """Return what may be None where a function begins."""
    found: dict[str, Maybe] = {}
    text = body_text(module, function)
    asks = " is None" in text or " is not None" in text
    for arg, default in parameters(function):
        if default is not None and is_none_literal(default):
            found[arg.arg] = Maybe(arg, "default")
        elif default is None and asks and is_asked_first(arg.arg, text):
            found[arg.arg] = Maybe(arg, "asked")
    for outer in module.tree.above(function):
        if isinstance(outer, ast.FunctionDef):
            given = (a for a, d in parameters(outer) if d is not None and is_none_literal(d) and a.arg in text)
            for arg in given:
                if all(isinstance(n.ctx, ast.Load) for n in module.tree.named(arg.arg, outer)):
                    found.setdefault(arg.arg, Maybe(arg, "asked"))
    found.update(left_by_init(module, function))
    return found


def is_asked_first(name: str, text: str) -> bool:
    """Whether a name is compared with None before it gets a value: of a later one, the question tells nothing."""
    if not plainly_asked(name, text):
        return False
    bound = re.search(rf"^[ \t]*(?:\w+, *)*{name}(?:, *\w+)*[ \t]*=[^=](?!{name}\.)", text, re.MULTILINE)
    return bound is None or plainly_asked(name, text[: bound.start()])


def _left_names(module: Module, function: Function) -> list[str]:
    """Return the names that a line of a function may leave None."""
    grouped = module.once("leaving None", lambda: group(module, _leaving(module)))
    return [name for node in grouped.get(function, ()) for name in _bound_none(node)]


def _leaving(module: Module) -> list[ast.AST]:
    nodes: list[ast.Assign | ast.AnnAssign] = module.tree.all(ast.Assign, ast.AnnAssign)
    return [n for n in nodes if n.value is not None and _leaves_none(n.value)]


def _leaves_none(value: ast.expr) -> bool:
    if isinstance(value, ast.IfExp):
        return _leaves_none(value.body) or _leaves_none(value.orelse)
    if isinstance(value, ast.Tuple):
        return any(map(is_none_literal, value.elts))
    return is_none_literal(value) or looked_up(value) is not None


def _bound_none(node: ast.AST) -> Iterator[str]:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:  # type: ignore[attr-defined]
        for bound in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(bound, ast.Name):
                yield bound.id
