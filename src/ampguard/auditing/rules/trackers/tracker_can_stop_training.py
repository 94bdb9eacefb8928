"""A tracker call whose failure ends the training run."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import tracker_call
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.trackers._active_run import questions_that_raise
from ampguard.auditing.rules.trackers._at_saves import told_at_saves
from ampguard.auditing.rules.trackers._failing import failing_calls
from ampguard.auditing.rules.trackers._fields import fields_written
from ampguard.auditing.rules.trackers._isolation import isolated
from ampguard.auditing.rules.trackers._places import called_from, is_hook, is_wrapper, training_place

_WORDS = ("wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim", "trackio", "swanlab", "riter", "tensorboard")
_ASKED = (*_WORDS, "init_trackers")
_LOGS = regex(r"log|track|report|record|metric|write|summar", re.I)
_EVALUATES = regex(r"valid|eval|epoch|test|sampl|visual|plot", re.I)
"""Functions of other files that a training loop calls and that often log what they find."""

_ASKS = regex(r"(get|is|has|to|current|active|last_active)_")
_MAKES = regex(r"\.(plot|util|utils|data_types)\.")
"""Calls that only look something up or make a value."""

_NO_TRAFFIC = ("init", "start_run", "finish", "end_run", "login", "close", "flush")
"""Calls that a rule of their own looks at, or that stand at the end."""
_LOCAL = regex(r"\.add_|tensorboard|\baccelerator\.log", re.I)
"""Calls that need no network, or of which it is not known whether a tracker that does is behind them."""

_METRICS = regex(r"log(_?(metrics?|scalars?|images?|dict|loss))?|track|report_scalar|append")
"""Calls that a training makes again and again; parameters and files are sent at its start and its end."""

_RAISES = "can raise in the middle of training"
_HOW = {"add_histogram": "raises ValueError where no value is finite or one is NaN, and ends the training"}


Exposed = tuple[ast.Call | ast.stmt, str]
"""A call, or an assignment to a field of a run, that nothing protects, and what it is."""


class TrackerCanStopTraining(Rule):
    """A call to a tracker in the training loop: what it raises ends the run.

    ## What it does

    Looks at calls to experiment trackers inside loops that take training steps (or go over what `train()` gives while
    it runs) and in hooks that a framework calls while it trains (`training_step`, `on_validation_epoch_end`), also
    through functions of the project, that no `try` on the way stands around. An assignment to a field of a run
    (`wandb.run.summary["best"] = loss`) is one too. One finding for the metrics of a block, the other calls there
    counted; uploads, histograms and the like are told apart, as they fail in other ways. TensorBoard writes to the
    local disk: its calls are low, one finding a loop, as are those of `accelerator.log`. Histograms raise ValueError
    for values that are not finite: medium for gradients, which are inf in a step that a loss scale skips, low for
    others. A function that a project sends its metrics through (`log_metrics(values, step)`) and that lets errors out
    is low, one finding a class: who calls it may stand elsewhere. In examples and tutorials all of them are low. So are
    calls and fields in a function that saves a model or a checkpoint (`save_model`), and a question for the active run
    that raises where there is none (`swanlab.get_run() is not None`). So are calls that fail by themselves: of what the
    package does not have (`wandb.define_metrics`, medium), behind a start that a test may have left out, or with a name
    that an `if` may have left without a value.

    ## Why is this bad

    A tracker needs a network, a server, a disk and its own process, none of which the training needs. A broken
    pipe or an outage of the server raises in the middle of a step, and hours of work since the last checkpoint go
    with it.

    ## Example

    ```python
    import wandb

    def train(model, optimizer, batches):
        for step, batch in enumerate(batches):
            loss = model(batch)
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                wandb.log({"loss": loss.item()}, step=step)
    ```

    ## Use instead

    ```python
    import logging

    import wandb

    logger = logging.getLogger(__name__)

    def log_metrics(values, step):
        try:
            wandb.log(values, step=step)
        except Exception as error:
            logger.warning("wandb failed at step %d: %s", step, error)

    def train(model, optimizer, batches):
        for step, batch in enumerate(batches):
            loss = model(batch)
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                log_metrics({"loss": loss.item()}, step)
    ```

    ## Fix safety

    Safe when the failure is told: a silent handler would hide that nothing is recorded. A `try` does not help
    against a call that hangs; a queue and a thread do.

    ## References

    - huggingface/transformers issue 28779 (MLflow); wandb issues 6201 and 6449 (BrokenPipeError in `wandb.log`)
    """

    code = "TRK001"
    name = "tracker-can-stop-training"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = "An outage of the tracker raises inside the training loop and ends the run."
    risk = "Low, as long as the handler tells what failed."
    fix = "Send metrics through one function that catches what the tracker raises, logs it and goes on."
    words = _ASKED

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield one finding for each training loop with exposed tracker calls."""
        for call in questions_that_raise(module):
            text = f"`{module.segment(call)}` raises where no run was started, instead of answering None"
            yield self.finding(
                module, call, text, severity=Severity.LOW, fix="Ask first whether this process has a run."
            )
        for failing, text, severity in failing_calls(module):
            yield self.finding(module, failing, text, severity=severity, fix="Keep the call from running there.")
        groups: dict[object, list[Exposed]] = {}
        told: set[Function | None] = set()  # helpers for which the loop's call of them stands
        inner: list[Exposed] = []
        wrapped: list[Exposed] = []
        for node, what, helper in _exposed(module):
            place = training_place(module, node)
            if place is not None:
                told.add(helper)
                groups.setdefault(_group(module, node, what), []).append((node, what))
            elif helper is None:
                inner.append((node, what))
        for node, what in inner:
            place = called_from(module, node) if module.tree.function(node) not in told else None
            if place is not None:
                groups.setdefault(_group(module, node, what), []).append((node, what))
            elif module.tree.function(node) not in told:
                wrapped.append((node, what))
        for found in groups.values():
            yield self._say(module, sorted(found, key=lambda f: f[0].lineno))
        yield from self._wrappers(module, wrapped)
        for at, what, function in told_at_saves(module, (e for e in wrapped if not _LOCAL.search(e[1]))):
            text = f"what `{what}` raises leaves `{function.name}()`, and ends the training that saves its model here"
            yield self.finding(module, at, text, severity=Severity.LOW)

    def _wrappers(self, module: Module, exposed: list[Exposed]) -> Iterator[Finding]:
        """Yield the first call of each class, or of the module's functions, that metrics are sent through."""
        by_owner: dict[ast.AST, list[Exposed]] = {}
        histograms: dict[ast.AST, list[Exposed]] = {}
        for call, what in exposed:
            function = module.tree.function(call)
            if not isinstance(call, ast.Call):
                continue
            if function is not None and _kind(what) in _HOW and _shows_weights(call):
                if module.role != "test" and not isolated(module, call, function):
                    histograms.setdefault(function, []).append((call, what))
                continue
            if function is None or _LOCAL.search(what) or not _METRICS.fullmatch(called(call)):
                continue
            if is_wrapper(module, function) and not isolated(module, call, function):
                by_owner.setdefault(module.tree.class_of(function) or module.root, []).append((call, what))
        for found in histograms.values():
            yield self._say(module, sorted(found, key=lambda f: f[0].lineno), severity=Severity.LOW)
        for found in by_owner.values():
            call, what = min(found, key=lambda f: f[0].lineno)
            name = getattr(module.tree.function(call), "name", "")
            text = f"what `{what}` raises leaves `{name}()`, and ends the training that logs through it"
            yield self.finding(module, call, text, severity=Severity.LOW)

    def _say(self, module: Module, found: list[Exposed], *, severity: Severity | None = None) -> Finding:
        call, what = found[0]
        rest = len(found) - 1
        more = f" ({rest} more such call{'s' * (rest > 1)} there)" if rest else ""
        local = bool(_LOCAL.search(what))
        short = module.role == "example" or (local and not _shows_gradients(found))  # a demonstration loses minutes
        return self.finding(
            module,
            call,
            f"`{what}` {_HOW.get(_kind(what), _RAISES)}{more}",
            severity=severity or (Severity.LOW if short else Severity.MEDIUM),
            likelihood="unlikely" if local and _kind(what) not in _HOW else None,
            critical_path=True,
        )


def _group(module: Module, call: ast.AST, what: str) -> object:
    """Return what a finding speaks of: calls of one kind in one block; those of a local board in one loop."""
    loop = next(module.tree.loops(call), None)
    inner = (module.tree.function(call), loop)
    return (inner if _LOCAL.search(what) else (*inner, module.tree.parents[module.tree.statement(call)])), _kind(what)


def _kind(what: str) -> str:
    """Return the method's name where it does more than to send numbers: an upload, a histogram, a picture."""
    name = what.rpartition(".")[2]
    return "" if _METRICS.fullmatch(name) or name.startswith("add_scalar") else name


def _shows_gradients(found: list[Exposed]) -> bool:
    """Whether a histogram is one of gradients: `add_histogram(name, p.grad)`."""
    return any(
        _kind(what) in _HOW and any(isinstance(n, ast.Attribute) and n.attr == "grad" for n in walk(call))
        for call, what in found
    )


def _shows_weights(call: ast.Call) -> bool:
    """Whether what is shown is a parameter or its gradient, by its name."""
    return bool(_WEIGHTS.search(" ".join(ast.unparse(a) for a in (*call.args[1:], *(k.value for k in call.keywords)))))


_WEIGHTS = regex(r"\b(p|param|params|parameter|weights?|grad|bias|v|value|tensor)\b")


def _exposed(module: Module) -> Iterator[tuple[ast.Call | ast.stmt, str, Function | None]]:
    """Walk what reaches a tracker without protection, directly or through one function of the project."""
    for statement, field in fields_written(module):
        yield statement, field, None
    for name, calls in module.calls.items():
        for call in calls:
            what = _sends(module, call)
            evaluates = what is None and bool(_EVALUATES.search(name))
            if what is None and not ((evaluates or _LOGS.search(name)) and _may_be_in_training(module, call)):
                continue
            place = target(module, call, _WORDS) if evaluates else target(module, call)
            if place is None and what is not None:
                yield call, what, None
            elif place is not None and (what is not None or not evaluates or place[0] is not module):
                inner = _reaches(*place)
                if inner is not None:
                    yield call, f"{name}` -> `{inner}", place[1]


def _may_be_in_training(module: Module, call: ast.Call) -> bool:
    """Whether it is worth finding out what a call runs: it stands in some loop, or in a hook."""
    function = module.tree.function(call)
    return any(module.tree.loops(call)) or (function is not None and is_hook(module, function))


def _sends(module: Module, call: ast.Call) -> str | None:
    """Return what a call sends to a tracker, None where it sends nothing: values such as `wandb.Table` are local."""
    name = called(call)
    if name in _NO_TRAFFIC or name[:1].isupper() or _ASKS.match(name):
        return None
    owner = receiver(call)
    if name == "log" and owner is not None and (key(owner) or "").rpartition(".")[2] == "accelerator":
        return "accelerator.log" if module.mentions(("init_trackers",)) else None
    what = tracker_call(module, call)
    return None if what is None or _MAKES.search(what) else what


def _reaches(where: Module, function: Function) -> str | None:
    """Return the first tracker call of a function that nothing inside it protects."""
    return where.once(("reaches a tracker", function), lambda: _find_reached(where, function))


def _find_reached(where: Module, function: Function) -> str | None:
    written: dict[ast.AST, str] = where.once("fields written", lambda: dict(fields_written(where)))
    for node in walk_scope(function):
        if node in written and not isolated(where, node, function):
            return written[node]
        if not isinstance(node, ast.Call):
            continue
        what = _sends(where, node)
        if what is not None and target(where, node) is None and not isolated(where, node, function):
            return what
    return None
