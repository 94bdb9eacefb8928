"""Gradients gathered over k micro-batches whose loss is not divided by k."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._accumulation.accumulated_elsewhere import gathered_elsewhere
from ampguard.auditing.rules.amp._accumulation.accumulates_by_name import divided_nowhere, named_accumulations
from ampguard.auditing.rules.amp._accumulation.divided_elsewhere import divided_elsewhere
from ampguard.auditing.rules.amp._accumulation.divided_loss import divided_on_its_way
from ampguard.auditing.rules.amp._accumulation.divided_one_way import divided_one_way
from ampguard.auditing.rules.amp._accumulation.divided_twice import divided_twice
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, accumulations, loss_given
from ampguard.auditing.rules.amp._accumulation.multiplied_by_k import multiplied_losses
from ampguard.auditing.rules.amp._accumulation.one_of_k import one_of_k
from ampguard.auditing.rules.amp._accumulation.told_to_update import told_accumulations
from ampguard.auditing.rules.amp._accumulation.trainer_losses import ignoring
from ampguard.auditing.rules.amp._steps import runs_backward

_SUMMED = regex(r"reduction\s*={1,2}\s*[\"']?sum")
"""A file that says so anywhere, in a comment too, adds up losses on purpose."""


class LossNotDividedByAccumulation(Rule):
    """Gradients of several micro-batches are added up, and nothing divides by their number.

    ## What it does
    Finds a loop that steps every k-th time, or an inner loop over k micro-batches with the step behind it (the step or
    the backward pass may be in a method of its own), where neither the loss, nor the gradients, nor the learning rate
    is divided by k. It looks through assignments, factors such as `1 / k`, helpers of the project, and division by a
    count of tokens or samples; a summed loss is fine. Where the loss comes from what cannot be seen into, and nothing
    in the project divides by anything named so, the finding is low; so it is for a class or a function that steps every
    k-th time, by the name of k, and divides by nothing so named, and for a call like `accumulate_gradients(piece)` in a
    loop with the step behind it. A loop over the pieces of one batch (`x.split(n)`, `x[i : i + n]`) gathers too, and
    the count may be one of samples; what one branch divides says nothing of the other's loss, nor one backward pass of
    another's; a sum is divided where all of its parts are; what divides behind the backward pass divides nothing; and a
    loss that is multiplied by k is told where it is. So is a loss that is divided by k where only every k-th
    micro-batch runs a backward pass. Low: a class that divides in one way of stepping alone, and a loss that is divided
    by k twice, both by hand or once by accelerate's `backward`, which divides by the number that it was told.

    ## Why is this bad
    The gradient is k times what one large batch would give: the learning rate is k times as large for SGD, and with any
    optimizer the clipping threshold and the epsilon mean something else. Changing k then changes the training.

    ## Example
    ```python
    def train(model, loader, optimizer, criterion, accumulation_steps):
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y)
            loss.backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, loader, optimizer, criterion, accumulation_steps):
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / accumulation_steps
            loss.backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Fix safety
    The step becomes k times smaller for SGD, and clipping bites less often: a learning rate or a threshold that was
    tuned with the sum must be tuned again. Multiply by k again where the loss is logged.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    code = "AMP025"
    name = "loss-not-divided-by-accumulation"
    severity = Severity.MEDIUM
    impact = "The gradient grows with the number of micro-batches, and the clipping threshold changes its meaning."
    risk = "Medium: a learning rate tuned with the sum must be tuned again."
    fix = "Divide the loss by the number of micro-batches before backward()."
    words = ("backward", "accum", "num_items_in_batch")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the backward call of every accumulation that divides nowhere."""
        yield from self._unscaled_results(module)
        yield from self._gathered_elsewhere(module)
        if "backward" not in module.text or _SUMMED.search(module.text):
            return
        managed = runs_backward(module)
        for backward, count in one_of_k(module) if not managed else ():
            k = module.segment(count, 40)
            text = (
                f"one micro-batch of {k} runs a backward pass, and its loss is divided by {k}: nothing gathers the rest"
            )
            fix = "Run the backward pass of every micro-batch, outside the test for the step."
            yield self.finding(module, backward, text, fix=fix, critical_path=True)
        yield from self._divided_wrongly(module, managed=managed)
        seen: set[ast.AST] = set()
        told: set[ast.AST] = set()
        for found in (*accumulations(module), *told_accumulations(module)):
            if managed and not found.backward.args:
                continue  # what the framework does to a loss of its own is its matter
            if found.loop in seen or _is_one(found.count):
                continue
            k = module.segment(found.count, 40)
            loss = module.segment(loss_given(module, found.backward), 30)
            if _divided(module, found):
                if (not managed or found.backward.args) and divided_nowhere(module, found):
                    seen.add(found.loop)
                    told.add(found.backward)
                    text = f"gradients of {k} micro-batches are added up, and nothing in this project divides by {k}"
                    yield self.finding(
                        module, found.backward, text, severity=Severity.LOW, likelihood="possible", critical_path=True
                    )
                continue
            seen.add(found.loop)
            told.add(found.backward)
            message = f"gradients of {k} micro-batches are added up, and {loss} is not divided by {k}"
            yield self.finding(module, found.backward, message, critical_path=True)
        if not managed:
            yield from self._in_parts_of_a_class(module, seen, told)

    def _divided_wrongly(self, module: Module, *, managed: bool) -> Iterator[Finding]:
        """Yield the losses that are divided twice, or multiplied in place of it."""
        for division, k, how in divided_twice(module):
            text = f"{module.segment(division)} divides by {k} a second time: {how}"
            yield self.finding(module, division, text, fix="Divide once.", severity=Severity.LOW, critical_path=True)
        for product, factor in multiplied_losses(module) if not managed else ():
            text = f"{module.segment(product)} is multiplied by {module.segment(factor, 40)} before the backward pass"
            yield self.finding(module, product, f"{text}, not divided by it", critical_path=True)

    def _in_parts_of_a_class(self, module: Module, seen: set[ast.AST], told: set[ast.AST]) -> Iterator[Finding]:
        """Yield what one way of stepping divides and another does not, and accumulations that only names tell."""
        for way in divided_one_way(module):
            if way.backward in told:
                continue
            told.add(way.backward)
            k, other = module.segment(way.number, 40), module.segment(way.other, 40)
            text = f"only {way.divides.name}() divides by {k}: {other} (line {way.other.lineno}) steps with the sum"
            yield self.finding(
                module, way.backward, text, severity=Severity.LOW, likelihood="possible", critical_path=True
            )
        for backward, k, owner in () if module.role in ("test", "benchmark") else named_accumulations(module):
            if backward not in told and not any(module.tree.inside(backward, at) for at in seen):
                text = f"{owner} steps once in {k} micro-batches, and nothing in it divides by {k}"
                yield self.finding(
                    module, backward, text, severity=Severity.LOW, likelihood="possible", critical_path=True
                )

    def _gathered_elsewhere(self, module: Module) -> Iterator[Finding]:
        """Yield the calls that gather gradients piece by piece in a function that divides by no number of pieces."""
        for call, loop in gathered_elsewhere(module):
            over = module.segment(loop.iter, 40)
            text = f"{called(call)}() adds up the gradients of all of {over}, and divides by nothing named so"
            yield self.finding(module, call, text, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _unscaled_results(self, module: Module) -> Iterator[Finding]:
        """Yield the losses of Trainer subclasses that leave the division to a Trainer that no longer does it."""
        if "model_accepts_loss_kwargs" in module.text or module.role in ("test", "benchmark"):
            return
        for function in module.functions if "compute_loss" in module.text else ():
            place = ignoring(module, function) if function.name == "compute_loss" else None
            if place is None:
                continue
            yield self.finding(
                module,
                place,
                "compute_loss() is told num_items_in_batch and does not divide by it, and Trainer leaves the division"
                " to it where the model takes that argument",
                severity=Severity.LOW,
                likelihood="possible",
                fix="Divide a summed loss by num_items_in_batch, or set model_accepts_loss_kwargs = False in __init__.",
            )


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _divided(module: Module, found: Accumulation) -> bool:
    loss = loss_given(module, found.backward)
    return divided_on_its_way(module, loss, found.count) or divided_elsewhere(module, found)
