"""Where output goes: the answer to stdout, everything else to stderr."""

import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


def stderr() -> Console:
    """Return the console for progress and messages."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Return the console for the answer."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """Write one JSON object to stdout, finite numbers only."""
    sys.stdout.write(json.dumps(value, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


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
