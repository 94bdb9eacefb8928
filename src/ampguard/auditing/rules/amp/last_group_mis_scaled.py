"""The micro-batches behind the last multiple of k."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver, walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._accumulation.changing_counts import changed_in_its_loop
from ampguard.auditing.rules.amp._accumulation.counted_batches import carries_on, starts_with_loop
from ampguard.auditing.rules.amp._accumulation.drained_iterators import ends_with_its_batches
from ampguard.auditing.rules.amp._accumulation.ends_of_loaders import (
    cut_to_groups,
    over_a_loader,
    plain_test,
    stepped_later,
)
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, accumulations, names_k
from ampguard.auditing.rules.amp._accumulation.skipped_batches import left_out
from ampguard.auditing.rules.amp._accumulation.told_to_update import told_every_kth
from ampguard.auditing.rules.amp._accumulation.unequal_pieces import unequal_pieces
from ampguard.auditing.rules.amp._steps import enclosing, runs_backward


class LastGroupMisScaled(Rule):
    """A loop over a data loader steps at every multiple of k only, so what is left at its end is not stepped.

    ## What it does
    Finds accumulation whose step stands under `(i + 1) % k == 0` alone, in a loop over a loader, with no step behind
    the loop, no test of the last batch, and no cut of the loader to a multiple of k; and a step right behind the loop,
    or under a test of what is left over, where every loss was divided by all of k. A counter that starts at 0 right
    before the loop is as good as a remainder, and so is a project's own scaler that is told `update_grad=(i + 1) % k ==
    0`. Also a `continue` that leaves out a batch of a group whose step is told by the number of the batch, and a
    k that changes in the loop while the step comes by a remainder. The loop may be a `while True` that leaves where
    `next` finds no batch. Also a batch that is cut into k pieces of the setting's batch size over k, whose losses are
    all divided by k, in a file that drops no shorter batch.

    ## Why is this bad
    Where the number of batches is no multiple of k, the gradients of the last ones are either thrown away or added to
    the first group of the next epoch, which then weighs more than the others.

    ## Example
    ```python
    def train(model, loader, optimizer, k):
        for i, batch in enumerate(loader):
            (model(batch).mean() / k).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, loader, optimizer, k):
        for i, batch in enumerate(loader):
            (model(batch).mean() / k).backward()
            if (i + 1) % k == 0 or i + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Fix safety
    Adds one short step an epoch. Divide its loss by the number of batches that it really holds.

    ## References
    - https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation
    """

    code = "AMP026"
    name = "last-group-mis-scaled"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "The last micro-batches of an epoch are lost, or make the next group weigh more."
    risk = "Low: one more step an epoch."
    fix = "Step at the last batch too, and divide that group's loss by its own length."
    words = ("%", ">=", "==", " // ")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every accumulation that forgets the end of the loader."""
        for call, count, loop in told_every_kth(module):
            over, k = module.segment(loop.iter, 40), module.segment(count, 40)
            message = f"the scaler steps at multiples of {k} only; what {over} holds beyond the last one is not stepped"
            yield self.finding(module, call, message)
        if "backward" not in module.text or runs_backward(module):
            return
        seen: set[ast.AST] = set()
        for found in accumulations(module):
            if found.test is None or found.test in seen or not _forgets_the_end(module, found):
                continue
            seen.add(found.test)
            k = module.segment(found.count, 40)
            over = module.segment(found.loop.iter, 40) if isinstance(found.loop, ast.For) else "the loop"
            message = f"the step comes at multiples of {k} only; what {over} holds beyond the last one is not stepped"
            yield self.finding(module, found.test, message, end=found.test.test)
        yield from self._stepped_behind(module)
        yield from self._left_out(module)
        yield from self._uneven(module)
        for division, count, length in unequal_pieces(module):
            k, size = module.segment(count, 40), module.segment(length, 40)
            message = (
                f"pieces of {size} are cut whatever the batch holds: those of a shorter one are divided by {k} too"
            )
            fix = "Weigh each piece by its share of the batch, and leave out empty ones; or drop the last batch."
            yield self.finding(module, division, message, fix=fix)

    def _uneven(self, module: Module) -> Iterator[Finding]:
        """Yield the tests of the step by a number of micro-batches that changes in the loop."""
        told: set[ast.AST] = set()
        for found in accumulations(module):
            given = changed_in_its_loop(module, found)
            if given is None or found.test is None or found.test in told:
                continue
            told.add(found.test)
            k = module.segment(found.count, 40)
            message = (
                f"{k} changes in the loop (line {given.lineno}), and the step comes by the number of the batch: "
                f"groups around a change hold fewer, or more, than {k}"
            )
            fix = f"Count the micro-batches since the last step, and step when there are {k}."
            yield self.finding(module, found.test, message, end=found.test.test, fix=fix)

    def _left_out(self, module: Module) -> Iterator[Finding]:
        """Yield the batches that are left out of groups whose step is told by the number of the batch."""
        told: set[ast.AST] = set()
        for found in accumulations(module):
            for leaving in left_out(module, found):
                if leaving not in told:
                    told.add(leaving)
                    k = module.segment(found.count, 40)
                    message = (
                        f"a batch that is left out here leaves its group short of {k}, and the step is left out too"
                        " where it is the last of a group"
                    )
                    yield self.finding(module, leaving, message)

    def _stepped_behind(self, module: Module) -> Iterator[Finding]:
        """Yield the steps behind a loop that apply its last, shorter group, whose losses were divided by all of k."""
        told: set[ast.AST] = set()
        for found in accumulations(module):
            step = _step_for_the_rest(module, found)
            if step is not None and step not in told and _divided_by_k(module, found):
                told.add(step)
                k = module.segment(found.count, 40)
                message = (
                    f"the last group holds fewer than {k} micro-batches, and each was divided by {k}: it weighs less"
                )
                yield self.finding(module, step, message)


def _step_for_the_rest(module: Module, found: Accumulation) -> ast.Call | None:
    """Return the step right behind the loop, or the one there under a test of what is left over."""
    if found.test is None:
        return None
    for call in module.calls.get("step", ()):
        if call.lineno <= (found.loop.end_lineno or 0) or enclosing(module, call) is not enclosing(module, found.loop):
            continue
        if key(receiver(call)) != key(receiver(found.step)):
            continue
        if module.tree.parents[module.tree.statement(call)] is module.tree.parents[found.loop]:
            return call
        tests = [at.test for at in module.tree.above(call) if isinstance(at, ast.If)]
        if any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for t in tests for n in walk(t)):
            return call
    return None


def _divided_by_k(module: Module, found: Accumulation) -> bool:
    """Whether the loss is divided by k in the loop, and nothing behind it makes up for a shorter group."""
    around = enclosing(module, found.loop)
    divided = [n for n in walk(found.loop) if isinstance(n, ast.BinOp | ast.AugAssign) and isinstance(n.op, ast.Div)]
    right = [n.right if isinstance(n, ast.BinOp) else n.value for n in divided]
    behind = "\n".join(module.lines[(found.loop.end_lineno or 0) : around.end_lineno])  # type: ignore[attr-defined]
    made_up = re.search(r"\.grad\b|mul_|div_|\*=", behind)
    return any(names_k(node, found.count) for node in right) and not made_up


def _forgets_the_end(module: Module, found: Accumulation) -> bool:
    test, plain = found.test, plain_test(module, found)
    if test is None or plain is None:
        return False
    if not isinstance(found.loop, ast.For):
        drained = ends_with_its_batches(module, found, plain)
        return drained and not stepped_later(module, found) and not cut_to_groups(module, found)
    if not over_a_loader(module, found.loop.iter):
        return False
    if "%" not in ast.unparse(plain) and not starts_with_loop(module, plain, test, found.loop):
        return False
    if carries_on(module, plain, found.loop):
        return False
    return not stepped_later(module, found) and not cut_to_groups(module, found)
