"""The gradients of a file: its functions as skeletons, and where they depart from the scaler's protocol."""

import ast
from collections.abc import Iterable

from ampguard.auditing.flow.conditions import Naming, Test, test_of
from ampguard.auditing.flow.gradient_events import WORDS, GradientEvents
from ampguard.auditing.flow.last_piece import unscaled_with_the_last
from ampguard.auditing.flow.lowering import Root, lower
from ampguard.auditing.flow.paths import Walk, events
from ampguard.auditing.flow.protocol import Protocol, State, Violation
from ampguard.auditing.flow.skeleton import Block, Choose, Event, Op
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, key, receiver

_LOOKS = frozenset(f"{way}{look} before unscale" for look in ("read", "add") for way in ("", "perhaps "))
"""The kinds of violations that leave the gradients as they were for the step."""

_AGAIN = 6
"""End states from which a step function is walked a second time."""


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
        if not kinds & {"scale", "scaler step", "unscale", "step"} or _only_calls(module, ops):
            continue
        protocol = Protocol(_enabled(module))
        _walk(module, root, ops, protocol)
        for violation in protocol.found.values():
            looks = violation.kind in _LOOKS
            at = where_they_meet(module, violation) if looks else site(module, violation.event)
            stepped = looks and _stepped_between(violation, ops)
            if not stepped and not unscaled_with_the_last(violation, ops):
                found.setdefault((violation.kind, at), violation)
    return sorted(found.values(), key=lambda v: getattr(site(module, v.event), "lineno", 0))


def _only_calls(module: Module, ops: list[Op]) -> bool:
    """Whether all that a function has of events is one call of another of the same file, which is walked itself."""
    carriers = [op for op in ops if any(True for _ in events([op]))]
    if len(carriers) != 1:
        return False
    if isinstance(carriers[0], Choose):
        return _only_calls(module, [*carriers[0].body, *carriers[0].orelse])
    return isinstance(carriers[0], Block) and carriers[0].module is module


def _stepped_between(violation: Violation, ops: list[Op]) -> bool:
    """Whether a step stands between a backward pass and a read: what was stepped has been unscaled by then."""
    if violation.earlier is None:
        return False
    first, last = _way_to(violation.earlier), _way_to(violation.event)
    return any(first < _way_to(e) < last for e in events(ops) if e.kind == "scaler step")


def _way_to(event: Event) -> tuple[int, ...]:
    """Return the lines that lead to an event from the walked function: of each call, then its own."""
    return tuple(getattr(node, "lineno", 0) for node in (*(call for _, call in event.stack), event.node))


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


def where_they_meet(module: Module, violation: Violation) -> ast.AST:
    """Return the call that a function makes in the wrong order; the event, where that function has it itself.

    A helper that is called too early is not wrong itself.
    """
    event, earlier = violation.event, violation.earlier
    before = earlier.stack if earlier is not None else ()
    shared = next((i for i, (a, b) in enumerate(zip(event.stack, before, strict=False)) if a[1] is not b[1]), None)
    apart = event.stack[min(len(event.stack), len(before)) if shared is None else shared :]
    return next((call for where, call in apart if where is module), site(module, event))


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
