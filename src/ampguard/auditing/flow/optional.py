"""Uses of what may be None: a scaler, logger, writer, run or scheduler that some path leaves None.

Only what the code itself says counts: an assignment of None that reaches the use, a parameter that defaults to
None, an attribute that `__init__` may leave None and that the class tests elsewhere. Guards are what `conditions`
remembers: `is not None`, truth, early returns, ternaries, `and`, and flags that decided the assignment
(`scaler = GradScaler() if use_amp else None` with `if use_amp:` around the use).

A use under a test that the assignment did not depend on is left alone: whether the two go together is not known.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from ampguard.auditing.flow.conditions import Facts, Naming
from ampguard.auditing.flow.lowering import Root, calls_by_function, group, lower
from ampguard.auditing.flow.optional_both_arms import asked_in_the_other_arm
from ampguard.auditing.flow.paths import Machine, Walk, is_none
from ampguard.auditing.flow.skeleton import Event, Vocabulary
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk, walk_scope

_THING = regex(
    r"(^|[._'])((\w+_)?scaler\w{0,3}|(\w+_)?(logger|writer|tracker|scheduler|tb|tensorboard|ema)|"
    r"(wandb|mlflow|neptune)(_run|_logger)?|run|lr_scheduler|lr_sched|swa|swa_model|ema_model|model_ema|averaged_model|grad_scaler|sched)('\])?$"
)
_NAMED_NONE = regex(
    r"(scaler\w*|logger|writer|tracker|scheduler|tb|tensorboard|ema|swa|_model|run|sched|wandb|mlflow|neptune)"
    r"(['\"\]]*\s*(:[^=\n]+)?=(?![^\n]*get_?[lL]ogger\()[^=\n]*(\bNone|\()|\s(is|and)\s)"
)
"""A file whose text has no such line has no such thing that may be None: a test that costs nothing."""

_THINGS = (
    *(
        "scaler",
        "logger",
        "writer",
        "tracker",
        "scheduler",
        "tb",
        "tensorboard",
        "ema",
        "swa",
        "_model",
        "run",
        "sched",
    ),
    *("wandb", "mlflow", "neptune", "  is ", "  and "),
)
"""What the lines hold in which that is looked for; a test may go on in a line that begins with `is` or `and`."""

_STARTS = 8
"""Combinations of what may be None at a function's entry."""

ABOUT = regex(
    r"log|track|wandb|mlflow|tensorboard|\btb|writer|rank|main|master|amp|fp16|half|scal|cuda|device|enable|use_|is_|"
    r"has_|train|sched|lr|ema|run|debug|verbose|mode|flag|args|cfg|config|self\.|hasattr|getattr|isinstance|callable",
    re.IGNORECASE,
)
"""A test that speaks of one of these may be tied to whether the object is there."""

_RANKS = regex(r"[\w.]*(rank|is_main|is_master|main_process)\w*(\(\))?", re.IGNORECASE)
_ON_EVERY_RANK = regex(r"(scaler|sched|scheduler|swa)$")

_CAUGHT = frozenset({"Exception", "BaseException", "AttributeError", "TypeError"})


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a place that is None on a path.

    Attributes:
        place: What is used, as the code spells it.
        node: Where.
        origin: Where it gets None: the assignment, the parameter.
    """

    place: str
    node: ast.AST
    origin: ast.AST


class _Uses(Vocabulary):
    depth = 1

    def __init__(self, places: set[str]) -> None:
        self.places = places

    def nodes(self, module: Module) -> dict[ast.AST, list[ast.AST]]:
        question = ("optional uses", frozenset(self.places))
        return module.once(question, lambda: group(module, self._uses(module)))

    def _uses(self, module: Module) -> list[ast.AST]:
        nodes: list[ast.Attribute | ast.Subscript] = module.tree.all(ast.Attribute, ast.Subscript)
        uses: list[ast.AST] = [n for n in nodes if not isinstance(n.ctx, ast.Del) and key(n.value) in self.places]
        walked = (loop.iter for loop in module.tree.all(ast.For))
        uses += [node for node in walked if key(node) in self.places]
        return uses + [call for place, call in _perhaps_none(module) if place in self.places]

    def event(self, node: ast.AST, module: Module, naming: Naming) -> Event | None:
        if isinstance(node, ast.Call):
            return Event("perhaps", node, module, data={"to": _assigned_to(module, node)})
        held = node if _is_walked(module, node) else node.value  # type: ignore[attr-defined]
        return Event("use", node, module, data={"place": naming.place(held)})

    def may_help(self, module: Module, name: str) -> bool:
        """Whether a function of that name is defined in the file."""
        return name in module.function_names

    def helper(self, module: Module, call: ast.Call) -> Place | None:
        """See through the object's own methods that check or set: `self._require_writer()`, `self._make_scaler()`."""
        if not (key(call.func) or "").startswith("self."):
            return None
        place = target(module, call)
        if place is None or place[0] is not module:
            return None
        sets = {f"self.{name}" for name, _ in _set_in(module, place[1])}
        return place if self.places & (tested_in_method(module, place[1]) | sets) else None

    def watched(self, nodes: Iterable[ast.AST], module: Module, naming: Naming) -> set[str]:  # noqa: ARG002
        return self.places


def _is_walked(module: Module, node: ast.AST) -> bool:
    """Whether a loop goes over what a node is: over None, none can."""
    loop = module.tree.parents[node]
    return isinstance(loop, ast.For) and loop.iter is node


class _NoneUsed(Machine[None]):
    def __init__(self) -> None:
        self.found: dict[ast.AST, str] = {}

    def start(self) -> None:
        return None

    def apply(self, event: Event, state: None, facts: Facts) -> Iterable[tuple[None, Facts]]:
        if event.kind == "perhaps":
            return [(state, facts | is_none(event.data["to"], none=none)) for none in (True, False)]
        place = event.data["place"]
        if (f"{place} is None", True) in facts:
            self.found.setdefault(event.node, place)
            return []  # the path ends here, with an AttributeError
        return [(state, facts)]

    def important(self, fact: tuple[str, bool]) -> bool:
        return fact[0].endswith(" is None")


def unguarded_uses(module: Module) -> list[Use]:
    """Return the uses of what may be None in a file, the first of each place in each function."""
    if not _NAMED_NONE.search(module.about(*_THINGS)):
        return []
    roots: list[Root] = [module.root, *module.functions]
    return [use for root in roots for use in _in(module, root)]


def _in(module: Module, root: Root) -> Iterator[Use]:
    origins = _origins(module, root)
    if not origins:
        return
    walk_starts = _starts(module, root, origins)
    ops = lower(module, root, _Uses(set(origins)))
    machine = _NoneUsed()
    paths = Walk(machine, ops, frozenset(origins))
    for facts in walk_starts:
        paths.run(facts)
    told: set[str] = set()
    for node, place in sorted(machine.found.items(), key=lambda item: getattr(item[0], "lineno", 0)):
        late = isinstance(origins[place], ast.Call) and getattr(node, "lineno", 0) < origins[place].lineno  # type: ignore[attr-defined]
        if place not in told and not late and not protected(module, node, origins[place], place):
            told.add(place)
            yield Use(place, node, origins[place])


def _origins(module: Module, root: Root) -> dict[str, ast.AST]:
    """Return what may be None in a function, and where it gets None."""
    found = {place: node for place, node in _assigned_none(module, root) if _THING.search(place)}
    if isinstance(root, FUNCTIONS):
        for arg, default in parameters(root):
            optional = isinstance(default, ast.Constant) and default.value is None
            doubted = default is None and arg.arg in tested_in_method(module, root) and not _certain(arg)
            if (optional or doubted) and _THING.search(arg.arg):
                found.setdefault(arg.arg, arg)
        found.update(_attributes(module, root))
    return found


def _certain(arg: ast.arg) -> bool:
    """Whether a parameter's annotation says that it is never None."""
    return arg.annotation is not None and not re.search(r"None|Optional|Any", ast.unparse(arg.annotation))


def _assigned_none(module: Module, root: Root) -> Iterator[tuple[str, ast.AST]]:
    grouped = module.once("assigned None", lambda: group(module, _none_assignments(module)))
    for node in grouped.get(root, ()):
        for bound in node.targets if isinstance(node, ast.Assign) else [node.target]:  # type: ignore[attr-defined]
            place = key(bound)
            if place is not None and not place.startswith("self."):
                yield place, node


def _none_assignments(module: Module) -> list[ast.AST]:
    nodes: list[ast.Assign | ast.AnnAssign] = module.tree.all(ast.Assign, ast.AnnAssign)
    plain: list[ast.AST] = [node for node in nodes if node.value is not None and may_be_none(node.value)]
    return plain + [module.tree.statement(call) for _, call in _perhaps_none(module)]


def _perhaps_none(module: Module) -> list[tuple[str, ast.Call]]:
    """Return (place, call) of the things that a function of the project makes, or answers None in their place."""
    return module.once("perhaps None", lambda: list(_made_or_none(module)))


def _made_or_none(module: Module) -> Iterator[tuple[str, ast.Call]]:
    for node in module.tree.all(ast.Assign):
        place = key(node.targets[0])
        if (
            place is None
            or not isinstance(node.value, ast.Call)
            or not _THING.search(place)
            or place.startswith("self.")
        ):
            continue
        made_by = target(module, node.value, ("return None", "return\n"))
        if made_by is not None and _answers_none(*made_by):
            yield place, node.value


def _answers_none(module: Module, function: Function) -> bool:
    """Whether a function returns an object on one path and says `return None` (or only `return`) on another."""
    own = [n for n in walk_scope(function) if isinstance(n, ast.Return)]
    given = [
        n for n in own if n.value is not None and not (isinstance(n.value, ast.Constant) and n.value.value is None)
    ]
    return bool(given) and len(given) < len(own) and module.tree.class_of(function) is None


@cache
def is_thing(place: str) -> bool:
    """Whether a place is named as one of the objects that code leaves out at times."""
    return bool(_THING.search(place))


def _assigned_to(module: Module, call: ast.Call) -> str:
    statement = module.tree.statement(call)
    return (key(statement.targets[0]) or "") if isinstance(statement, ast.Assign) else ""


def may_be_none(value: ast.expr) -> bool:
    """Whether a value is None, or a choice of which None is one."""
    if isinstance(value, ast.IfExp):
        return may_be_none(value.body) or may_be_none(value.orelse)
    return is_none_literal(value)


def _tested(module: Module, root: Root) -> set[str]:
    """Return the places that a function (or the class around it) compares with None or tests for truth."""
    return _tests_by_owner(module).get(module.tree.class_of(root) or root, set())


def tested_in_method(module: Module, method: Function) -> set[str]:
    """Return the places that a function compares with None or tests for truth."""
    return _tests_by_owner(module).get(method, set())


def _tests_by_owner(module: Module) -> dict[ast.AST, set[str]]:
    """Return the tested places of every function and class of a file, those inside nested ones included."""
    return module.once("tests by owner", lambda: _collected_tests(module))


def _collected_tests(module: Module) -> dict[ast.AST, set[str]]:
    found: dict[ast.AST, set[str]] = {}
    for node in module.tree.all(ast.If, ast.IfExp, ast.While, ast.BoolOp):
        tests = node.values[:-1] if isinstance(node, ast.BoolOp) else [node.test]  # the last one is the value
        places = {place for test in tests for place in _places_in_test(test)}
        for above in module.tree.above(node) if places else ():
            if isinstance(above, (*FUNCTIONS, ast.ClassDef, ast.Module)):
                found.setdefault(above, set()).update(places)
    return found


def _places_in_test(test: ast.expr) -> Iterator[str]:
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _places_in_test(value)
        return
    if isinstance(test, ast.UnaryOp):
        test = test.operand
    if (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.Is | ast.IsNot)
        and is_none_literal(test.comparators[0])
    ):
        test = test.left
    place = key(test)
    if place is not None:
        yield place


def _attributes(module: Module, function: Function) -> dict[str, ast.AST]:
    """Return the attributes of `self` that may be None when a method begins, and what says so."""
    cls = module.tree.class_of(function)
    if cls is None or function.name == "__init__":
        return {}
    tested = _tested(module, function)
    found: dict[str, ast.AST] = {}
    for name, values in attributes(module, cls).items():
        place = f"self.{name}"
        if place not in tested or not _THING.search(place):
            continue
        makers = [module.tree.function(value) for value in values]
        nones = [value for value in values if may_be_none(value)]
        if all(maker is not None and maker.name == "__init__" for maker in makers):
            origin = nones[0] if nones else _doubted(module, cls, place, values)
        else:
            origin = _making_call(module, function, makers) if nones else None
        if origin is not None:
            found[place] = origin
    return found


def _doubted(module: Module, cls: ast.ClassDef, place: str, values: list[ast.expr]) -> ast.AST | None:
    """Return the assignment of a parameter that the class does not trust: two methods or more test it for None."""
    if not all(isinstance(value, ast.Name) for value in values):
        return None
    methods = [item for item in cls.body if isinstance(item, FUNCTIONS) and place in tested_in_method(module, item)]
    return values[0] if len(methods) > 1 else None


def _making_call(module: Module, function: Function, makers: list[Function | None]) -> ast.Call | None:
    """Return a method's own call of the method that makes the object: what that leaves None, it leaves None here."""
    names = {f"self.{maker.name}" for maker in makers if maker is not None and maker.name != "__init__"}
    return next((c for c in calls_by_function(module).get(function, ()) if key(c.func) in names), None)


def _starts(module: Module, root: Root, origins: dict[str, ast.AST]) -> list[Facts]:
    """Return what may hold at a function's entry: each parameter None or not, the attributes as `__init__` ends."""
    choices: list[list[Facts]] = []
    for place, node in origins.items():
        if isinstance(node, ast.arg):
            choices.append([is_none(place, none=none) for none in (True, False)])
    own = {place for place in origins if place.startswith("self.")}
    cls = module.tree.class_of(root) if own else None
    made = next((f for f in cls.body if isinstance(f, FUNCTIONS) and f.name == "__init__"), None) if cls else None
    late = {place for place in own if _set_late(module, cls, place)}
    choices += [[is_none(place, none=True)] for place in sorted(late)]
    doubted = {place for place in own - late if isinstance(origins[place], ast.Name)}
    choices += [[is_none(place, none=none) for none in (True, False)] for place in sorted(doubted)]
    own -= late | doubted
    if made is not None and own:
        question = ("may be None after", made, frozenset(own))
        choices.append(module.once(question, lambda: _ends_of(module, made, own)))
    return [frozenset().union(*way) for way in product(*choices)][:_STARTS]


def _set_late(module: Module, cls: ast.ClassDef | None, place: str) -> bool:
    """Whether another method than `__init__` gives an attribute its value."""
    values = attributes(module, cls).get(place.removeprefix("self."), []) if cls is not None else []
    makers = (module.tree.function(value) for value in values)
    return any(maker is not None and maker.name != "__init__" for maker in makers)


def _ends_of(module: Module, made: Function, places: set[str]) -> list[Facts]:
    ops = lower(module, made, _Uses(places))
    ends = Walk(_NoneUsed(), ops, frozenset(places)).run()
    kept = (frozenset(fact for fact in facts if fact[0].startswith("self.")) for _, facts in ends)
    return list(dict.fromkeys(kept))


def _set_in(module: Module, method: Function) -> list[tuple[str, ast.expr]]:
    """Return the attributes of `self` that a method assigns."""
    cls = module.tree.class_of(method)
    every = attributes(module, cls).items() if cls is not None else ()
    return [(name, value) for name, values in every for value in values if module.tree.function(value) is method]


def protected(module: Module, node: ast.AST, origin: ast.AST, place: str = "") -> bool:
    """Whether a use stands under a test whose tie to the origin is not known, or under a handler that catches it."""
    everywhere = bool(_ON_EVERY_RANK.search(place))
    for guarded in module.tree.handlers_around(node):
        names = {n.split(".")[-1] for h in guarded.handlers for n in _caught(h)}
        if names & _CAUGHT or not all(h.type for h in guarded.handlers):
            return True
    for above in module.tree.above(node):
        if isinstance(above, (*FUNCTIONS, ast.Lambda)):
            return isinstance(above, ast.Lambda) or above is not (module.tree.function(node))
        tests = isinstance(above, ast.If | ast.IfExp) and not module.tree.inside(node, above.test)
        if not tests or not _tied(above.test, everywhere=everywhere) or module.tree.inside(origin, above):  # type: ignore[attr-defined]
            continue
        if not asked_in_the_other_arm(module, above, node, origin, place):
            return True
    return False


def _tied(test: ast.expr, *, everywhere: bool) -> bool:
    """Whether a test may be about the object: about a flag, a rank, a mode; not about how often or what came out.

    Args:
        test: The test.
        everywhere: Whether the object is made on every rank or on none, so that the rank tells nothing of it.
    """
    if any(isinstance(at, ast.BinOp) and isinstance(at.op, ast.Mod) for at in walk(test)):
        return False
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.In) and isinstance(test.left, ast.Constant):
        return False
    text = ast.unparse(test)
    return bool(ABOUT.search(_RANKS.sub("", text) if everywhere else text))


def _caught(handler: ast.ExceptHandler) -> list[str]:
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    return [name for t in types if (name := key(t)) is not None]
