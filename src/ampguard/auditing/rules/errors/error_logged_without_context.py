"""A log line of an error that does not say which error."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.handlers import Catch, catches
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._verdict import verdicts


class ErrorLoggedWithoutContext(Rule):
    """A failure is told, but not which error it was.

    ## What it does
    Reports handlers of `Exception` that log, print or warn without the exception, `exc_info` or a traceback: low, and
    medium around a training step or a checkpoint. As information it also names a `raise` in a broad handler that
    neither chains the cause with `from` nor puts it into its text.

    ## Why is this bad
    "Failed to save" is the same line for a full disk, a missing folder and a typing mistake. Who reads it after the
    run cannot tell, and the exception is gone.

    ## Example
    ```python
    import logging


    def upload(run, path):
        try:
            run.upload(path)
        except Exception:
            logging.error("upload failed")
    ```

    ## Use instead
    ```python
    import logging


    def upload(run, path):
        try:
            run.upload(path)
        except Exception:
            logging.exception("upload of %s failed", path)
    ```

    ## Fix safety
    Only the log's text changes. Where logs are read by strangers, see traceback-shown (ERR007).

    ## References
    - [logging.Logger.exception](https://docs.python.org/3/library/logging.html#logging.Logger.exception)
    - ruff TRY400, LOG007 and B904 look at the call alone, without the handler's other lines.
    """

    code = "ERR005"
    name = "error-logged-without-context"
    severity = Severity.LOW
    impact = "The log says that something failed, but neither what nor why."
    risk = "None: only the log's text changes."
    fix = "Put the exception into the message, or log with `logger.exception` or `exc_info=True`."
    words = ("except",)
    ruff = ("TRY400", "LOG007", "B904")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every broad handler that tells without the error, and every raise that drops its cause."""
        for verdict in verdicts(module, self.code):
            catch, critical = verdict.catch, verdict.critical
            about = f" for the {critical.operation}" if critical else ""
            yield self.finding(
                module,
                catch.logs[0],
                f"{module.segment(catch.logs[0].func)}() in {catch.label} does not say which error it was{about}",
                severity=verdict.severity,
                critical_path=critical is not None,
            )
        for catch in catches(module):
            if (dropped := _dropped_cause(catch)) is not None:
                yield self.finding(
                    module,
                    dropped,
                    f"raise in {catch.label} does not name its cause",
                    severity=Severity.INFO,
                    fix="Write `raise ... from error`.",
                )


def _dropped_cause(catch: Catch) -> ast.Raise | None:
    if not catch.broad or catch.uses:
        return None
    for node in catch.raised:
        if isinstance(node.exc, ast.Call) and node.cause is None:
            return node if called(node.exc) not in ("SystemExit", "Exit", "Abort") else None
    return None
