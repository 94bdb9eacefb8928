"""Trainings that use their model between two steps, or two epochs, while autograd records: samples, previews, scores.

The call stands behind the last step of the loop, is made in some passes alone or named after what it is for, and what
it runs, itself or through the project, runs the model and switches gradients off nowhere.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, walk_scope
from ampguard.auditing.rules.amp._evaluation.modes import models
from ampguard.auditing.rules.amp._evaluation.names_in_calls import handed_in
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, NEEDS, OFF, off_around, run_model, source
from ampguard.auditing.rules.amp._evaluation.same_models import bare, same_models
from ampguard.auditing.rules.amp._order.seldom import every_kth
from ampguard.auditing.rules.amp._steps import enclosing

_USES = regex(
    r"(^|_)(sampl|generat|predict|infer|decod|visuali[sz]|preview|render|synthesi[sz]|translat|caption|transcri|score"
    r"|evaluat|eval|valid|test|accuracy|metric|demo|plot|show|draw)"
)
_TRAINS = regex(r"train|fit|loss|backward|step|update|optimi|attack|closure")
_DEPTH = 3
"""Calls followed from a training into the project."""


Run = tuple[Module, ast.Call, str]
"""The file in which a model is run at last, the call that does, and the model."""


def recorded_between_steps(module: Module) -> Iterator[tuple[ast.Call, Run]]:
    """Walk (the call behind a step that runs a trained model with gradients on, its run), once a function."""
    trained = models(module)
    backward = module.calls.get("backward", ())
    for around in {enclosing(module, call): None for call in backward if any(True for _ in module.tree.loops(call))}:
        if isinstance(around, FUNCTIONS) and any(off_around(module, s) for s in around.body[:1]):
            continue
        found = next(_recorded_in(module, around, trained), None)
        if found is not None:
            yield found


def _recorded_in(module: Module, around: ast.AST, trained: set[str]) -> Iterator[tuple[ast.Call, Run]]:
    """Walk the calls behind the last step of a function that run one of its models with gradients on."""
    calls = [node for node in walk_scope(around) if isinstance(node, ast.Call)]
    steps = [c for c in calls if called(c) in ("step", "backward") and any(True for _ in module.tree.loops(c))]
    last = max(step.end_lineno or step.lineno for step in steps)
    before = (call for call in calls if call.lineno < last and bare(call) is None)
    run = {place for call in before if (place := run_model(call)) and MODEL.search(place)}
    names = same_models(module, steps[0], trained | run)
    loops = list(module.tree.loops(steps[0]))
    for call in calls:
        around_both = next((loop for loop in loops if module.tree.inside(call, loop)), None)
        if call.lineno <= last or around_both is None or _TRAINS.search(called(call)):
            continue
        meant = _USES.search(called(call)) or every_kth(module, call, around_both) is not None
        if meant and (found := run_behind(module, call, set(names))):
            yield call, (*found[:2], names[found[2]])


def run_behind(module: Module, call: ast.Call, known: set[str], depth: int = 0) -> Run | None:
    """Return where a call runs a model with gradients on, as far as the project can be read."""
    if off_around(module, call) or bare(call) is not None:
        return None
    own = run_model(call) if call.args or call.keywords else None
    own = bare(call.func) if own not in known and own else own
    if own in known and own is not None:
        return module, call, own
    place = target(module, call) if depth < _DEPTH else None
    return run_in(module, call, place, known, depth) if place is not None else None


def run_in(module: Module, call: ast.Call, place: Place, known: set[str], depth: int = 0) -> Run | None:
    """Return where the function that a call runs, or may run, runs a model with gradients on."""
    text = source(*place)
    if place[1].name == "__init__" or OFF.search(text) or NEEDS.search(text):
        return None
    names = handed_in(module, call, place, known)
    inner = (node for node in walk_scope(place[1]) if isinstance(node, ast.Call)) if names else ()
    found = next((run for c in inner if (run := run_behind(place[0], c, set(names), depth + 1))), None)
    return (*found[:2], names[found[2]]) if found is not None else None
