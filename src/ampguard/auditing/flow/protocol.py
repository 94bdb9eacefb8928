"""The protocol between a scaled backward pass and the next one, as a machine that walks one path.

Torch's documentation orders the calls: `scale(loss).backward()`, `unscale_` (once per optimizer and step, before
anything looks at the gradients), `step` of every optimizer through the scaler, one `update`, `zero_grad`. The
machine walks with what one path has done so far and reports each departure once, at the call that departs.

What a path does not know is decided in the code's favour: where a test about mixed precision is undecided, the
outcome that contradicts what the path has already done (mixed precision off after a scaled backward pass) is
taken as impossible.

Source: pytorch.org/docs/stable/notes/amp_examples.html and torch/amp/grad_scaler.py (OptState, unscale_, step, update).
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ampguard.auditing.flow.amp_flags import about_amp, amp_on, contradicts, decided_by_amp
from ampguard.auditing.flow.conditions import Atom, Fact, Facts, Known, Not, Test, outcome
from ampguard.auditing.flow.losses import kept_somewhere, made_of_gradients, meant_as_one, scaled_elsewhere
from ampguard.auditing.flow.paths import Machine, events
from ampguard.auditing.flow.places import mentions, owner_of
from ampguard.auditing.flow.skeleton import Bound, Event, Repeat
from ampguard.auditing.patterns import regex

PLAIN, SCALED, MANAGED = "plain", "scaled", "managed"
Pair = tuple[str, str]
"""(scaler, optimizer), as spelled on the path."""

_UNSCALED = regex(r"unscal|OptState|_per_optimizer|stage", re.IGNORECASE)


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
    applied: frozenset[tuple[Pair, Event]] = frozenset()
    """What the scaler has stepped since the last backward pass, also behind its update."""
    early: Event | None = None
    """The scaler's update while a backward pass of this walk was waiting for its step."""
    left: Event | None = None
    """The scaled backward pass of which the scaler has stepped an optimizer, and left what others hold as it was."""


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
        if event.kind == "scaler step" and state.pending == PLAIN and self._is_off(event, facts):
            state = state._replace(pending=MANAGED)
        return [(handler(self, event, state), facts)] if handler else [(state, facts)]

    def _is_off(self, event: Event, facts: Facts) -> bool:
        """Whether the path knows that the scaler was made with enabled=False: it steps as the optimizer does."""
        return outcome(self.enabled.get(event.data["scaler"], Known(True)), facts) is False

    def rebind(self, state: State, place: str, bound: Bound | None = None) -> State:
        """Forget what was known of a place that got another value; a further name of the same scaler is no other."""
        if bound is not None and bound.kind == "same" and place not in state.scaled_names:
            return state
        if place in state.scaled_names:
            state = state._replace(scaled_names=state.scaled_names - {place})
        if not state.unscaled and not state.stepped and not state.updates and not state.applied:
            return state
        return state._replace(
            applied=frozenset(item for item in state.applied if not mentions(place, item[0][1])),
            unscaled=_without(state.unscaled, place),
            stepped=_without(state.stepped, place),
            updates=_without(state.updates, place),
        )

    def again(self, state: State, loop: Repeat) -> State:
        """Begin the next walk through a loop: what it cleared, clipped or updated belongs to earlier steps."""
        state = state._replace(fresh=False, clipped=None, zeroed=None)
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
        return about_amp(fact[0])

    def possible(self, state: State, test: Test, value: bool, before: Facts) -> bool:
        """Whether a test about mixed precision agrees with the kind of backward pass that is pending."""
        flag, said = (test.test, not value) if isinstance(test, Not) else (test, value)
        if isinstance(flag, Atom) and contradicts(flag.text, said, before):
            return False
        if state.pending not in (PLAIN, SCALED):
            return True
        on = amp_on(test, value, before)
        return on is None or on is (state.pending == SCALED) or (on and state.open_mode)

    def report(self, kind: str, event: Event, earlier: Event | None = None) -> None:
        """Note a violation, the first of its kind at its place."""
        self.found.setdefault((kind, event.node), Violation(kind, event, earlier))

    def _backward(self, event: Event, state: State, facts: Facts) -> Iterable[tuple[State, Facts]]:
        scaler = event.data["scaler"] or ("" if event.data["loss"] not in state.scaled_names else "scaled loss")
        test = self.enabled.get(scaler, Known(True)) if scaler else Known(False)
        on = outcome(test, facts)
        if not scaler and made_of_gradients(event):
            return [(state, facts)]
        if not scaler:
            made_elsewhere = scaled_elsewhere(event)
            return [
                (self._managed(event, state) if made_elsewhere else self._after_backward(event, state, PLAIN), facts)
            ]
        if on is False:
            off = state._replace(pending="", backward=event, zeroed=None, clipped=None, applied=frozenset())
            return [(off._replace(left=None), facts)]
        return [(self._after_backward(event, state, SCALED), facts)]

    def _after_backward(self, event: Event, state: State, kind: str) -> State:
        if state.pending in (PLAIN, SCALED) and state.pending != kind and meant_as_one(event, state.backward):
            self.report("mixed losses", event, state.backward)
        after = state._replace(pending=kind, backward=event, zeroed=None, clipped=None, backward_since_update=True)
        open_mode = kind == PLAIN and not decided_by_amp(event)
        return after._replace(fresh=True, open_mode=open_mode, applied=frozenset(), early=None, left=None)

    def _scale(self, event: Event, state: State) -> State:
        to = event.data["to"] or ("anywhere" if kept_somewhere(event) else "")
        return state._replace(scaled_names=state.scaled_names | {to}) if to else state

    def _unscale(self, event: Event, state: State) -> State:
        pair = (event.data["scaler"], event.data["optimizer"])
        before, stepped = _of(state.unscaled, pair), _of(state.stepped, pair)
        if stepped is not None and (before is None or before.node is not event.node):
            self.report("unscale after step", event, stepped)
        elif before is not None and not _asks_whether_unscaled(event):
            self.report("unscale twice", event, before)
        if state.clipped is not None and not state.pending and before is None:
            self.report("clip and then unscale", state.clipped, event)
        return state._replace(unscaled=state.unscaled | {(pair, event)})

    def _manual(self, event: Event, state: State) -> State:
        return state._replace(unscaled=state.unscaled | {(("", ""), event)}, clipped=None, left=None)

    def _handed(self, event: Event, state: State) -> State:
        return self._manual(event, state)._replace(stepped=frozenset(), updates=frozenset(), zeroed=None)

    def _clip(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not _still_unscaled(state):
            self.report("clip before unscale", event, state.backward)
        unknown = not state.pending and not state.unscaled
        return state._replace(clipped=event) if unknown and state.clipped is None else state

    def _read(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not _still_unscaled(state):
            self.report(f"{event.kind} before unscale", event, state.backward)
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
        if (
            state.clipped is not None
            and not state.unscaled
            and not event.module.mentions(("unscale_(", ".unscale", "def unscale", "unscale_grad"))
        ):
            self.report("clip without unscale", state.clipped, event)
        others = [at for p, at in state.updates if p[0] == pair[0] and p != pair]
        if others and not state.backward_since_update and _of(state.updates, pair) is None:
            self.report("update per optimizer", event, others[0])
        if state.early is not None and state.early.data["scaler"] == pair[0]:
            self.report("update before step", state.early, event)
        done = {(pair, event)}
        scaled = state.pending == SCALED and all(p == pair for p, _ in state.unscaled)
        state = state._replace(left=state.backward if scaled else state.left)
        return state._replace(
            pending="", early=None, clipped=None, stepped=state.stepped | done, applied=state.applied | done
        )

    def _whole_step(self, event: Event, state: State) -> State:
        """One call scales, runs the backward pass, steps its optimizer and updates: `loss_scaler(loss, optimizer)`."""
        done = frozenset({((event.data["scaler"], event.data["optimizer"]), event)})
        after = state._replace(pending="", backward=event, left=event, applied=state.applied | done)
        return after._replace(zeroed=None, clipped=None, early=None, backward_since_update=False)

    def _update(self, event: Event, state: State) -> State:
        scaler = event.data["scaler"]
        done = frozenset((pair, at) for pair, at in state.stepped if pair[0] == scaler)
        others = ((pair, at) for pair, at in state.updates if pair[0] == scaler)
        earlier = next((at for pair, at in others if all(pair[1] != p[1] for p, _ in done)), None)
        if earlier is not None and done:
            self.report("several updates", event, earlier)
        marked = frozenset((pair, event) for pair, _ in done)
        waits = state.pending == SCALED and state.fresh and not done
        return state._replace(
            early=event if waits else None,
            stepped=state.stepped - done,
            unscaled=frozenset(item for item in state.unscaled if item[0][0] not in (scaler, "")),
            updates=state.updates | marked,
            backward_since_update=False,
        )

    def _step(self, event: Event, state: State) -> State:
        if state.pending == SCALED and not state.unscaled:
            self.report("plain step", event, state.backward)
        if state.pending == SCALED and (at := _unscaled_for(state, event)) is not None:
            self.report("plain step after unscale", event, at)
        if state.zeroed is not None and _clears(state.zeroed, event):
            self.report("zero before step", event, state.zeroed)
        again = next((at for pair, at in state.applied if pair[1] == event.data["optimizer"]), None)
        if again is not None and not decided_by_amp(event):
            self.report("stepped again", event, again)
        elif again is None and not decided_by_amp(event) and (left := _left_scaled(state, event)) is not None:
            self.report("step of another", event, left)
        return state._replace(pending="", clipped=None)

    def _zero(self, event: Event, state: State) -> State:
        state = state._replace(left=None)
        if not state.pending:
            return state
        return state._replace(pending="", zeroed=event if state.fresh else None, clipped=None)

    def _managed(self, event: Event, state: State) -> State:
        """A framework runs the backward pass and scales by its own rules: only the order of clearing is checked."""
        after = state._replace(pending=MANAGED, backward=event, zeroed=None, clipped=None, fresh=True)
        return after._replace(applied=frozenset(), left=None)

    def _new(self, event: Event, state: State) -> State:
        return self.rebind(state, event.data["scaler"])

    def _clear(self, event: Event, state: State) -> State:  # noqa: ARG002
        return state._replace(pending="", zeroed=None, clipped=None, left=None)


_HANDLERS = {
    "scale": Protocol._scale,
    "unscale": Protocol._unscale,
    "manual unscale": Protocol._manual,
    "handed": Protocol._handed,
    "clip": Protocol._clip,
    "read": Protocol._read,
    "perhaps read": Protocol._read,
    "add": Protocol._read,
    "perhaps add": Protocol._read,
    "scaler step": Protocol._scaler_step,
    "update": Protocol._update,
    "step": Protocol._step,
    "zero": Protocol._zero,
    "managed backward": Protocol._managed,
    "clear": Protocol._clear,
    "new scaler": Protocol._new,
    "closure step": Protocol._clear,
    "whole step": Protocol._whole_step,
}


def _still_unscaled(state: State) -> bool:
    """Whether gradients are unscaled that no step has used yet: those of the generator say nothing of the critic's."""
    stepped = {pair for pair, _ in state.stepped}
    return any(pair not in stepped for pair, _ in state.unscaled)


def _unscaled_for(state: State, step: Event) -> Event | None:
    """Return the `unscale_` of the optimizer that a step applies, where nobody has stepped it since."""
    stepped = {pair for pair, _ in state.stepped}
    optimizer = step.data["optimizer"]
    unscaled = ((pair, at) for pair, at in state.unscaled if pair[1] == optimizer and pair not in stepped)
    return next((at for _, at in unscaled), None)


def _left_scaled(state: State, step: Event) -> Event | None:
    """Return the scaled backward pass after which the scaler stepped, or unscaled, others than the optimizer of a step.

    One that belongs to another object (`others.optimizer`) may hold the gradients of its own loss.
    """
    optimizer = step.data["optimizer"]
    others = {pair[1] for pair, _ in (state.applied if state.left is not None else state.unscaled)}
    left = state.left or (state.backward if state.pending == SCALED and not others & {"", optimizer} else None)
    return left if any(owner_of(other) == owner_of(optimizer) for other in others) else None


def _without(pairs: frozenset[tuple[Pair, Event]], place: str) -> frozenset[tuple[Pair, Event]]:
    """Forget a scaler that is another one now; an optimizer that is another one now was still an optimizer."""
    kept = ((pair, event) for pair, event in pairs if not mentions(place, pair[0]))
    return frozenset(((p[0], "") if mentions(place, p[1]) else p, event) for p, event in kept)


def _steps_over(loop: Repeat, event: Event, updates: list[Event]) -> bool:
    """Whether an event steps what the loop goes over, with an update right beside it.

    One walk through such a loop is one optimizer of a step, not a step.
    """
    if event.kind != "scaler step" or not any(mentions(place, event.data["optimizer"]) for place in loop.places):
        return False
    return any(update.module is event.module and _block_of(update) is _block_of(event) for update in updates)


def _block_of(event: Event) -> ast.AST:
    tree = event.module.tree
    return tree.parents[tree.statement(event.node)]


def _asks_whether_unscaled(event: Event) -> bool:
    """Whether a test around an `unscale_` looks at the scaler's own state of the optimizer."""
    above = (at for at in event.module.tree.above(event.node) if isinstance(at, ast.If))
    return any(_UNSCALED.search(ast.unparse(at.test)) for at in above)


def _clears(zeroed: Event, step: Event) -> bool:
    """Whether a `zero_grad` clears what a step applies: the same optimizer, or a model and not another optimizer."""
    cleared: str = zeroed.data["optimizer"]
    return cleared == step.data["optimizer"] or not zeroed.data["is_optimizer"]


def _of(pairs: frozenset[tuple[Pair, Event]], pair: Pair) -> Event | None:
    return next((event for p, event in pairs if p == pair), None)
