"""A handler that does nothing at all."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._contexts import dropping_exits
from ampguard.auditing.rules.errors._futures import WORDS, dropped_futures
from ampguard.auditing.rules.errors._leaving import leaving_finally
from ampguard.auditing.rules.errors._mend import name_the_exception
from ampguard.auditing.rules.errors._verdict import verdicts


class SwallowedException(Rule):
    """Every exception of a block is caught and dropped: nothing is logged, raised, returned or recorded.

    ## What it does
    Reports `except Exception: pass` (also `continue`, a bare `return`). It is low where a comment says why, where the
    block asks a question that an exception answers (is it installed, is it a number), where it only tells something,
    where a default was set before, and as `contextlib.suppress(Exception)`. Narrow types, clean-up and `finally` are
    left alone. Also reports an `__exit__` that answers True (or itself) whatever came: its `with` drops all that its
    block raises; and a `return`, `break` or `continue` in a `finally`, which drops what is on its way out of the block.
    Also a `submit` of a pool, an `apply_async` or an `asyncio.run_coroutine_threadsafe` as a statement of its own: only
    the future that nobody keeps knows what went wrong. It is low where what runs is not of the project, and for
    `asyncio.create_task`, of whose exception asyncio tells when the task is gone; a function that catches every error
    itself is left alone.

    ## Why is this bad
    A misspelt name, a full disk and a device that is gone look alike here: like nothing. What the block should have
    done is missing later, far away from the reason.

    ## Example
    ```python
    def write_summary(path, rows):
        for row in rows:
            try:
                path.open("a").write(render(row))
            except Exception:
                pass
    ```

    ## Use instead
    ```python
    import logging

    logger = logging.getLogger(__name__)


    def write_summary(path, rows):
        for row in rows:
            try:
                path.open("a").write(render(row))
            except OSError as error:
                logger.warning("row %s is not in the summary: %s", row, error)
    ```

    ## Fix safety
    A log line changes nothing else. A narrower type lets unexpected errors out: run it once on real input.

    ## References
    - [PEP 20](https://peps.python.org/pep-0020/): errors should never pass silently, unless explicitly silenced.
    - ruff S110 and S112 report every such handler, cleaning up and probing included.
    """

    code = "ERR002"
    name = "swallowed-exception"
    severity = Severity.MEDIUM
    impact = "Whatever goes wrong in the block, a mistake in the code included, leaves no trace."
    risk = "Low: a log line changes nothing; a narrower type lets unexpected errors out."
    fix = "Log the exception, or name the one type that is expected and say in a comment why it may be dropped."
    words = ("except", "suppress(", "__exit__", "__aexit__", "finally", *WORDS)
    ruff = ("S110", "S112", "SIM105")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every handler that drops all that it catches."""
        for verdict in verdicts(module, self.code):
            catch = verdict.catch
            where = module.tree.qualname(catch.node)
            yield self.finding(
                module,
                catch.node,
                f"{catch.label} drops every error of this block without a word" + (f" in {where}" if where else ""),
                severity=verdict.severity,
                likelihood="likely" if verdict.severity >= Severity.MEDIUM else "unlikely",
                edit=name_the_exception(catch),
                critical_path=verdict.critical is not None,
            )
        for leaving in leaving_finally(module):
            word = type(leaving).__name__.lower()
            text = f"`{word}` in `finally` drops every exception that is on its way through it"
            fix = f"Put the `{word}` behind the `try` statement."
            yield self.finding(module, leaving, text, likelihood="likely", fix=fix)
        yield from self._futures(module)
        for answer, cls in dropping_exits(module):
            said = module.segment(answer).removeprefix("return ")
            text = f"`with {cls}()` drops every exception of its block: __exit__ answers {said} whatever came"
            fix = "Return nothing, or True for the one exception that the context is there to drop."
            yield self.finding(module, answer, text, likelihood="likely", fix=fix)

    def _futures(self, module: Module) -> Iterator[Finding]:
        """Yield the calls that start what may fail elsewhere, and drop the future that would tell."""
        for dropped in dropped_futures(module):
            runs = module.segment(dropped.runs, 40)
            text = (
                f"nobody keeps the future of {module.segment(dropped.call.func, 40)}(): an exception of {runs} is lost"
            )
            if dropped.told:
                text = f"nobody keeps the task of {runs}: its exception reaches no one who could act on it"
            severity = Severity.MEDIUM if dropped.known and not dropped.told else Severity.LOW
            fix = "Keep the future and ask for its result(), or log its exception() in a done callback."
            yield self.finding(module, dropped.call, text, severity=severity, likelihood="likely", fix=fix)
