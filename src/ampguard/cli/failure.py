"""What a failed command says: one message, the remedy, the user's own frames, and an exit code."""

import re
import traceback
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from rich.text import Text

from ampguard.cli.streams import print_json, stderr
from ampguard.errors import AmpguardError, CompileError, MissingExtraError
from ampguard.records import SCHEMA

_OURS = str(Path(__file__).parents[1])


class Failure:
    """Tells failures on stderr, and as one JSON object on stdout if that was asked for.

    Args:
        verb: What was run, "" where no verb was named.
        as_json: Whether stdout gets the failure too.
        debug: Whether our own frames are shown.
    """

    def __init__(self, *, verb: str, as_json: bool, debug: bool) -> None:
        self._verb = verb
        self._as_json = as_json
        self._debug = debug

    def usage(self, error: CycloptsError) -> int:
        """Tell that the command was mistyped."""
        message = " ".join(str(error).split())
        self._tell("usage", message, (), f"ampguard {self._verb} --help" if self._verb else "ampguard --help")
        return 2

    def told(self, error: AmpguardError) -> int:
        """Tell an error of ours; the frames shown are the user's."""
        if self._debug:
            stderr().print(Text("".join(traceback.format_exception(error))))
        elif (cause := _users_cause(error)) is not None:
            stderr().print(Text(users_frames(cause), style="dim"))
        self._tell(error.kind, error.message, error.allowed, error.hint)
        return error.exit_code

    def interrupted(self) -> int:
        """Tell that Ctrl-C came outside a run's steps."""
        before = "before the first checkpoint; nothing to continue" if self._verb == "train" else "before the answer"
        self._tell("interrupted", f"interrupted {before}.", (), "")
        return 130

    def _tell(self, kind: str, message: str, allowed: tuple[str, ...], hint: str) -> None:
        line = Text.assemble(("error: ", "bold red"), message)
        if allowed:
            line.append(f" Allowed: {', '.join(allowed)}.")
        if hint:
            line.append(f" {hint}", style="bold")
        stderr().print(line)
        if self._as_json:
            body: dict[str, Any] = {"kind": kind, "message": message, "allowed": list(allowed), "hint": hint}
            print_json({"schema": SCHEMA, "status": "error", "error": body})


def _users_cause(error: AmpguardError) -> BaseException | None:
    """Return what the user's code raised; an OSError (a file, a disk) is ours to have met, a compiler's is torch's.

    And a package that is not there was looked for by us.
    """
    cause = error.__cause__
    return None if isinstance(cause, OSError) or isinstance(error, CompileError | MissingExtraError) else cause


def users_frames(error: BaseException) -> str:
    """Return the traceback of `error` without ampguard's own frames and torch's; whole, if no other is left."""
    hidden = re.compile(rf"{re.escape(_OURS)}|[/\\]torch[/\\]|<frozen ")
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if not hidden.search(frame.filename)] or list(every)
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()
