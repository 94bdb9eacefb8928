"""Training in evaluation mode, and evaluation in training mode."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation import evaluations, mode_calls, source
from ampguard.auditing.rules.amp._steps import RUNNERS, backward_calls

_TRAINS = re.compile(r"\.train\(|set_mode|\.training\s*=|train_mode")
_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


class WrongModuleMode(Rule):
    """A training loop evaluates its model and goes on in evaluation mode, or evaluates in training mode.

    ## What it does
    Finds a loop that trains a model, calls `model.eval()` in between (itself, or in a function of the file that it
    calls), and has no `.train()` anywhere; and an evaluation in a file that trains, builds dropout or BatchNorm layers
    and never calls `eval()`.

    ## Why is this bad
    After `eval()` dropout is off and BatchNorm neither uses nor updates the statistics of the batch, so all that comes
    after the first evaluation trains another model. The other way round, results are random and depend on the batch.

    ## Example
    ```python
    import torch


    def fit(model, loader, held_out):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        for epoch in range(10):
            for batch in loader:
                model(batch).mean().backward()
                optimizer.step()
            model.eval()
            print(model(held_out))
    ```

    ## Use instead
    ```python
    import torch


    def fit(model, loader, held_out):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(10):
            model.train()
            for batch in loader:
                model(batch).mean().backward()
                optimizer.step()
            model.eval()
            print(model(held_out))
    ```

    ## Fix safety
    Safe; results change, because the model now trains as it was meant to.

    ## References
    - https://pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
    """

    code = "AMP032"
    name = "wrong-module-mode"
    severity = Severity.MEDIUM
    impact = "From the first evaluation on, dropout is off and BatchNorm stands still while training goes on."
    risk = "Low: results change to what was meant."
    fix = "Call model.train() at the start of every epoch, and model.eval() before every evaluation."
    words = (".eval()", "Dropout", "BatchNorm")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every loop that trains on in evaluation mode, then every evaluation in training mode."""
        if ".backward(" not in module.text or module.mentions(RUNNERS):
            return
        yield from self._left_in_eval(module)
        yield from self._never_in_eval(module)

    def _left_in_eval(self, module: Module) -> Iterator[Finding]:
        seen: set[ast.AST] = set()
        for backward in backward_calls(module):
            for loop in module.tree.loops(backward):
                if loop in seen:
                    continue
                seen.add(loop)
                found = _switch_in(module, loop, backward)
                if found is not None:
                    place, message = found
                    yield self.finding(module, place, message, critical_path=True)
                    break

    def _never_in_eval(self, module: Module) -> Iterator[Finding]:
        if ".eval()" in module.text or "train(False)" in module.text or "functional" in module.text:
            return
        for found in evaluations(module) if any(True for _ in module.calls_of(*_LAYERS)) else ():
            message = f"{found.function.name}() runs {found.model}, and nothing in this file calls eval()"
            fix = f"Call {found.model}.eval() before, and {found.model}.train() when training goes on."
            impact = "Dropout is on and BatchNorm reads the batch, so the result is random."
            yield self.finding(
                module, found.run, message, severity=Severity.LOW, likelihood="possible", impact=impact, fix=fix
            )


def _switch_in(module: Module, loop: Loop, backward: ast.Call) -> tuple[ast.AST, str] | None:
    """Return where a training loop puts its model into evaluation mode for good, with a message; None if it does not.

    What cannot be seen into, and anything that says `.train(`, counts as putting it back.
    """
    lines = "\n".join(module.lines[loop.lineno - 1 : loop.end_lineno])
    if _TRAINS.search(lines):
        return None
    trained = _trained(module, loop)
    for call in mode_calls(module, "eval"):
        place = key(receiver(call))
        if module.tree.inside(call, loop) and place in trained and call.lineno > backward.lineno:
            return call, f"{place} stays in evaluation mode: the loop at line {loop.lineno} never calls {place}.train()"
    return _switch_in_callee(module, loop, backward, trained)


def _switch_in_callee(module: Module, loop: Loop, backward: ast.Call, trained: set[str]) -> tuple[ast.AST, str] | None:
    """Return the call whose function leaves the model in evaluation mode, where every such function can be read."""
    calls = [(c, target(module, c)) for c in _calls_with(module, loop, trained)]
    if any(place is None or _TRAINS.search(source(*place)) for _, place in calls):
        return None
    for call, place in calls:
        given = _parameter_of(place, call, trained)
        if place is not None and given and call.lineno > backward.lineno and f"{given}.eval()" in source(*place):
            return call, f"{called(call)}() leaves {given} in evaluation mode, and the loop never calls train()"
    return None


def _trained(module: Module, loop: Loop) -> set[str]:
    """Return the keys that the loop calls as models and whose parameters something in the file takes."""
    ours = {key(receiver(c)) for c in module.calls.get("parameters", ())} - {None}
    found = {p for node in ast.walk(loop) if isinstance(node, ast.Call) and (p := key(node.func)) in ours}
    return {p for p in found if p is not None}


def _calls_with(module: Module, loop: Loop, trained: set[str]) -> list[ast.Call]:
    """Return the calls in the loop that are handed a trained model."""
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call)]
    return [c for c in calls if c in module.tree.parents and any(key(a) in trained for a in c.args)]


def _parameter_of(place: Place | None, call: ast.Call, trained: set[str]) -> str:
    """Return the name under which the called function knows the trained model."""
    names = [a.arg for a in place[1].args.args] if place is not None else []
    return next((n for n, a in zip(names, call.args, strict=False) if key(a) in trained), "")
