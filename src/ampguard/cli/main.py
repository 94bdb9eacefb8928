"""The command line: finds the verb, runs it, and turns what went wrong into one message and an exit code.

stdout carries the answer (with --format json: one JSON object on every exit); logs and progress go to stderr.
Imports no torch: a verb does, when it runs.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import Any

from cyclopts import App, CycloptsError

from ampguard import __version__
from ampguard.cli.failure import Failure
from ampguard.cli.streams import listen, reserved_stdout
from ampguard.cli.task_flags import long_names
from ampguard.errors import AmpguardError

_HELP = """Mixed precision for PyTorch training that is proven and that survives.

Every verb takes --format json, --quiet and --debug.
"""


VERBS = ("train", "doctor", "audit", "bench", "report", "tune", "track")
"""In the order of the help. Each has a module of its name here."""


GRACE_S = 0.5
"""What a thread that was told to leave may take."""


def make_app(tokens: Sequence[str]) -> App:
    """Return the command line; `tokens` decide which verbs are loaded, and which Task's options they show."""
    app = App(
        name="ampguard",
        version=__version__,
        help=_HELP,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    verb = _verb(tokens)
    for name in (verb,) if verb else VERBS:  # the others would be half of the time that a short command takes
        app.command(_command(name, tokens), name=name)
    return app


def _verb(tokens: Sequence[str]) -> str:
    """Return the verb that is run, "" where none is named."""
    return tokens[0] if tokens and tokens[0] in VERBS else ""


def _command(verb: str, tokens: Sequence[str]) -> App | Callable[..., Any]:
    """Return what runs a verb: what its module makes for these tokens, or its function of the verb's name."""
    home = import_module(f"ampguard.cli.{verb}")
    command: App | Callable[..., Any] = home.make_command(tokens) if hasattr(home, "make_command") else vars(home)[verb]
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    code = run(sys.argv[1:] if argv is None else list(argv))
    if _stuck():
        _leave_by_force(code)
    sys.exit(code)


def _stuck() -> bool:
    """Whether a tracker's call keeps the process from ending."""
    tracking = sys.modules.get("ampguard.tracking")
    return tracking is not None and bool(tracking.stuck(GRACE_S))


def _leave_by_force(code: int) -> None:
    """Exit while a tracker's call does not return: its package may wait for it at exit, in threads or handlers."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def run(tokens: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    tokens = long_names(tokens)
    listen(quiet="--quiet" in tokens)
    with reserved_stdout() if _wants_json(tokens) else nullcontext():
        return _run(tokens)


def _run(tokens: Sequence[str]) -> int:
    failure = Failure(verb=_verb(tokens), as_json=_wants_json(tokens), debug="--debug" in tokens)
    try:
        status = make_app(tokens)(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return failure.usage(error)
    except AmpguardError as error:
        return failure.told(error)
    except KeyboardInterrupt:
        return failure.interrupted()
    except BrokenPipeError:
        # The reader of stdout went away (a pipe into head): nothing is left to be told to it.
        return 0
    return status if isinstance(status, int) else 0


def _wants_json(tokens: Sequence[str]) -> bool:
    return "--format=json" in tokens or any(
        pair == ("--format", "json") for pair in zip(tokens, list(tokens)[1:], strict=False)
    )
