"""A tracker whose start may fail before training begins."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.trackers._isolation import isolated

_STARTS = {
    "wandb.init": "offline",
    "wandb.login": "offline",
    "mlflow.start_run": "",
    "mlflow.set_experiment": "",
    "neptune.init_run": "offline",
    "neptune.init": "offline",
    "neptune.new.init_run": "offline",
    "neptune.new.init": "offline",
    "comet_ml.Experiment": "",
    "comet_ml.start": "",
    "clearml.Task.init": "",
    "swanlab.init": "offline",
}
_FALLBACK = ("WANDB_MODE", "WANDB_DISABLED", '"disabled"', "'disabled'", "anonymous")
_OFFLINE = regex(
    r"\boffline(_(mode|run|dir|session|config)\w*)?\b|(wandb|is|use|set|log|run|go|force|tracker)_offline\b"
)
"""A switch that keeps the tracker offline; `training_offline` and `OfflineTrainer` are of another matter."""


class TrackerInitUnguarded(Rule):
    """The tracker is started without an answer for the case that it cannot be.

    ## What it does

    Reports the first start of each tracker in a file (`wandb.init`, `mlflow.start_run`, ...) that no `try` stands
    around and that has no `mode` which could be offline or disabled. A file that speaks of such a mode anywhere is left
    alone; data or a training that is called offline is none.

    ## Why is this bad

    `wandb.init` waits 90 seconds and raises when there is no network or no login; MLflow raises when its server
    does not answer. A job that waited hours for its GPUs ends before its first step.

    ## Example

    ```python
    import wandb

    def main(config):
        wandb.init(project="demo", config=config)
    ```

    ## Use instead

    ```python
    import logging

    import wandb

    def main(config):
        try:
            wandb.init(project="demo", config=config)
        except Exception as error:
            logging.getLogger(__name__).warning("wandb is not available, going on offline: %s", error)
            wandb.init(project="demo", config=config, mode="offline")
    ```

    ## Fix safety

    Safe. Offline runs can be sent later with `wandb sync`.

    ## References

    - wandb issues 1287, 7671 and 10669; the wandb documentation on `mode` and WANDB_MODE
    """

    code = "TRK002"
    name = "tracker-init-unguarded"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "Without network or login the program ends before training starts."
    risk = "None, as long as the fallback is told."
    fix = "Catch what the start raises and go on offline or without the tracker."
    words = ("wandb", "mlflow", "neptune", "comet_ml", "clearml", "swanlab")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first bare start of each tracker."""
        if module.mentions(_FALLBACK) or (module.mentions(("offline",)) and _OFFLINE.search(module.text)):
            return
        told = set()
        names = ("init", "login", "start_run", "set_experiment", "init_run", "Experiment", "start")
        for call in sorted(module.calls_of(*names), key=lambda c: c.lineno):
            what = next((n for n in module.names.dotted(call.func) if n in _STARTS), None)
            tracker = what.split(".")[0] if what else ""
            if what is None or tracker in told or isolated(module, call, module.root):
                continue
            if any(_may_be_offline(k) for k in call.keywords) or _is_command(module, call):
                continue
            told.add(tracker)
            yield self.finding(module, call, f"`{what}` has no fallback for the case that it raises")


def _may_be_offline(keyword: ast.keyword) -> bool:
    if keyword.arg == "mode":
        return not (isinstance(keyword.value, ast.Constant) and keyword.value.value == "online")
    return keyword.arg in (None, "anonymous")


def _is_command(module: Module, call: ast.Call) -> bool:
    """Whether the start is handed to something that runs it later: not here that it would be guarded."""
    parent = module.tree.parents.get(call)
    return isinstance(parent, ast.Lambda) or called(call) == ""
