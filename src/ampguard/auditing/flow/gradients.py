"""The protocol between a scaled backward pass and the next one, checked on every path of a function.

Torch's documentation orders the calls: `scale(loss).backward()`, `unscale_` (once per optimizer and step, before
anything looks at the gradients), `step` of every optimizer through the scaler, one `update`, `zero_grad`. The
machine here walks a function with what one path has done so far and reports each departure once, at the call that
departs.

What a path does not know is decided in the code's favour: where a test about mixed precision is undecided, the
outcome that contradicts what the path has already done (mixed precision off after a scaled backward pass) is
taken as impossible.

Source: pytorch.org/docs/stable/notes/amp_examples.html and torch/amp/grad_scaler.py (OptState, unscale_, step, update).
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ampguard.auditing.flow.conditions import All, Atom, Fact, Facts, Known, Naming, Not, Test, outcome, test_of
from ampguard.auditing.flow.gradient_events import WORDS, GradientEvents
from ampguard.auditing.flow.lowering import Root, lower
from ampguard.auditing.flow.paths import Machine, Walk, events
from ampguard.auditing.flow.skeleton import Bound, Event, Op, Repeat
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key, receiver

_AGAIN = 6
"""End states from which a step function is walked a second time."""

PLAIN, SCALED, MANAGED = "plain", "scaled", "managed"
Pair = tuple[str, str]
"""(scaler, optimizer), as spelled on the path."""

_ABOUT_AMP = re.compile(
    r"amp|fp16|float16|bf16|half|mixed|precision|scaler|autocast|cuda|gpu|is_enabled|dtype|use_grad_scal", re.IGNORECASE
)
_SCALES = re.compile(r"scal", re.IGNORECASE)
_UNSCALED = re.compile(r"unscal|OptState|_per_optimizer|stage", re.IGNORECASE)
_PREFIX = re.compile(r"(\w+\d+:)+")
"""What `lowering` spells before the names of an inlined function."""

_OFF_VALUES = ("fp32", "float32", "no", "none", "full", "32")


@dataclass(frozen=True, eq=False)
class Violation:
    """One departure from the protocol.

    Attributes:
        kind: What went wrong; each kind is one rule's.
        event: Where.
        earlier: The event that makes it wrong: the backward pass before a clip, the first of two unscales.
    """

    kind: str
    event: Event
    earlier: Event | None = None


class State(NamedTuple):
    """What one path has done. Events are kept as what a message can point at."""

    scaled_names: frozenset[str] = frozenset()
    pending: str = ""
    backward: Event | None = None
    unscaled: frozenset[tuple[Pair, Event]] = frozenset()
    stepped: frozenset[tuple[Pair, Event]] = frozenset()
    zeroed: Event | None = None
    clipped: Event | None = None
    updates: frozenset[tuple[Pair, Event]] = frozenset()
    backward_since_update: bool = False
    fresh: bool = False
    """Whether the pending backward pass belongs to this walk through the loop."""
    open_mode: bool = False
    """Whether a plain backward pass stood under no test of mixed precision: it runs with a scaler too."""


class Protocol(Machine[State]):
    """Walks with a `State` and collects violations, one for each kind and place."""

    def __init__(self, enabled: dict[str, Test]) -> None:
        self.enabled = enabled
        self.found: dict[tuple[str, ast.AST], Violation] = {}

    def start(self) -> State:
        """Return the state of a function that nothing has run before."""
        return State()

    def apply(self, event: Event, state: State, facts: Facts) -> Iterable[tuple[State, Facts]]:
        """Return the state after an event, and report what it breaks."""
        if event.kind == "backward":
            return self._backward(event, state, facts)
        handler = _HANDLERS.get(event.kind)
        return [(handler(self, event, state), facts)] if handler else [(state, facts)]

    def rebind(self, state: State, place: str, bound: Bound | None = None) -> State:
        """Forget what was known of a place that got another value; a further name of the same scaler is no other."""
        if bound is not None and bound.kind == "same" and place not in state.scaled_names:
            return state
        if place in state.scaled_names:
            state = state._replace(scaled_names=state.scaled_names - {place})
        if not state.unscaled and not state.stepped and not state.updates:
            return state
        return state._replace(
            unscaled=_without(state.unscaled, place),
            stepped=_without(state.stepped, place),
            updates=_without(state.updates, place),
        )

    def again(self, state: State, loop: Repeat) -> State:
        """Begin the next walk through a loop that updates the scale: earlier updates belong to earlier steps."""
        state = state._replace(fresh=False)
        inside = list(events(loop.body)) if state.updates else []
        updates = [event for event in inside if event.kind == "update"]
        if not updates or any(_steps_over(loop, event, updates) for event in inside):
            return state
        return state._replace(updates=frozenset(), backward_since_update=False)

    def fallen(self, state: State) -> State:
        """Begin anew after an exception: how far the step came is not known."""
        return State(scaled_names=state.scaled_names)

    def skippable(self, loop: Repeat) -> bool:
        """Whether a loop may run not even once: not one over micro-batches, optimizers or parameters."""
        return not any(True for _ in events(loop.body))

    def important(self, fact: Fact) -> bool:
        """Whether a path that knows too much should keep this."""
        return _about_amp(fact[0])

    def possible(self, state: State, test: Test, value: bool, before: Facts) -> bool:
        """Whether a test about mixed precision agrees with the kind of backward pass that is pending."""
        flag, said = (test.test, not value) if isinstance(test, Not) else (test, value)
        if isinstance(flag, Atom) and _contradicts(flag.text, said, before):
            return False
        if state.pending not in (PLAIN, SCALED):
            return True
        on = _amp_on(test, value, before)
        return on is None or on is (state.pending == SCALED) or (on and state.open_mode)

    def report(self, kind: str, event: Event, earlier: Event | None = None) -> None:
        """Note a violation, the first of its kind at its place."""
        self.found.setdefault((kind, event.node), Violation(kind, event, earlier))

    def _backward(self, event: Event, state: State, facts: Facts) -> Iterable[tuple[State, Facts]]:
        scaler = event.data["scaler"] or ("" if event.data["loss"] not in state.scaled_names else "scaled loss")
        test = self.enabled.get(scaler, Known(True)) if scaler else Known(False)
        on = outcome(test, facts)
        if not scaler:
            made_elsewhere = _scaled_elsewhere(event)
            return [
                (self._managed(event, state) if made_elsewhere else self._after_backward(event, state, PLAIN), facts)
            ]
        if on is False:
            return [(state._replace(pending="", backward=event, zeroed=None, clipped=None), facts)]
        return [(self._after_backward(event, state, SCALED), facts)]

    def _after_backward(self, event: Event, state: State, kind: str) -> State:
        if state.pending in (PLAIN, SCALED) and state.pending != kind and _same_loop(event, state.backward):
            self.report("mixed losses", event, state.backward)
        after = state._replace(pending=kind, backward=event, zeroed=None, clipped=None, backward_since_update=True)
        return after._replace(fresh=True, open_mode=kind == PLAIN and not _decided_by_amp(event))

    def _scale(self, event: Event, state: State) -> State:
        to = event.data["to"]
        return state._replace(scaled_names=state.scaled_names | {to}) if to else state

    def _unscale(self, event: Event, state: State) -> State:
        pair = (event.data["scaler"], event.data["optimizer"])
        before, stepped = _of(state.unscaled, pair), _of(state.stepped, pair)
        if stepped is not None:
            self.report("unscale after step", event, stepped)
        elif before is not None and not _asks_whether_unscaled(event):
            self.report("unscale twice", event, before)
        return state._replace(unscaled=state.unscaled | {(pair, event)})

    def _manual(self, event: Event, state: State) -> State:
        return state._replace(unscaled=state.unscaled | {(("", ""), event)}, clipped=None)

    def _clip(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not state.unscaled:
            self.report("clip before unscale", event, state.backward)
        unknown = not state.pending and not state.unscaled
        return state._replace(clipped=event) if unknown and state.clipped is None else state

    def _read(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not state.unscaled:
            self.report("read before unscale", event, state.backward)
        return state

    def _scaler_step(self, event: Event, state: State) -> State:
        pair = (event.data["scaler"], event.data["optimizer"])
        before = _of(state.stepped, pair)
        if before is not None:
            self.report("no update", event, before)
        if state.pending == PLAIN and not state.scaled_names:
            self.report("no scale", event, state.backward)
        if state.zeroed is not None and _clears(state.zeroed, event):
            self.report("zero before step", event, state.zeroed)
        if state.clipped is not None and not state.unscaled and not event.module.mentions(("unscale",)):
            self.report("clip without unscale", state.clipped, event)
        others = [at for p, at in state.updates if p[0] == pair[0] and p != pair]
        if others and not state.backward_since_update and _of(state.updates, pair) is None:
            self.report("update per optimizer", event, others[0])
        return state._replace(pending="", clipped=None, stepped=state.stepped | {(pair, event)})

    def _update(self, event: Event, state: State) -> State:
        scaler = event.data["scaler"]
        done = frozenset((pair, at) for pair, at in state.stepped if pair[0] == scaler)
        others = ((pair, at) for pair, at in state.updates if pair[0] == scaler)
        earlier = next((at for pair, at in others if all(pair[1] != p[1] for p, _ in done)), None)
        if earlier is not None and done:
            self.report("several updates", event, earlier)
        marked = frozenset((pair, event) for pair, _ in done)
        return state._replace(
            stepped=state.stepped - done,
            unscaled=frozenset(item for item in state.unscaled if item[0][0] not in (scaler, "")),
            updates=state.updates | marked,
            backward_since_update=False,
        )

    def _step(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not state.unscaled:
            self.report("plain step", event, state.backward)
        if state.zeroed is not None and _clears(state.zeroed, event):
            self.report("zero before step", event, state.zeroed)
        return state._replace(pending="", clipped=None)

    def _zero(self, event: Event, state: State) -> State:
        if not state.pending:
            return state
        return state._replace(pending="", zeroed=event if state.fresh else None, clipped=None)

    def _managed(self, event: Event, state: State) -> State:
        """A framework runs the backward pass and scales by its own rules: only the order of clearing is checked."""
        return state._replace(pending=MANAGED, backward=event, zeroed=None, clipped=None, fresh=True)

    def _new(self, event: Event, state: State) -> State:
        return self.rebind(state, event.data["scaler"])

    def _clear(self, event: Event, state: State) -> State:  # noqa: ARG002
        return state._replace(pending="", zeroed=None, clipped=None)


_HANDLERS = {
    "scale": Protocol._scale,
    "unscale": Protocol._unscale,
    "manual unscale": Protocol._manual,
    "clip": Protocol._clip,
    "read": Protocol._read,
    "scaler step": Protocol._scaler_step,
    "update": Protocol._update,
    "step": Protocol._step,
    "zero": Protocol._zero,
    "managed backward": Protocol._managed,
    "clear": Protocol._clear,
    "new scaler": Protocol._new,
    "closure step": Protocol._clear,
}


def violations(module: Module, kind: str) -> list[Violation]:
    """Return the departures of one kind in a file, in source order."""
    return [v for v in all_violations(module) if v.kind == kind]


def all_violations(module: Module) -> list[Violation]:
    """Return every departure from the protocol in a file, in source order; worked out once."""
    return module.once("gradient violations", lambda: _all_violations(module))


def skeletons(module: Module) -> list[tuple[Root, list[Op]]]:
    """Return the functions of a file (and its own statements) that hold gradient events, with their skeletons."""
    return module.once("gradient skeletons", lambda: _skeletons(module))


def _skeletons(module: Module) -> list[tuple[Root, list[Op]]]:
    if not module.mentions(WORDS):
        return []
    vocabulary = GradientEvents()
    roots: list[Root] = [module.root, *module.functions]
    lowered = ((root, lower(module, root, vocabulary)) for root in roots)
    return [(root, ops) for root, ops in lowered if any(True for _ in events(ops))]


def _all_violations(module: Module) -> list[Violation]:
    found: dict[tuple[str, ast.AST], Violation] = {}
    for root, ops in skeletons(module):
        kinds = {event.kind for event in events(ops)}
        if not kinds & {"scale", "scaler step", "unscale", "step"}:
            continue
        protocol = Protocol(_enabled(module))
        _walk(module, root, ops, protocol)
        for violation in protocol.found.values():
            at = site(module, violation.event)
            found.setdefault((violation.kind, at), violation)
    return sorted(found.values(), key=lambda v: getattr(site(module, v.event), "lineno", 0))


def _walk(module: Module, root: Root, ops: list[Op], protocol: Protocol) -> None:
    """Walk a function; one that is a step by itself is walked a second time, as the loop around its calls does."""
    walk = Walk(protocol, ops)
    for test in protocol.enabled.values():
        walk.asks(test)
    ends = walk.run()
    steps = [e for e in events(ops) if e.kind == "scaler step" and e.module is module]
    in_loops = any(next(module.tree.loops(site(module, e)), None) is not None for e in steps)
    if not steps or in_loops or isinstance(root, ast.Module) or _updated_elsewhere(module, root, steps):
        return
    for state in list(dict.fromkeys(state for state, _ in ends))[:_AGAIN]:
        walk.run(state=State(unscaled=state.unscaled, stepped=state.stepped))


def _updated_elsewhere(module: Module, root: Root, steps: list[Event]) -> bool:
    """Whether another function may update the scale: then what this one leaves open may be closed there."""
    stepped = {key(receiver(step.node)) for step in steps if isinstance(step.node, ast.Call)}
    made = {key(t) for c in scaler_constructions(module) for t in getattr(module.tree.statement(c), "targets", [])}
    if not stepped <= made:
        return True
    updates = [call for call in module.calls_of("update") if key(receiver(call)) in stepped]
    return any(module.tree.function(call) is not root for call in updates)


def site(module: Module, event: Event) -> ast.AST:
    """Return where an event shows in a file: itself, or the call in that file that leads to it."""
    if event.module is module:
        return event.node
    return next((call for where, call in reversed(event.stack) if where is module), event.node)


def _enabled(module: Module) -> dict[str, Test]:
    """Return, for each place that holds a scaler of this file, the test of its `enabled=`."""
    return module.once("scalers enabled", lambda: dict(_enabled_pairs(module)))


def _enabled_pairs(module: Module) -> Iterable[tuple[str, Test]]:
    for call in scaler_constructions(module):
        flag = argument(call, None, "enabled")
        statement = module.tree.statement(call)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if flag is None or (isinstance(flag, ast.Constant) and flag.value is True):
            continue
        for target in targets:
            place = key(target)
            if place is not None:
                yield place, test_of(flag, Naming())


def _without(pairs: frozenset[tuple[Pair, Event]], place: str) -> frozenset[tuple[Pair, Event]]:
    """Forget a scaler that is another one now; an optimizer that is another one now was still an optimizer."""
    kept = ((pair, event) for pair, event in pairs if not _part_of(place, pair[0]))
    return frozenset(((p[0], "") if _part_of(place, p[1]) else p, event) for p, event in kept)


def _part_of(place: str, text: str) -> bool:
    """Whether a spelled expression mentions a place as a whole name."""
    start = text.find(place)
    while start >= 0:
        end = start + len(place)
        if (start == 0 or not _name_char(text[start - 1])) and (end == len(text) or not _name_char(text[end])):
            return True
        start = text.find(place, start + 1)
    return False


def _name_char(char: str) -> bool:
    return char.isalnum() or char in "_."


def _steps_over(loop: Repeat, event: Event, updates: list[Event]) -> bool:
    """Whether an event steps what the loop goes over, with an update right beside it.

    One walk through such a loop is one optimizer of a step, not a step.
    """
    if event.kind != "scaler step" or not any(_part_of(place, event.data["optimizer"]) for place in loop.places):
        return False
    return any(update.module is event.module and _block_of(update) is _block_of(event) for update in updates)


def _block_of(event: Event) -> ast.AST:
    tree = event.module.tree
    return tree.parents[tree.statement(event.node)]


def _asks_whether_unscaled(event: Event) -> bool:
    """Whether a test around an `unscale_` looks at the scaler's own state of the optimizer."""
    above = (at for at in event.module.tree.above(event.node) if isinstance(at, ast.If))
    return any(_UNSCALED.search(ast.unparse(at.test)) for at in above)


def _decided_by_amp(event: Event) -> bool:
    """Whether a test of mixed precision stands above an event, in its function or around the calls that lead there."""
    for module, node in ((event.module, event.node), *event.stack):
        for above in module.tree.above(node):
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                break
            if isinstance(above, ast.If | ast.IfExp) and _about_amp(ast.unparse(above.test)):
                return True
    return _returns_before(event)


def _returns_before(event: Event) -> bool:
    """Whether a branch about mixed precision before the event leaves the function: what follows is the other mode."""
    function = event.module.tree.function(event.node)
    leaves = ast.Return | ast.Raise | ast.Continue
    return any(
        isinstance(node, ast.If)
        and node.lineno < _line(event.node)
        and isinstance(node.body[-1], leaves)
        and _about_amp(ast.unparse(node.test))
        for node in (function.body if function is not None else ())
    )


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _scaled_elsewhere(event: Event) -> bool:
    """Whether the loss comes from a call that may have scaled it: `loss = self.scale_loss(loss)`."""
    call = event.node
    loss = receiver(call) if isinstance(call, ast.Call) else None
    if loss is None:
        return False
    values = [loss, *assigned(event.module, loss)]
    return any(
        _SCALES.search(called(c)) for v in values for c in ast.walk(v) if isinstance(c, ast.Call) and c is not call
    )


def _clears(zeroed: Event, step: Event) -> bool:
    """Whether a `zero_grad` clears what a step applies: the same optimizer, or a model and not another optimizer."""
    cleared: str = zeroed.data["optimizer"]
    return cleared == step.data["optimizer"] or not zeroed.data["is_optimizer"]


def _same_loop(event: Event, earlier: Event | None) -> bool:
    if earlier is None or earlier.module is not event.module:
        return False
    loops = event.module.tree.loops
    return next(loops(event.node), None) is next(loops(earlier.node), None)


def _of(pairs: frozenset[tuple[Pair, Event]], pair: Pair) -> Event | None:
    return next((event for p, event in pairs if p == pair), None)


def _contradicts(text: str, value: bool, before: Facts) -> bool:
    """Whether a path already knows the other answer to the same flag of mixed precision in a caller or helper."""
    bare = _bare(text)
    known = ((t, v) for t, v in before if v is not value and t != text)
    return _about_amp(text) and any(_bare(t) == bare for t, _ in known)


@cache
def _bare(text: str) -> str:
    return _PREFIX.sub("", text)


def _amp_on(test: Test, value: bool, before: Facts) -> bool | None:
    """Whether a test's outcome says that mixed precision is on (True) or off (False); None where it says neither."""
    if isinstance(test, Not):
        return _amp_on(test.test, not value, before)
    if isinstance(test, Atom):
        return _atom_on(test, value)
    if isinstance(test, Known):
        return None
    if value is isinstance(test, All) or len(test.tests) == 1:
        said = [on for part in test.tests if (on := _amp_on(part, value, before)) is not None]
        return said[0] if said else None
    undecided = [part for part in test.tests if outcome(part, before) is None]
    about = [part for part in undecided if _amp_on(part, value, before) is not None]
    return _amp_on(about[0], value, before) if len(about) == len(undecided) == 1 else None


@cache
def _about_amp(text: str) -> bool:
    return bool(_ABOUT_AMP.search(text))


def _atom_on(atom: Atom, value: bool) -> bool | None:
    if not _about_amp(atom.text):
        return None
    if atom.text.endswith(" is None"):
        return not value
    if " == " in atom.text:
        other = atom.text.rpartition(" == ")[2].strip("'\"").lower()
        return not value if any(other.endswith(off) for off in _OFF_VALUES) else value
    if any(op in atom.text for op in (" < ", " > ", " <= ", " >= ")):
        return None
    return value
