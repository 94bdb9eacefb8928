"""A handler without a type."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._mend import name_the_exception
from ampguard.auditing.rules.errors._verdict import verdicts


class BareExcept(Rule):
    """A handler names no exception, so it catches Ctrl-C and `SystemExit` too.

    ## What it does
    Reports `except:` from which nothing is raised again. It is high where the block runs a step or a checkpoint and
    low where it only imports. A handler that always raises again or ends the process is fine.

    ## Why is this bad
    `except:` is `except BaseException:`. Ctrl-C, `sys.exit()` and a scheduler's SIGINT end inside it and the program
    goes on; so do a misspelt name and a full disk, which nobody hears of.

    ## Example
    ```python
    def draw_importance(axis, importance):
        try:
            axis.barh(range(len(importance)), list(importance.values()))
        except:
            axis.text(0.5, 0.5, "not available", ha="center")
    ```

    ## Use instead
    ```python
    import logging

    logger = logging.getLogger(__name__)


    def draw_importance(axis, importance):
        try:
            axis.barh(range(len(importance)), list(importance.values()))
        except ValueError as error:
            logger.warning("importance cannot be drawn: %s", error)
            axis.text(0.5, 0.5, "not available", ha="center")
    ```

    ## Fix safety
    `except Exception` keeps catching all errors but lets Ctrl-C and `SystemExit` through. Code that relied on
    swallowing those two (a worker that must not die) has to name them.

    ## References
    - [Python tutorial, handling exceptions](https://docs.python.org/3/tutorial/errors.html#handling-exceptions)
    - ruff E722 asks the same of every handler; this rule knows the critical path and leaves handlers that raise.
    """

    code = "ERR001"
    name = "bare-except"
    severity = Severity.MEDIUM
    impact = "Ctrl-C, SystemExit and every mistake in the block end here, and nobody hears of them."
    risk = "Low: the handler keeps its job, it only lets Ctrl-C and SystemExit through."
    fix = "Name the exceptions that can be expected (or `Exception`), and log what was caught."
    words = ("except:", "except :")
    ruff = ("E722",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every handler without a type that keeps what it catches."""
        for verdict in verdicts(module, self.code):
            catch, critical = verdict.catch, verdict.critical
            about = f" around the {critical.operation}" if critical else ""
            unheard = "" if catch.logs or catch.uses else ", and tells nobody"
            yield self.finding(
                module,
                catch.node,
                f"bare except{about} catches everything, Ctrl-C and SystemExit included{unheard}",
                severity=verdict.severity,
                edit=name_the_exception(catch),
                critical_path=critical is not None,
            )
