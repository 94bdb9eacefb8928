"""Schedules that move before what only a name, or another file, tells to be the training behind them.

`scheduler.step()` at the top of an epoch, `train(model, loader, optimizer)` below it; and the wrapper of both, whose
`step` moves the schedule and then the optimizer, in a file that holds no backward pass.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradient_events import WORDS
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._schedules.known import moves
from ampguard.auditing.rules.amp._schedules.moved_before_fused import schedules_before_fused_updates
from ampguard.auditing.rules.amp._schedules.moved_first import Move, held_back

_TRAINS = regex(
    r"_*(do_|run_)?(train|fit)(_?(for_)?(one_|an_|single_)?(epoch|model|loop|step|iter|fn|net))?_*"
    r"|_*train(ing)?_(epoch|loop|phase|pass|(and_|n_)?(val\w*|eval\w*|test))s?|_*(run_)?training"
    r"|_*(run|do)_(train_|training_|one_|an_)?epoch|_*epoch_train"
)
_STEPS = regex(r"\.step\(")


def schedules_before_training(module: Module) -> Iterator[Move]:
    """Walk the moves of a schedule with the training, or the optimizer's step, that comes right behind them."""
    yield from schedules_before_fused_updates(module)
    for move in moves(module):
        loop = next(module.tree.loops(move), None)
        if loop is None and not module.mentions(WORDS) and module.role != "test":
            step = _step_below(module, move)
            if step is not None:
                yield move, step
        if loop is not None:
            trains = [c for c in trainings(module) if next(module.tree.loops(c), None) is loop]
            first = next((c for c in trains if c.lineno > move.lineno and _of(module, move, c)), None)
            before = any(c.lineno < move.lineno and not _apart(module, c, move) for c in trains)
            if first is not None and not before and not held_back(module, move, first, loop):
                yield move, first


def _step_below(module: Module, move: ast.Call) -> ast.Call | None:
    """Return the optimizer's step behind a move in the same block, where none comes before; a move may be guarded."""
    at: ast.AST = module.tree.statement(move)
    above = module.tree.parents[at]
    if isinstance(above, ast.If) and len(above.body) == 1 and not above.orelse and _asks_for(above.test, move):
        at, above = above, module.tree.parents[above]
    block = getattr(above, "body", [])
    steps = [c for c in module.calls_of("step") if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c))]
    here = [c for c in steps if module.tree.statement(c) in block]
    behind = next((c for c in here if c.lineno > move.lineno), None)
    return behind if at in block and not any(c.lineno < move.lineno for c in here) else None


def _asks_for(test: ast.expr, move: ast.Call) -> bool:
    """Whether a test asks no more than whether there is the schedule that moves."""
    place = key(receiver(move))
    return place is not None and ast.unparse(test) in (place, f"{place} is not None")


def trainings(module: Module) -> list[ast.Call]:
    """Return the calls that train: named so, and given an optimizer, or running a function that steps one."""
    return module.once("trainings", lambda: _find_trainings(module))


def _find_trainings(module: Module) -> list[ast.Call]:
    calls = (c for name, found in module.calls.items() if _TRAINS.fullmatch(name) for c in found)
    return sorted((c for c in calls if _optimizers(module, c) or _runs_steps(module, c)), key=lambda c: c.lineno)


def _optimizers(module: Module, call: ast.Call) -> list[ast.expr]:
    given = [*call.args, *(k.value for k in call.keywords)]
    return [g for g in given if is_optimizer(module, g)]


def _runs_steps(module: Module, call: ast.Call) -> bool:
    place = target(module, call)
    return place is not None and bool(
        _STEPS.search("\n".join(place[0].lines[place[1].lineno - 1 : place[1].end_lineno]))
    )


def _of(module: Module, move: ast.Call, training: ast.Call) -> bool:
    """Whether the schedule that moves may be the one of the optimizer that is trained with."""
    given = {key(g) for g in _optimizers(module, training)}
    made = module.names.values(receiver(move).id, move) if isinstance(receiver(move), ast.Name) else []  # type: ignore[union-attr]
    own = {key(v.args[0]) for v in made if isinstance(v, ast.Call) and v.args} - {None}
    return not given or not own or bool(given & own)


def _apart(module: Module, training: ast.Call, move: ast.Call) -> bool:
    """Whether a training above a move belongs to another arm, or is no training of the move's own pass."""
    for above in module.tree.above(move):
        if isinstance(above, ast.If) and module.tree.inside(training, above):
            return any(module.tree.inside(training, s) for s in above.body) is not any(
                module.tree.inside(move, s) for s in above.body
            )
    return called(training) == "step"
