"""A handler for every error."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._incomplete import missing_later, only_told
from ampguard.auditing.rules.errors._verdict import Verdict, verdicts


class BroadExcept(Rule):
    """`except Exception` stands where the errors that can be expected could be named.

    ## What it does
    Reports handlers of `Exception` that go on. Told and off the critical path it is information, and around a tracker
    call it is the right way (a good practice, not a finding). With a fallback and without a word it is low. Around a
    training step or a checkpoint a told failure that callers can see is low, a silent one medium; one that nobody
    sees is ERR006. It is medium, too, where code behind the handler reads a name that only the block binds: the
    NameError that follows hides the reason; low where that code stands under a condition. This holds for handlers of a
    named type as well: medium for RuntimeError, which torch raises for nearly everything, low for others. Low where a
    loop logs what fails while it fills a cache that another method reads by key; and where collected failures are
    logged and nothing else, while what they are missing from is used. A handler that does nothing at all is ERR002.

    ## Why is this bad
    It also catches what nobody expected: a misspelt attribute turns into "the file cannot be read", and the default
    that is returned then looks like a result.

    ## Example
    ```python
    def read_history(path):
        try:
            return summarise(path.read_text())
        except Exception:
            return {}
    ```

    ## Use instead
    ```python
    import logging

    logger = logging.getLogger(__name__)


    def read_history(path):
        try:
            return summarise(path.read_text())
        except (OSError, ValueError) as error:
            logger.warning("no history from %s: %s", path, error)
            return {}
    ```

    ## Fix safety
    A narrower type lets other errors out, which may stop a program that went on before.

    ## References
    - ruff BLE001 and pylint W0718 report every broad handler; here it counts what is done with the error, and where.
    """

    code = "ERR004"
    name = "broad-except"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "Errors that nobody expected are treated as the expected one, and mistakes in the code go unseen."
    risk = "Medium: a narrower type lets other errors out, which may stop what went on before."
    fix = "Name the exceptions that can be expected here, and log the one that was caught."
    words = ("except",)
    ruff = ("BLE001",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every broad handler that goes on."""
        for verdict in verdicts(module, self.code):
            unbound = verdict.unbound
            missing = missing_later(verdict.catch) if verdict.severity is Severity.INFO else None
            message = _message(verdict)
            if missing is not None:
                message += f", and {module.segment(missing)} (line {missing.lineno}) has no value for what failed"
            yield self.finding(
                module,
                verdict.catch.node,
                message,
                severity=verdict.severity if missing is None else Severity.LOW,
                impact=f"A NameError about `{unbound}` follows and hides the reason." if unbound else None,
                fix="Raise again, return, or give the name a value in the handler." if unbound else None,
                critical_path=verdict.critical is not None,
            )
        for told in only_told(module):
            message = f"`{told.failures}` are told and nothing else: `{told.goes_on}` goes on without what failed"
            fix = "Raise where something failed, or hand the failures to the caller."
            yield self.finding(module, told.at, message, severity=Severity.LOW, fix=fix)


def _message(verdict: Verdict) -> str:
    about = f" around the {verdict.critical.operation}" if verdict.critical else ""
    if verdict.unbound is not None:
        return f"{verdict.catch.label}{about} goes on, and `{verdict.unbound}` has no value behind it"
    if verdict.catch.logs:
        return f"{verdict.catch.label}{about} catches more than can be expected; it is logged"
    return f"{verdict.catch.label}{about} turns every error into a fallback without telling anybody"
