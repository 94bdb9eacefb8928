"""The current run of a tracker, used where there may be none."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.guards import tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk_scope
from ampguard.auditing.rules._base import Rule

_SPEAKS_OF = regex(r"wandb|mlflow|active_run|tracker|\brun\b|report_to|logger|\blog\b|use_wb|track", re.I)


class TrackerRunNone(Rule):
    """`wandb.run` is None until a run is started; here it is used without asking.

    ## What it does

    Reports attributes of `wandb.run` and of `mlflow.active_run()` where no condition about the tracker stands
    before, nothing in the function starts a run, and no handler catches the AttributeError.

    ## Why is this bad

    With the tracker switched off, or on the ranks that do not log, the line raises AttributeError on None.

    ## Example

    ```python
    import wandb

    def finish(metrics):
        wandb.run.summary.update(metrics)
    ```

    ## Use instead

    ```python
    import wandb

    def finish(metrics):
        if wandb.run is not None:
            wandb.run.summary.update(metrics)
    ```

    ## Fix safety

    Safe: the condition changes nothing where a run exists.

    ## References

    - The wandb documentation on `wandb.run`; mlflow.active_run
    """

    code = "TRK003"
    name = "tracker-run-none"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = "Without an active run the line raises AttributeError on None."
    risk = "None."
    fix = "Ask `if wandb.run is not None` first."
    words = ("wandb.run", "active_run")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first use of each function that nothing guards."""
        told = set()
        for node in module.tree.all(ast.Attribute):
            what = _run(module, node.value)
            function = module.tree.function(node)
            if what is None or (function, what) in told or not _exposed(module, node):
                continue
            told.add((function, what))
            started = _starts_somewhere(module)
            yield self.finding(
                module,
                node,
                f"`{what}` may be None where `.{node.attr}` is read",
                severity=Severity.LOW if started else Severity.MEDIUM,
            )


def _run(module: Module, node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute) and node.attr == "run" and module.names.stands_for(node, "wandb.run"):
        return "wandb.run"
    if isinstance(node, ast.Call) and module.names.stands_for(node.func, "mlflow.active_run"):
        return "mlflow.active_run()"
    return None


def _exposed(module: Module, node: ast.Attribute) -> bool:
    if any(_SPEAKS_OF.search(ast.unparse(test)) for test, _ in tests_before(module, node)):
        return False
    if any(module.tree.handlers_around(node)):
        return False
    function = module.tree.function(node)
    scope: ast.AST = function if function is not None else module.root
    earlier = (n for n in walk_scope(scope) if isinstance(n, ast.Call) and n.lineno <= node.lineno)
    return not any(_starts(module, call) for call in earlier)


def _starts(module: Module, call: ast.Call) -> bool:
    return module.names.stands_for(call.func, "wandb.init", "mlflow.start_run")


def _starts_somewhere(module: Module) -> bool:
    return any(_starts(module, c) for c in module.calls_of("init", "start_run"))
