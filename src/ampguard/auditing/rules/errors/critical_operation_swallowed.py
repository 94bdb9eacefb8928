"""A training step, a checkpoint or a database write whose failure goes nowhere."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._verdict import Verdict, needed_after, verdicts

_CONSEQUENCE = {
    "backward": "The run goes on with gradients that are missing or half summed, and its curves look like training.",
    "optimizer step": "The run goes on with weights that were not updated, and its curves look like training.",
    "scaler step": "The run goes on with weights that were not updated, and its curves look like training.",
    "scaler update": "The run goes on with a loss scale that no longer adapts, and its curves look like training.",
    "checkpoint save": "The run goes on as if it were saved; that it was not shows when the file is needed.",
    "checkpoint load": "The run goes on with weights that were not loaded, as if they were.",
    "database write": "The program goes on as if the rows were written.",
}


class CriticalOperationSwallowed(Rule):
    """A training step, a checkpoint or a database write fails, and the program goes on as if it had worked.

    ## What it does
    Reports broad handlers (and silent ones of `RuntimeError` or `OSError`) around `backward`, an optimizer or scaler
    step, a checkpoint's save or load, a database write, or an operation that the configuration names, called there or
    in the project's functions below, where nothing is raised, returned or recorded that callers can see. Critical when
    nothing is told, high when it is told without the error, medium when the error is logged.

    Not reported: handlers that raise on some path, retries that raise in the end, a load whose message says how it
    goes on ("starting from scratch"), a value or a flag that says that it failed, and narrow types with a recovery
    (out of memory, for one). A handler that takes every `RuntimeError` of a step for too little memory, or only
    prints it, is medium.

    ## Why is this bad
    A step that failed leaves weights as they were; the loss is still plotted. A checkpoint that was not written is
    missed when the machine is gone. Both look like success until it is too late.

    ## Example
    ```python
    import torch


    def save(model, path):
        try:
            torch.save(model.state_dict(), path)
        except Exception:
            pass
    ```

    ## Use instead
    ```python
    import torch


    def save(model, path):
        try:
            torch.save(model.state_dict(), path)
        except OSError as error:
            raise RuntimeError(f"the checkpoint {path} was not written") from error
    ```

    ## Fix safety
    A raise stops a run that went on before. That is the point; where a run must outlive it, record the failure where
    the loop or the caller checks it.

    ## References
    - [torch.save](https://docs.pytorch.org/docs/stable/generated/torch.save.html)
    - [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
    - No rule of ruff, pylint or TorchFix knows which operations are critical.
    """

    code = "ERR006"
    name = "critical-operation-swallowed"
    severity = Severity.CRITICAL
    impact = "The program goes on as if the operation had worked."
    risk = "High: the place is on the critical path, and a raise stops a run that went on before."
    fix = "Let the exception out, or log it and record the failure where the caller checks it."
    words = ("except", "suppress(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every handler that keeps a critical operation's failure to itself."""
        for verdict in verdicts(module, self.code):
            if verdict.critical is not None:
                yield self.finding(
                    module,
                    verdict.catch.node,
                    _message(module, verdict),
                    severity=verdict.severity,
                    impact=_consequence(verdict) or self.impact,
                    critical_path=True,
                )


def _consequence(verdict: Verdict) -> str | None:
    unbound = needed_after(verdict.catch)
    if unbound is not None:
        return f"`{unbound}` has no value behind the handler: the NameError that follows hides the reason."
    return _CONSEQUENCE.get(verdict.critical.operation) if verdict.critical is not None else None


def _message(module: Module, verdict: Verdict) -> str:
    critical = verdict.critical
    assert critical is not None
    call = module.segment(critical.call.func)
    what = f"the {critical.operation} {call}()" if critical.direct else f"the {critical.operation} inside {call}()"
    if not verdict.catch.tells:
        return f"{verdict.catch.label} swallows a failure of {what} (line {critical.call.lineno}) without a word"
    told = "logs" if verdict.catch.uses else "tells, without the error,"
    line = critical.call.lineno
    return f"{verdict.catch.label} {told} a failure of {what} (line {line}) and goes on as if it had worked"
