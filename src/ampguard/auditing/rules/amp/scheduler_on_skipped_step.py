"""The learning-rate schedule moves on although the scaler may have skipped the step."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.gradients import site, skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import STATE_WORDS
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import truth
from ampguard.auditing.reading.tree import argument, key, walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._hooks import ASKS_SCALE, schedules_in_hooks
from ampguard.auditing.rules.amp._schedules.asked_too_early import asked_before_update
from ampguard.auditing.rules.amp._schedules.by_name import asks_for_skips, named_schedules
from ampguard.auditing.rules.amp._schedules.moved_at_the_beginning import schedules_moved_at_the_beginning
from ampguard.auditing.rules.amp._schedules.moved_before_training import schedules_before_training
from ampguard.auditing.rules.amp._schedules.moved_each_micro_batch import schedules_of_micro_batches
from ampguard.auditing.rules.amp._schedules.moved_elsewhere import schedules_moved_elsewhere
from ampguard.auditing.rules.amp._schedules.moved_first import schedules_moved_first
from ampguard.auditing.rules.amp._schedules.moved_in_accumulate import schedules_in_accumulate
from ampguard.auditing.rules.amp._schedules.out_of_step import out_of_step
from ampguard.auditing.rules.amp._schedules.replayed import replayed_schedules
from ampguard.auditing.rules.amp._schedules.skipped_by_hand import schedules_of_left_out_steps

_PARTS = regex(r"optim|sched|opts\b", re.IGNORECASE)
"""What a loop goes over that is part of each step."""

_AWARE = regex(
    r"get_scale|scale_before|old_scale|prev_scale|found_inf|skip|_scale\b|overflow|applied|stepped|was_|did_"
)

_FOR_SKIPS = regex(r"^class _*(Amp|AMP|Skip)\w*\([^\n]*(LR|Scheduler)\w*\)", re.MULTILINE)
"""A schedule of the project's own, made for steps that are skipped."""

_OFTEN = "The schedule ends after a k-th part of the training."
_BESIDE = "Step the scheduler under the test that the optimizer's step stands under."
_APART = "The learning rate is not the one that the schedule gives for this point of the training."
_TOGETHER = "Step each schedule once for each unit that its length counts, after its optimizer's step."
_LOAD = "Keep the scheduler's state_dict() in the checkpoint, and load it."
_FIRST = "Training starts at the second value of the schedule (torch warns of it once)."


class SchedulerOnSkippedStep(Rule):
    """The learning-rate schedule moves on although the scaler may have skipped the step.

    ## What it does
    Reports `scheduler.step()` once a step, beside `scaler.step(optimizer)` in the same loop or function, where no
    test around it looks at the scale or at whether the step was skipped; also in a trainer's hook of each step, where
    nothing in the project looks at that. A call that is only named as moving a schedule (`step_scheduler()`) counts,
    and so does one behind a loop over the objectives of one step. A schedule per epoch is fine, unless it moves before
    the first step of its loop, before the call that trains, or in a hook that a trainer runs before its step: the
    first value is passed by. Also one that moves at every micro-batch of an accumulation (in
    `accelerator.accumulate()` too, unprepared), or is run again and again before training to come to where a run
    stood, and one that moves beside a step that the loop itself left out for NaN; one that moves twice for one step,
    in one of the two arms that step with and without a scaler, without the step of its own optimizer, or not at all;
    and one whose length counts epochs and that moves at every batch, or the other way round, also by the `interval`
    that Lightning is told or by what a resumed run moves it; one that waits for a misspelt kind. A loop that moves the
    schedule through an object of another file (`model.update_learning_rate(i)` beside `model.optimize_parameters(i)`)
    is seen where every method of those names does so.

    ## Why is this bad
    The first steps of a run are skipped until the scale fits, and each of them moves the schedule: warm-up ends
    early, and torch warns that the scheduler stepped before the optimizer. No call of torch tells of a skip.

    ## Example
    ```python
    def train(model, optimizer, scaler, scheduler, loader, loss_fn):
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
    ```

    ## Use instead
    ```python
    def train(model, optimizer, scaler, scheduler, loader, loss_fn):
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= scale:
                scheduler.step()
    ```

    ## Fix safety
    `get_scale()` waits for the GPU once a step. A guard that counts applied steps on the device needs no wait.

    ## References
    - https://github.com/pytorch/pytorch/issues/67590
    - https://github.com/pytorch/pytorch/issues/55585
    """

    code = "AMP012"
    name = "scheduler-on-skipped-step"
    severity = Severity.LOW
    likelihood = "certain"
    impact = "The schedule runs ahead of the steps that were applied, most at the start of a run."
    risk = "Low: the schedule shifts by the number of skipped steps."
    fix = "Step the scheduler only where the step was applied: compare the scale before and after `update()`."
    words = ("scaler", "GradScaler", "sched", "learning_rate(", "_lr(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first such call of each loop or function."""
        told: set[int] = set()
        yield from self._too_early(module, told)
        yield from self._out_of_step(module, told)
        for call, skipping in schedules_of_left_out_steps(module):
            if call.lineno not in told:
                told.add(call.lineno)
                left_out = f"{module.segment(skipping)} (line {skipping.lineno}) was left out"
                message = f"{module.segment(call)} runs whether or not {left_out}"
                yield self.finding(module, call, message, fix=_BESIDE, likelihood="possible")
        yield from self._elsewhere(module, told)
        for asked, scaler in asked_before_update(module):
            message = f"{module.segment(asked)} is asked before `{scaler}.update()`, which alone changes the scale"
            impact = "The scale is the same before and after, so the schedule moves on skipped steps too."
            yield self.finding(
                module, asked, message, severity=Severity.MEDIUM, impact=impact, fix="Ask behind `update()`."
            )
        if not _always_off(module):
            yield from self._on_skipped_steps(module, told)
            yield from self._perhaps_on_skipped_steps(module, told)

    def _too_early(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield the schedules that move before the optimizer's first step."""
        for call, applied in (*schedules_moved_first(module), *schedules_before_training(module)):
            if call.lineno not in told:
                told.add(call.lineno)
                first = f"{module.segment(applied)} (line {applied.lineno})"
                message = f"{module.segment(call)} runs before {first}: the first value of the schedule is never used"
                fix = "Step the scheduler after the optimizer's steps."
                yield self.finding(module, call, message, impact=_FIRST, fix=fix)
        for call, hook in schedules_moved_at_the_beginning(module):
            if call.lineno not in told:
                told.add(call.lineno)
                message = f"{module.segment(call)} runs in {hook}(), before the optimizer's first step"
                fix = "Step the scheduler in the hook behind the optimizer's step."
                yield self.finding(module, call, message, impact=_FIRST, fix=fix, likelihood="likely")

    def _on_skipped_steps(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield the schedules that move beside a step which the scaler may skip."""
        for _, ops in skeletons(module):
            found = list(events(ops))
            for event in (e for e in found if e.kind == "scheduler step" and _each_step(e)):
                at = site(module, event)
                if any(e.kind == "scaler step" and site(module, e) is at for e in found):
                    continue  # a call of a function that holds both: it is told there
                step = _step_beside(module, at, found) or _step_through(module, event, found)
                if step is None or getattr(at, "lineno", 1) in told or _aware(module, at):
                    continue
                told.add(getattr(at, "lineno", 1))
                line = getattr(step, "lineno", 1)
                message = f"{module.segment(at)} runs whether or not {module.segment(step)} (line {line}) was skipped"
                yield self.finding(module, at, message)

    def _perhaps_on_skipped_steps(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield those that only a name, or a framework's hook, tells to be schedules that move at each step."""
        for call, scaled in named_schedules(module):
            if call.lineno not in told:
                told.add(call.lineno)
                skipped = f"{module.segment(scaled)} (line {scaled.lineno})"
                message = f"{module.segment(call)} runs whether or not {skipped} was skipped"
                yield self.finding(module, call, message, likelihood="possible")
        for call in schedules_in_hooks(module):
            if call.lineno not in told:
                told.add(call.lineno)
                behind = "after each step of a project that never asks whether it was skipped"
                message = f"{module.segment(call)} runs {behind}"
                yield self.finding(module, call, message, likelihood="possible")

    def _elsewhere(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield the schedules that move through an object of another file, as the names of its methods tell."""
        for call, step, first, scaled in schedules_moved_elsewhere(module):
            if call.lineno in told:
                continue
            stepping = f"{module.segment(step)} (line {step.lineno})"
            if first:
                told.add(call.lineno)
                message = f"{module.segment(call)} runs before {stepping}: the first value is never used"
                fix = "Step the scheduler after the optimizer's steps."
                yield self.finding(module, call, message, impact=_FIRST, fix=fix, likelihood="possible")
            elif scaled and not module.project.says(ASKS_SCALE, *STATE_WORDS):
                told.add(call.lineno)
                message = f"{module.segment(call)} runs whether or not the step in {stepping} was skipped"
                yield self.finding(module, call, message, likelihood="possible")

    def _out_of_step(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield the schedules that move more often than the optimizer steps: at micro-batches, or before training."""
        for call, found in schedules_of_micro_batches(module):
            if call.lineno not in told:
                told.add(call.lineno)
                step = f"{module.segment(found.step)} (line {found.step.lineno})"
                k = module.segment(found.count, 40)
                message = f"{module.segment(call)} runs at every micro-batch, {step} once in {k}"
                yield self.finding(module, call, message, impact=_OFTEN, fix=_BESIDE, likelihood="likely")
        for call, prepares in schedules_in_accumulate(module):
            if call.lineno not in told:
                told.add(call.lineno)
                moved = f"{module.segment(call)} runs at every micro-batch"
                message = f"{moved}: line {prepares.lineno} does not prepare it"
                fix = "Hand the scheduler to accelerator.prepare() too, or step it where accelerator.sync_gradients is."
                yield self.finding(module, call, message, impact=_OFTEN, fix=fix, likelihood="possible")
        for call, text in out_of_step(module):
            if call.lineno not in told:
                told.add(call.lineno)
                yield self.finding(module, call, text, impact=_APART, fix=_TOGETHER, likelihood="likely")
        for call in replayed_schedules(module):
            message = f"{module.segment(call)} is run again and again before the optimizer's first step"
            yield self.finding(module, call, message, impact=_FIRST, fix=_LOAD, likelihood="possible")


def _each_step(event: Event) -> bool:
    """Whether a scheduler is stepped without an argument: with one it follows a metric or an epoch, not the steps."""
    return isinstance(event.node, ast.Call) and not event.node.args and not event.node.keywords


def _always_off(module: Module) -> bool:
    made = scaler_constructions(module)
    flags = [argument(call, None, "enabled") for call in made]
    return bool(made) and all(flag is not None and truth(module, flag) is False for flag in flags)


def _step_beside(module: Module, at: ast.AST, found: list[Event]) -> ast.AST | None:
    """Return the scaler's step beside a scheduler's step, in the same innermost loop (or function without loop).

    Loops over the optimizers and schedulers of one step do not count. Where no loop holds both, the scaler steps first.
    """
    loop = _batch_loop(module, at)
    function = module.tree.function(at)
    for event in found:
        step = site(module, event)
        if event.kind != "scaler step" or module.tree.function(step) is not function:
            continue
        before = getattr(step, "lineno", 0) < getattr(at, "lineno", 0)
        if _batch_loop(module, step) is loop and (before or loop is not None) and _same_branch(module, at, step):
            return step
    return None


def _step_through(module: Module, move: Event, found: list[Event]) -> ast.AST | None:
    """Return the call beside a scheduler's step that leads to one step of the scaler, and tells nothing of it."""
    at = move.node
    for event in found if not move.stack else ():
        if event.kind != "scaler step" or not event.stack:
            continue
        call, inner = event.stack[0][1], [*event.stack[1:], (event.module, event.node)]
        looped = any(_batch_loop(where, node) is not None for where, node in inner)
        if looped or call.lineno > at.lineno or _batch_loop(module, call) is not _batch_loop(module, at):  # type: ignore[attr-defined]
            continue
        if not _tells_of_skips(module, call, inner, at) and _same_branch(module, at, call):
            return call if not module.project.says(_FOR_SKIPS, "LR", "Scheduler") else None
    return None


def _tells_of_skips(module: Module, call: ast.AST, inner: list[tuple[Module, ast.AST]], at: ast.AST) -> bool:
    """Whether what a call returns may tell that the step in it was skipped, or decides over the move itself."""
    statement = module.tree.statement(call)
    if isinstance(statement, ast.Expr):
        return False
    if not isinstance(statement, ast.Assign) or any(asks_for_skips(*place) for place in inner):
        return True
    given = {key(n) for target in statement.targets for n in (target, *walk(target))}
    tests = (above.test for above in module.tree.above(at) if isinstance(above, ast.If | ast.IfExp))
    return any(key(n) in given for test in tests for n in (test, *walk(test)) if key(n))


def _batch_loop(module: Module, node: ast.AST) -> ast.AST | None:
    loops = (loop for loop in module.tree.loops(node) if not _goes_over_parts(loop))
    return next(loops, None)


def _goes_over_parts(loop: ast.AST) -> bool:
    return isinstance(loop, ast.For | ast.AsyncFor) and bool(_PARTS.search(ast.unparse(loop.iter)))


def _same_branch(module: Module, at: ast.AST, step: ast.AST) -> bool:
    """Whether the two are not the two arms of one `if`."""
    below: ast.AST = at
    for above in module.tree.above(at):
        if isinstance(above, ast.If) and module.tree.inside(step, above):
            return (below in above.body) is any(module.tree.inside(step, s) for s in above.body)
        below = above
    return True


def _aware(module: Module, at: ast.AST) -> bool:
    tests = (above.test for above in module.tree.above(at) if isinstance(above, ast.If | ast.IfExp))
    return any(_AWARE.search(ast.unparse(test)) for test in tests)
