"""Binary cross-entropy of probabilities inside an autocast region."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, bases
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, decorations, region_around, regions_in
from ampguard.auditing.reading.tree import receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.bce_by_framework import trained_under_autocast
from ampguard.auditing.rules.amp._precision.bce_calls import WORDS, bans, bce_calls, by_choice, run_by
from ampguard.auditing.rules.amp._precision.bce_elsewhere import handed_over, reached_elsewhere
from ampguard.auditing.rules.amp._precision.kept_out_in_training import kept_out_in_training_alone
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_DEPTH = 4


_OWN_AUTOCAST = regex(r"autocast\w*\s*\(|import[^\n]*autocast|\.autocast\b")
"""A file that uses autocast itself, and does not only speak of it."""


class BceUnderAutocast(Rule):
    """`binary_cross_entropy` or `BCELoss` is called where autocast is on.

    ## What it does
    Finds `F.binary_cross_entropy(...)` and calls of an `nn.BCELoss()` inside an autocast region of a GPU, either in the
    lines of the region or in a function or a model of the same file that is called there; high where another file of
    the project computes it, and where a loss is handed to a function or an object whose region computes it. A nested
    `autocast(enabled=False)` makes it right again, and so does `binary_cross_entropy_with_logits`. In a file of models,
    losses or metrics without any autocast the finding is low: where the project's trainer uses one, where the
    file is built on Lightning, or where the project trains by a framework whose option switches it on. Low, too: a part
    of a model that the training step runs with autocast off, and the evaluation of the same file under it.

    ## Why is this bad
    Autocast refuses it: "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast".
    A probability near 1 rounds to 1 in float16, and the logarithm of what is left is infinite.

    ## Example
    ```python
    import torch
    import torch.nn.functional as F


    def train_step(model, x, y):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.binary_cross_entropy(torch.sigmoid(model(x)), y)
        return loss
    ```

    ## Use instead
    ```python
    import torch
    import torch.nn.functional as F


    def train_step(model, x, y):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.binary_cross_entropy_with_logits(model(x), y)
        return loss
    ```

    ## Fix safety
    The two agree where the model ends in a sigmoid and that sigmoid is removed; whoever reads the model's output as
    probabilities must apply it there. Or keep the call and put it, with `.float()` inputs, under
    `torch.autocast("cuda", enabled=False)`.

    ## References
    - https://pytorch.org/docs/stable/amp.html: prefer binary_cross_entropy_with_logits
    - https://github.com/pytorch/pytorch/issues/61098
    """

    code = "AMP023"
    name = "bce-under-autocast"
    severity = Severity.CRITICAL
    impact = "The call raises a RuntimeError as soon as autocast is on."
    risk = "Medium: the model's last sigmoid moves to where probabilities are read."
    fix = "Use binary_cross_entropy_with_logits on the model's raw output, or leave autocast for this call."
    words = (*WORDS, "autocast", "Loss", "loss")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every such call that an autocast region of the file reaches, and what leads to one of another file."""
        yield from self._across(module)
        yield from self._kept_out(module)
        if not module.mentions(WORDS):
            return
        if not _OWN_AUTOCAST.search(module.text):
            yield from self._in_another_file(module)
            return
        told: set[ast.Call] = set()
        for call in bce_calls(module):
            region = region_around(module, call)
            reached = region if region is not None else _from_outside(module, call)
            if reached is not None and bans(reached):
                message = f"{module.segment(call.func, 40)} is called under the autocast of line {reached.call.lineno}"
                told.add(call)
                if not by_choice(module, call):
                    yield self.finding(module, call, f"{message}, which refuses it", critical_path=True)
                elif all(inside for _, inside in tests_above(module, call)):
                    message += ", which refuses it where it is of probabilities"
                    yield self.finding(
                        module, call, message, severity=Severity.HIGH, likelihood="likely", critical_path=True
                    )
        yield from self._in_a_part(module, told)

    def _kept_out(self, module: Module) -> Iterator[Finding]:
        """Yield the calls of whole models where they are judged, of which training keeps a part out of autocast."""
        for call, kept in kept_out_in_training_alone(module):
            part = module.segment(kept.part.func, 40)
            message = (
                f"{part} runs under autocast here, and {kept.function.name}() keeps it out (line {kept.part.lineno})"
            )
            impact = (
                "What overflows in half precision in training does so here: the evaluation's losses are not finite."
            )
            fix = "Run that part with autocast switched off here, too."
            yield self.finding(
                module, call, message, severity=Severity.LOW, likelihood="possible", impact=impact, fix=fix
            )

    def _across(self, module: Module) -> Iterator[Finding]:
        """Yield the calls in regions that compute it in another file, and the losses that are handed to a region."""
        if module.role in ("test", "benchmark"):
            return
        for call, region, where, inner in reached_elsewhere(module):
            what, at = where.segment(inner.func, 40), f"line {inner.lineno} of {where.path}"
            message = f"{module.segment(call.func, 40)} computes {what} ({at}) under the autocast of line "
            message += f"{region.call.lineno}, which refuses it"
            yield self.finding(module, call, message, severity=Severity.HIGH, likelihood="likely", critical_path=True)
        for given, at in handed_over(module):
            message = f"{module.segment(given, 40)} is computed under the autocast of {at}, which refuses it"
            yield self.finding(module, given, message, severity=Severity.HIGH, likelihood="likely", critical_path=True)

    def _in_a_part(self, module: Module, told: set[ast.Call]) -> Iterator[Finding]:
        """Yield the calls in modules and losses of a file that trains under autocast, whoever runs them there."""
        scaled = {enclosing(module, c) for c in module.calls_of("scale") if is_scaler(module, receiver(c))}
        on = [r for r in regions_in(module) if bans(r) and enclosing(module, r.call) in scaled]
        for call in _in_modules(module) if on and module.role == "library" else ():
            if call not in told and region_around(module, call) is None and enclosing(module, call) not in scaled:
                message = f"{module.segment(call.func, 40)} raises under autocast, as of line {on[0].call.lineno}"
                yield self.finding(
                    module, call, message, severity=Severity.LOW, likelihood="possible", critical_path=True
                )

    def _in_another_file(self, module: Module) -> Iterator[Finding]:
        """Yield the calls of models and losses in a file that others of a project with mixed precision import."""
        calls = [] if ".backward(" in module.text or module.role != "library" else list(_in_modules(module))
        why = trained_under_autocast(module) if calls else None
        for call in calls if why else ():
            message = f"{module.segment(call.func, 40)} raises under autocast, {why}"
            yield self.finding(module, call, message, severity=Severity.LOW, likelihood="possible", critical_path=True)


def _in_modules(module: Module) -> Iterator[ast.Call]:
    """Walk the calls in methods of torch modules and in loss functions."""
    for call in bce_calls(module):
        function, owner = module.tree.function(call), module.tree.class_of(call)
        if function is None:
            continue
        torch_module = owner is not None and _is_layer(module, owner)
        if torch_module or "loss" in function.name.lower() or (owner is not None and "loss" in owner.name.lower()):
            yield call


def _is_layer(module: Module, owner: ast.ClassDef) -> bool:
    """Whether a class, or one of the project that it builds on, names what runs in a training step as its base."""
    own = [owner, *(cls for _, cls in bases(module, owner))]
    return any(_LAYER.search(ast.unparse(base)) for cls in own for base in cls.bases)


_LAYER = regex(r"Module|Loss|Lightning|Metric|Criterion|Model\b")
"""Words of the base classes of what runs inside a training step."""


def _from_outside(module: Module, call: ast.Call) -> Region | None:
    """Return an autocast of the file in which a function that holds the call is run."""
    function = module.tree.function(call)
    if function is None:
        return None
    return next((r for r, place in _run_under(module) if place[1] is function), None)


def _run_under(module: Module) -> list[tuple[Region, Place]]:
    """Return the functions of the file that run under an enabled autocast of the file, each with its region."""
    return module.once("run under autocast", lambda: list(_reached(module)))


def _reached(module: Module) -> Iterator[tuple[Region, Place]]:
    opened = {r.call for r in regions_in(module)}
    started: list[tuple[Region, Place, int]] = []
    for calls in module.calls.values() if opened else ():
        for call in calls:
            region = region_around(module, call) if call not in opened else None
            if region is not None and bans(region):
                started += [(region, place, 0) for place in run_by(module, call)]
    for function in module.functions:
        started += [(r, (module, function), 0) for r in decorations(module, function) if bans(r)]
    seen = set()
    while started:
        region, place, depth = started.pop()
        if place[1] in seen or depth > _DEPTH or place[0] is not module:
            continue
        seen.add(place[1])
        yield region, place
        inner = [c for calls in module.calls.values() for c in calls if module.tree.function(c) is place[1]]
        for call in inner:
            if region_around(module, call) is None or bans(region_around(module, call) or region):
                started += [(region, p, depth + 1) for p in run_by(module, call)]
