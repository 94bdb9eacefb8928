"""A training loop that never clears its gradients."""

import ast
import itertools
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, argument, called, key, receiver, walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._order.cleared_by_half import steps_that_half_clears
from ampguard.auditing.rules.amp._order.cleared_by_others import cleared_by_others
from ampguard.auditing.rules.amp._order.cleared_by_remainder import cleared_by_remainder
from ampguard.auditing.rules.amp._order.cleared_in_one_arm import steps_of_the_other_arm
from ampguard.auditing.rules.amp._order.cleared_on_one_way import steps_on_both_ways
from ampguard.auditing.rules.amp._order.left_by_the_generator import left_by_the_generator
from ampguard.auditing.rules.amp._order.micro_steps import (
    cleared_in_the_other_arm,
    cleared_once,
    never_cleared_optimizers,
)
from ampguard.auditing.rules.amp._steps import outlives_loop


class ZeroGradMissing(Rule):
    """A training loop never clears its gradients.

    ## What it does
    Reports a loop that runs a backward pass and steps an optimizer, in a file in which nothing clears gradients: no
    `zero_grad()`, no `p.grad = None`, no new model in the loop. The backward pass may be a framework's
    (`accelerator.backward(loss)`). Also a loop that calls a function of the file which does both, where the only clear
    stands before the loop, a step in one branch whose gradients only the other branch clears, and (medium) the
    optimizer of a loop that clears another one only (low in no loop, or as an attribute), or of a function that clears
    nothing, nor calls what does, where other functions of the file do. A method that is one step of training is medium,
    where no file that names its class or calls it clears anything. A step behind an `if` of which both arms compute the
    loss and only one clears is medium, and so is a function that goes backward, steps in both arms of an `if` and
    clears in one. Low: a clear under `i % k == 1`, which no i meets for a k of 1; a method that steps in both arms of
    an `if` and clears in one, where the file has no other clear; and a discriminator that is cleared behind its step
    alone, beside a generator whose backward pass runs through it.

    ## Why is this bad
    Each backward pass adds to the gradients of all passes before it: the model follows the sum of its whole past.

    ## Example
    ```python
    def train(model, optimizer, loader, loss_fn):
        for x, y in loader:
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
    ```

    ## Use instead
    ```python
    def train(model, optimizer, loader, loss_fn):
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
    ```

    ## Fix safety
    Training changes: that is what was meant.

    ## References
    - https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "AMP010"
    name = "zero-grad-missing"
    severity = Severity.HIGH
    likelihood = "certain"
    impact = "Gradients of all past steps are added up: training goes astray."
    risk = "Training changes: that is what was meant."
    fix = "Call `optimizer.zero_grad()` once a step, before the backward pass."
    words = ("backward",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first step of each such loop."""
        if not _CLEARS.search(module.about("grad", "zero_(", "set_to_none")):
            yield from self._nowhere(module)
            return
        told = set()
        for finding in (*self._before_the_loop_only(module), *self._beside_other_clears(module)):
            told.add(finding.line)
            yield finding
        for found in cleared_by_others(module):
            if found.step.lineno not in told:
                message = f"the loop of line {found.loop.lineno} steps, and nothing in {found.function.name}() clears "
                message += f"what {module.segment(found.step)} applies"
                severity = Severity.LOW if found.by_name else Severity.MEDIUM
                yield self.finding(module, found.step, message, severity=severity, critical_path=True)
        yield from self._seldom_or_too_late(module)

    def _beside_other_clears(self, module: Module) -> Iterator[Finding]:
        """Yield the steps of what is never cleared, where the other branch, or another optimizer, is."""
        for step, clear in cleared_in_the_other_arm(module):
            message = (
                f"{module.segment(step.node)} stands in a branch that clears nothing: only the other one does, at "
                f"line {getattr(clear.node, 'lineno', 1)}"
            )
            yield self.finding(module, step.node, message, critical_path=True)
        for step, clear in steps_of_the_other_arm(module):
            message = f"{module.segment(step.node)} stands in an arm that clears nothing: only the other one does, at "
            message += f"line {getattr(clear.node, 'lineno', 1)}, and nothing else in this file"
            yield self.finding(module, step.node, message, severity=Severity.LOW, critical_path=True)
        for step, clear in steps_that_half_clears(module):
            message = f"{module.segment(step.node)} stands in an arm that clears nothing: only the other one does, at "
            message += f"line {getattr(clear.node, 'lineno', 1)}, and nothing that is seen to call this function"
            yield self.finding(module, step.node, message, severity=Severity.MEDIUM, critical_path=True)
        for step, clear in steps_on_both_ways(module):
            message = (
                f"{module.segment(step.node)} also comes on the way that clears nothing: only the other arm does, at "
            )
            message += f"line {getattr(clear.node, 'lineno', 1)}"
            yield self.finding(module, step.node, message, severity=Severity.MEDIUM, critical_path=True)
        for applied, others, looped in never_cleared_optimizers(module):
            message = (
                f"nothing in this file clears what {module.segment(applied)} applies, only the gradients of {others}"
            )
            severity = Severity.MEDIUM if looped else Severity.LOW
            yield self.finding(module, applied, message, severity=severity, critical_path=True)

    def _seldom_or_too_late(self, module: Module) -> Iterator[Finding]:
        """Yield the clears that a setting of 1 keeps from running, and the steps on what another one left."""
        for call, count in cleared_by_remainder(module):
            message = f"{module.segment(call)} never runs where {module.segment(count, 40)} is 1: nothing leaves a rest"
            yield self.finding(module, call, message, severity=Severity.LOW, likelihood="possible")
        for step, left in left_by_the_generator(module):
            message = (
                f"{module.segment(step.node)} also applies what {left.module.segment(left.node, 40)} (line "
                f"{getattr(left.node, 'lineno', 1)}) left: nothing clears it before this one's own backward pass"
            )
            yield self.finding(module, step.node, message, severity=Severity.LOW, likelihood="possible")

    def _nowhere(self, module: Module) -> Iterator[Finding]:
        """Yield the first step of each loop, in a file in which nothing clears."""
        told: set[object] = set()
        for _, ops in skeletons(module):
            every = list(events(ops))
            own = [event for event in every if event.module is module and not event.stack]
            for step in (e for e in every if e.kind in ("step", "scaler step") and e.module is module):
                around = (loop for at in _places(module, step) for loop in module.tree.loops(at))
                loop = next((loop for loop in around if _backward_in(module, every, loop)), None)
                if loop is None or loop in told:
                    continue
                if not _outlives(module, step, loop):
                    continue
                told.add(loop)
                message = f"the loop of line {loop.lineno} steps, and nothing in this file clears the gradients"
                severity = Severity.LOW if _on_random_data(loop) else None
                yield self.finding(module, step.node, message, severity=severity, critical_path=True)
            if not told and module.role == "library":
                yield from self._in_a_method(module, own)

    def _in_a_method(self, module: Module, own: list[Event]) -> Iterator[Finding]:
        """Yield the step of a method that is one step of training, in a project that clears gradients nowhere."""
        for step in (e for e in own if e.kind in ("step", "scaler step")):
            function = module.tree.function(step.node)
            before = [e for e in own if e.kind in _BACKWARD and e.node.lineno <= step.node.lineno]  # type: ignore[attr-defined]
            owner = module.tree.class_of(step.node)
            if function is None or owner is None or not before:
                continue
            if _runs_once(module, step, before) and not _cleared_elsewhere(module, owner, function):
                message = f"{function.name}() steps, and nothing that is seen to use {owner.name} clears the gradients"
                yield self.finding(module, step.node, message, severity=Severity.MEDIUM, critical_path=True)
                return

    def _before_the_loop_only(self, module: Module) -> Iterator[Finding]:
        """Yield the steps of loops that clear nothing, where the one clear of the function stands before the loop."""
        for loop, step, clear in cleared_once(module):
            message = (
                f"the loop of line {loop.lineno} steps and never clears the gradients: "
                f"line {getattr(clear, 'lineno', 1)} does so once, before it"
            )
            yield self.finding(module, step, message, critical_path=True)


def _runs_once(module: Module, step: Event, passes: list[Event]) -> bool:
    """Whether a step stands in no loop but one over optimizers, which runs no backward pass."""
    return not any(module.tree.inside(e.node, loop) for loop in module.tree.loops(step.node) for e in passes)


def _cleared_elsewhere(module: Module, owner: ast.ClassDef, function: Function) -> bool:
    """Whether a file that names a class, or calls its method, may clear gradients, or a base that is not known."""
    if not module.project.says(_CLEARS):
        return False
    plain = sum((key(base) or "").rpartition(".")[2] in ("object", "ABC", "Module") for base in owner.bases)
    built_on = list(bases(module, owner))
    if len(built_on) + plain < len(owner.bases) or any(_CLEARS.search(where.text) for where, _ in built_on):
        return True
    words = re.compile(rf"\b{owner.name}\b|\.{function.name}\(")
    texts = [text for path, text in module.project.texts() if "test" not in path and not path.endswith("__init__.py")]
    users = [text for text in texts if text != module.text and words.search(text)]
    if not users and len(re.findall(rf"\b{owner.name}\b", module.text)) == 1 and "__main__" not in module.text:
        return True  # a library's: who uses it, and clears, is not seen
    return any(_CLEARS.search(text) for text in (module.text, *users))


_BACKWARD = ("backward", "managed backward")
_CLEARS = regex(
    r"\.grad(\.data)?\s*=[^=]|del [^\n]*\.grad\b|[\"']grad[\"'],|zero_?grad|zero_\(|set_to_none|clear_grad|reset_grad",
    re.IGNORECASE,
)
"""What may clear gradients; reading them, or the name of an option (`config.grad_clip`), does not."""


def _on_random_data(loop: ast.AST) -> bool:
    """Whether the loop draws its own inputs at random: a demonstration, whose result nobody keeps."""
    calls = (node for node in walk(loop) if isinstance(node, ast.Call))
    return any(called(call) in ("rand", "randn", "randint", "rand_like", "randn_like") for call in calls)


def _outlives(module: Module, step: Event, loop: Loop) -> bool:
    """Whether what a step applies was made before the loop: a new optimizer begins with no gradients."""
    call = step.node
    assert isinstance(call, ast.Call)
    applied = receiver(call) if step.kind == "step" else argument(call, 0, "optimizer")
    for inner in itertools.takewhile(lambda at: at is not loop, module.tree.loops(call)):
        if isinstance(inner, ast.For) and key(applied) in {key(n) for n in walk(inner.target)} - {None}:
            walked = [n for n in walk(inner.iter) if isinstance(n, ast.Name)]
            return bool(walked) and all(outlives_loop(module, n, loop) for n in walked)
    return applied is None or key(applied) is None or outlives_loop(module, applied, loop)


def _backward_in(module: Module, found: list[Event], loop: Loop) -> bool:
    """Whether a backward pass runs in a loop: in an inner one over micro-batches too, or in what the loop calls."""
    backward = (e for e in found if e.kind in _BACKWARD)
    return any(loop in module.tree.loops(at) for e in backward for at in _places(module, e))


def _places(module: Module, event: Event) -> Iterator[ast.AST]:
    """Walk where an event runs in this file: where it stands, and the calls that lead there, the innermost first."""
    if event.module is module:
        yield event.node
    yield from (call for where, call in reversed(event.stack) if where is module)
