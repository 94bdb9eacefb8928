"""Where output goes: the answer to stdout, everything else to stderr."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

_answers: list[TextIO] = []
"""Where stdout was when it was reserved."""

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


def stderr() -> Console:
    """Return the console for progress and messages."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Return the console for the answer."""
    return Console(highlight=False)


@contextmanager
def reserved_stdout() -> Iterator[None]:
    """Keep stdout for `print_json` alone: what anybody else prints, the user's own code too, goes to stderr."""
    _answers.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.pop()


def print_json(value: Any) -> None:
    """Write one JSON object to stdout, finite numbers only."""
    answer = _answers[-1] if _answers else sys.stdout
    answer.write(json.dumps(value, allow_nan=False, default=str) + "\n")
    answer.flush()


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname
        line = Text.assemble((f"{level.lower()}: ", _STYLES.get(level, "dim")), record.getMessage())
        stderr().print(line)


def listen(*, quiet: bool) -> None:
    """Send the library's messages to stderr: warnings and worse; nothing but errors if `quiet`."""
    logger = logging.getLogger("ampguard")
    logger.handlers = [_Handler()]
    logger.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.propagate = False
    # What is waited for is no warning, and yet for who waits.
    logging.getLogger("ampguard.tracking.wait").setLevel(logging.NOTSET if quiet else logging.INFO)
