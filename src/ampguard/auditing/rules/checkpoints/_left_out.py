"""Objects that training moves and that a checkpoint leaves out, or that are saved and not taken up again.

Asked of each object by itself (see `reading.owned`, `reading.kept`): what the checkpoint holds of others says that
training is to go on from it, and that the state of this one is read nowhere says that it is not in there.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases, target
from ampguard.auditing.reading.checkpoints import SAVES, Save, restored, saves
from ampguard.auditing.reading.kept import is_kept, may_keep, stated
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.owned import Owned, owned
from ampguard.auditing.reading.payloads import contents
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.checkpoints._handed import RETURNS, handed_saves
from ampguard.auditing.rules.checkpoints._progress_apart import goes_on, progress_reads, told_apart
from ampguard.auditing.rules.checkpoints._schedule_elsewhere import kept_anywhere

_LOADS = regex(r"load|resume|restore|recover", re.IGNORECASE)
_WHOLE_ENGINES = regex(r"deepspeed\.initialize\(|\b(Lightning|pl\.)(Lightning)?Module\b|accelerator\.save_state\(")
"""What saves everything by itself, wherever it is."""


class Point(NamedTuple):
    """A place that writes a checkpoint, or takes one up: what it is about, of all in its function."""

    node: ast.expr
    kinds: frozenset[str]
    open: bool
    through: str = ""


class LeftOut(NamedTuple):
    """The objects that a point leaves out."""

    point: Point
    objects: list[Owned]


def left_out_of_saves(module: Module) -> Iterator[LeftOut]:
    """Walk the checkpoints, the first of each function, that lack what training moves and nothing else keeps."""
    objects = _objects(module)
    told: set[Owned] = set()
    for point in _writes(module) if objects else ():
        moved = "optimizer" in point.kinds or ("scheduler" in point.kinds and _keeps_schedule(module))
        wanted = moved or ({"model", "progress"} <= point.kinds and _resumed(module))
        near = (o for o in objects if o not in told and _reaches(module, point, o)) if wanted else ()
        found = [o for o in near if not is_kept(module, o)]
        found = _not_handed(module, point, found)
        if point.open and _is_added_to(module, point):
            found = [o for o in found if o.kind != "scheduler"]
        if "optimizer" not in point.kinds and any(o.kind == "optimizer" for o in found):
            found = [o for o in found if o.kind == "optimizer"]
        if found:
            told |= set(found)
            yield LeftOut(point, found)


def _not_handed(module: Module, point: Point, found: list[Owned]) -> list[Owned]:
    """Return the objects that are not given to the very call, nor gone through for it: those are not left out."""
    handed = {key(v) for v in _given(point.node)} if isinstance(point.node, ast.Call) else set()
    for loop in module.tree.loops(point.node):
        if isinstance(loop, ast.For) and handed & {key(n) for n in walk(loop.target)}:
            handed |= {key(n) for n in walk(loop.iter)}
    return [o for o in found if not handed & {o.place.name, *(p.name for p in o.aliases)}]


def _keeps_schedule(module: Module) -> bool:
    return any(is_kept(module, one) for one in owned(module) if one.kind == "scheduler")


def _resumed(module: Module) -> bool:
    """Whether a file takes up an epoch that was saved, or speaks of resuming."""
    return module.mentions(("resum", "start_epoch", "start_iter", "start_step", "continue_")) or goes_on(module)


def _is_added_to(module: Module, point: Point) -> bool:
    """Whether a state takes in what its caller gives, in a project that keeps a schedule's state somewhere."""
    function = module.tree.function(point.node)
    names = {arg.arg for arg, _ in parameters(function)} if function is not None else set()
    if function is not None and function.args.kwarg is not None:
        names.add(function.args.kwarg.arg)
    more: set[str | None] = set()
    for node in walk_scope(function) if function is not None else ():
        if isinstance(node, ast.Call) and called(node) == "update":
            more |= {key(v) for v in _given(node)}
        elif isinstance(node, ast.Dict):
            more |= {key(v) for k, v in zip(node.keys, node.values, strict=True) if k is None}
        elif isinstance(node, ast.BinOp):
            more |= {key(node.left), key(node.right)}
    return bool(names & more) and kept_anywhere(module.project)


def left_out_of_loads(module: Module) -> Iterator[LeftOut]:
    """Walk the resumes that leave alone what is saved, or what training moves and no save here speaks of."""
    objects = _objects(module)
    told: set[Owned] = set()
    for point in _resumes(module) if objects else ():
        near = (o for o in objects if o not in told and _reaches(module, point, o))
        found = _not_handed(module, point, [o for o in near if not is_kept(module, o, loads=True)])
        if found:
            told |= set(found)
            yield LeftOut(point, found)


def _objects(module: Module) -> list[Owned]:
    if module.role == "test" or _WHOLE_ENGINES.search(module.about("deepspeed", "lightning", "pl.", "accelerator")):
        return []
    return owned(module)


def _writes(module: Module) -> list[Point]:
    return module.once("points that save", lambda: sorted(_all_writes(module), key=lambda p: p.node.lineno))


def _all_writes(module: Module) -> Iterator[Point]:
    beside: dict[ast.AST | None, list[Save]] = {}
    for save in (*saves(module), *handed_saves(module), *told_apart(module)):
        beside.setdefault(module.tree.function(save.call), []).append(save)
    for found in beside.values():
        kinds = frozenset().union(*(save.holds.kinds for save in found))
        full = next((s for s in found if "optimizer" in s.holds.kinds), found[0])
        yield Point(full.call, kinds, any(save.holds.open for save in found))
    yield from _dictionaries(module, beside)
    yield from (p for f in module.functions for p in _returned(module, f))
    yield from _through_calls(module)


def _dictionaries(module: Module, known: dict[ast.AST | None, list[Save]]) -> Iterator[Point]:
    """Walk the dictionaries that hold an optimizer's or a schedule's state, of functions whose saves are not known."""
    found: dict[ast.AST | None, list[tuple[ast.Call, str]]] = {}
    for call in module.calls_of("state_dict"):
        function = module.tree.function(call)
        if function in known or not _is_item(module, call):
            continue
        kind = next((k for k, asks in _KINDS if asks(module, receiver(call))), "model")
        found.setdefault(function, []).append((call, kind))
    for held in found.values():
        kinds = frozenset(kind for _, kind in held)
        if kinds & {"optimizer", "scheduler"}:
            within = module.tree.nearest(held[0][0], ast.Dict, ast.stmt)
            yield Point(within if isinstance(within, ast.Dict) else held[0][0], kinds, True)


_KINDS = (("scheduler", is_scheduler), ("optimizer", is_optimizer))


def _is_item(module: Module, call: ast.Call) -> bool:
    """Whether a state is put into a dictionary under a name."""
    at: ast.AST = module.tree.parents[call]
    while isinstance(at, ast.IfExp | ast.Call):
        at = module.tree.parents[at]
    if isinstance(at, ast.Assign):
        return isinstance(at.targets[0], ast.Subscript)
    return isinstance(at, ast.Dict)


def _returned(module: Module, function: Function) -> Iterator[Point]:
    """Walk what a function that is named for it returns as a state."""
    if not RETURNS.fullmatch(function.name) or function.name.startswith("load"):
        return
    for node in walk_scope(function):
        if isinstance(node, ast.Return) and node.value is not None:
            holds = contents(module, node.value)
            if {"model", "optimizer"} & holds.kinds:
                yield Point(node.value, frozenset(holds.kinds), holds.open)
                return


def _through_calls(module: Module) -> Iterator[Point]:
    """Walk the calls that hand an optimizer to what keeps it: a function that saves, an object that does so later."""
    for name, calls in module.calls.items():
        if _NO_SAVERS.search(name) or not (name[:1].isupper() or SAVES.search(name)) or _LOADS.match(name):
            continue
        for call in calls:
            given = _given(call)
            objects = [v for v in given if _is_optimizer(module, v)]
            whole = any(isinstance(v, ast.Starred) or _MAY_HOLD.search(key(v) or "") for v in given)
            if not objects or whole or any(k.arg is None for k in call.keywords):
                continue
            known = target(module, call) is not None or _SAVERS.search(name)
            if known and any(may_keep(module, call, v, loads=False) for v in objects):
                yield Point(call, frozenset({"model", "optimizer"}), False, f" that {name}() writes")


_MAY_HOLD = regex(r"(^|[._'])(self|(\w*_)?(trainer|engine|runner|states?|objects?|kwargs|extras?|payload))$")
_NO_SAVERS = regex(r"state_dict|Sched|Optim|Stepper|LR$")
_SAVERS = regex(r"checkpoint|ckpt|saver|save_", re.IGNORECASE)
"""Functions of libraries that save what they are given."""


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(k.value for k in call.keywords)]


def _is_optimizer(module: Module, node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and is_optimizer(module, node)


def _resumes(module: Module) -> Iterator[Point]:
    """Walk the restores that say that training goes on: of an optimizer or a schedule, of a model beside its epoch."""
    loads = restored(module)
    for call in (*loads.get("optimizer", ()), *loads.get("scheduler", ())):
        yield Point(call, frozenset({"optimizer"}), False)
    taken = {module.tree.scope(read) for read in progress_reads(module) if _is_assigned(module, read)}
    for call in loads.get("model", ()):
        if module.tree.scope(call) in taken:
            yield Point(call, frozenset({"model", "progress"}), False)
    for name, calls in module.calls.items():
        for call in calls if _LOADS.search(name) and name != "load_state_dict" else ():
            objects = [v for v in _given(call) if _is_optimizer(module, v) or is_scheduler_object(module, v)]
            place = target(module, call, ("load_state_dict",)) if objects else None
            if place is None or any(key(v) == "self" for v in _given(call)):
                continue
            if any(place[0].tree.function(one.call) is place[1] for one in stated(place[0], loads=True)):
                yield Point(call, frozenset({"optimizer"}), False, f" by {name}()")


def is_scheduler_object(module: Module, node: ast.expr) -> bool:
    """Whether an argument is a schedule itself."""
    return isinstance(node, ast.Name | ast.Attribute) and is_scheduler(module, node)


def _is_assigned(module: Module, read: ast.expr) -> bool:
    return isinstance(module.tree.statement(read), ast.Assign)


def _reaches(module: Module, point: Point, one: Owned) -> bool:
    """Whether an object can be had where a checkpoint is written or taken up."""
    home, at = one.place.home, point.node
    if isinstance(home, ast.ClassDef):
        own = module.tree.class_of(at)
        return own is not None and (
            own is home
            or any(b is own for _, b in bases(module, home))
            or any(b is home for _, b in bases(module, own))
        )
    if home is None:
        function, first = module.tree.function(at), one.place.name.partition(".")[0].partition("[")[0]
        return function is not None and any(True for _ in module.tree.named(first, function))
    return module.tree.inside(at, home)
