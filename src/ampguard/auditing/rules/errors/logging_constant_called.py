"""A logging level that is called."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Edit, Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import receiver
from ampguard.auditing.rules._base import Rule

_LEVELS = {
    "DEBUG": "debug",
    "INFO": "info",
    "WARNING": "warning",
    "WARN": "warning",
    "ERROR": "error",
    "CRITICAL": "critical",
    "FATAL": "critical",
}


class LoggingConstantCalled(Rule):
    """A level of `logging` is called like a function.

    ## What it does
    Reports `logging.ERROR("...")` and its like, and `logger.ERROR("...")` on an object of `logging.getLogger`.

    ## Why is this bad
    `logging.ERROR` is the number 40; calling it raises `TypeError: 'int' object is not callable`. (A logger object has
    no such attribute at all.) The line stands mostly in a handler, so that the first error is replaced by this one.

    ## Example
    ```python
    import logging


    def upload(run, path):
        try:
            run.upload(path)
        except OSError as error:
            logging.ERROR(f"upload failed: {error}")
    ```

    ## Use instead
    ```python
    import logging


    def upload(run, path):
        try:
            run.upload(path)
        except OSError as error:
            logging.error(f"upload failed: {error}")
    ```

    ## Fix safety
    Safe: the line has never worked.

    ## References
    - [logging levels](https://docs.python.org/3/library/logging.html#logging-levels)
    """

    code = "ERR013"
    name = "logging-constant-called"
    severity = Severity.HIGH
    likelihood = "certain"
    impact = "The line raises TypeError or AttributeError where it should have told the error."
    risk = "None: the line has never worked."
    fix = "Write the method in lower case, `logging.error(...)`."
    words = tuple(f".{level}(" for level in _LEVELS)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every call of a level."""
        for call in module.calls_of(*_LEVELS):
            owner = receiver(call)
            if owner is None or not isinstance(call.func, ast.Attribute):
                continue
            level = call.func.attr
            if module.names.stands_for(owner, "logging"):
                message = f"logging.{level} is a number, not a function: this line raises TypeError"
            elif _is_logger(module, owner):
                message = f"{module.segment(owner)} has no {level}: this line raises AttributeError"
            else:
                continue
            yield self.finding(module, call, message, edit=_lower(module, call, level), end=call)


def _is_logger(module: Module, owner: ast.expr) -> bool:
    if not isinstance(owner, ast.Name):
        return False
    values = module.names.values(owner.id, owner)
    found = module.names.lookup(owner.id, owner)
    return (
        bool(values)
        and found is not None
        and len(found[1]) == len(values)
        and all(isinstance(v, ast.Call) and module.names.stands_for(v.func, "logging.getLogger") for v in values)
    )


def _lower(module: Module, call: ast.Call, level: str) -> Edit | None:
    line = call.func.end_lineno
    if line is None:
        return None
    text = module.lines[line - 1]
    fixed = text.replace(f".{level}(", f".{_LEVELS[level]}(", 1)
    return Edit(first_line=line, last_line=line, lines=(fixed,)) if fixed != text else None
