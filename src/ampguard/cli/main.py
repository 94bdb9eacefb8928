"""The command line: finds the verb, runs it, and turns what went wrong into one message and an exit code.

stdout carries the answer (with --format json: one JSON object on every exit); logs and progress go to stderr.
Imports no torch: a verb does, when it runs.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from cyclopts import App, CycloptsError

from ampguard import __version__
from ampguard.cli import audit, bench, doctor, report, track, train, tune
from ampguard.cli.failure import Failure
from ampguard.cli.streams import listen, reserved_stdout
from ampguard.cli.task_flags import long_names
from ampguard.errors import AmpguardError
from ampguard.tracking import stuck

_HELP = """Mixed precision for PyTorch training that is proven and that survives.

Every verb takes --format json, --quiet and --debug.
"""


VERBS = ("audit", "bench", "doctor", "report", "track", "train", "tune")


GRACE_S = 0.5
"""What a thread that was told to leave may take."""


def make_app(tokens: Sequence[str]) -> App:
    """Return the command line; `tokens` decide which Task's options a verb shows."""
    app = App(
        name="ampguard",
        version=__version__,
        help=_HELP,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command(train.make_command(tokens), name="train")
    app.command(doctor.make_app(tokens))
    app.command(audit.audit, name="audit")
    app.command(bench.make_command(tokens), name="bench")
    app.command(report.report, name="report")
    app.command(tune.make_command(tokens), name="tune")
    app.command(track.track, name="track")
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    code = run(sys.argv[1:] if argv is None else list(argv))
    if stuck(GRACE_S):
        _leave_by_force(code)
    sys.exit(code)


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
    verb = tokens[0] if tokens and tokens[0] in VERBS else ""
    failure = Failure(verb=verb, as_json=_wants_json(tokens), debug="--debug" in tokens)
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
