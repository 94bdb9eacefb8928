"""Methods that step in both arms of an `if`, and clear in one: the backward pass and the loop are in other methods.

Only where the clears of that arm are all that the file has.
"""

from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._steps import RUNNERS, arms

_STEPS = ("step", "scaler step")
_BACKWARD = ("backward", "managed backward")


def steps_of_the_other_arm(module: Module) -> Iterator[tuple[Event, Event]]:
    """Walk (the step, the clear) where only the arm of another step clears."""
    clears_of_file = module.calls.get("zero_grad", ())
    if not clears_of_file or module.mentions(RUNNERS) or module.role == "test":
        return
    for _, ops in skeletons(module):
        own = [e for e in events(ops) if e.module is module and not e.stack]
        clears = [e for e in own if e.kind == "zero" and e.data.get("is_optimizer")]
        if any(e.kind in _BACKWARD for e in own) or {e.node for e in clears} != set(clears_of_file):
            continue
        steps = [e for e in own if e.kind in _STEPS]
        for step in steps:
            mine = [c for c in clears if c.data.get("optimizer") == step.data.get("optimizer")]
            others = [s for s in steps if s is not step and s.data.get("optimizer") == step.data.get("optimizer")]
            if not mine or not all(arms(module, c.node, step.node) for c in mine):
                continue
            if any(not arms(module, s.node, c.node) for s in others for c in mine):
                yield step, mine[0]
