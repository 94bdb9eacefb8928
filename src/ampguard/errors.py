"""The exceptions that ampguard raises, one class for each decision that a caller can take.

    AmpguardError
    |-- InputError              what was given cannot work; nothing has been written (exit 2)
    |   |-- ConfigError         an option: unknown name, value out of range, options that exclude each other
    |   |   `-- PrecisionError  a precision that is unknown, refused or not supported here
    |   |-- TaskError           a Task: cannot be found or built, has no data, does not fit its model
    |   |-- CheckpointError     a checkpoint: damaged, or of another model
    |   |-- RunFolderError      a run folder: exists already, in use, not writable, of a newer schema
    |   `-- MissingExtraError   an optional package is not installed
    `-- RunError                the run failed on its way (exit 3)
        |-- LossError           a loss that cannot be differentiated: not a scalar, no graph, integer
        |-- GradientError       no gradient at all, or a kind of gradient that the step cannot take
        |-- CollapseError       too many steps skipped in a row, or the loss scale at its floor
        |-- CompileError        torch.compile cannot compile the model here; it would train without
        `-- UserCodeError       the user's own code raised; `__cause__` is that exception

Every message says what was given, what is allowed and what to do. `allowed` and `hint` carry the last
two for programs; `kind` names the class in the JSON of a failed command.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar


class AmpguardError(Exception):
    """Base of all errors of ampguard.

    Args:
        message: What was given and why it cannot be.
        allowed: The values that would be accepted, if they can be listed.
        hint: What to do, as a sentence.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, allowed: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.allowed = tuple(allowed)
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.allowed:
            parts.append(f"Allowed: {', '.join(self.allowed)}.")
        if self.hint:
            parts.append(self.hint)
        return " ".join(parts)


class InputError(AmpguardError):
    """What was given cannot work; nothing has been written."""

    kind = "input"
    exit_code = 2


class ConfigError(InputError):
    """An option is unknown, out of its range, or excludes another."""

    kind = "config"


class PrecisionError(ConfigError):
    """A precision is unknown, refused, or not supported on this device."""

    kind = "precision"


class TaskError(InputError):
    """A Task cannot be found or built, has no data, or does not fit its model."""

    kind = "task"


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another model."""

    kind = "checkpoint"


class RunFolderError(InputError):
    """A run folder exists already, is in use, or cannot be written."""

    kind = "run_folder"


class MissingExtraError(InputError):
    """An optional package is not installed."""

    kind = "missing_extra"

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed.",
            hint=f'Install it: pip install "ampguard[{extra}]"',
        )


class RunError(AmpguardError):
    """The run failed on its way."""

    kind = "run"


class LossError(RunError):
    """A loss cannot be differentiated."""

    kind = "loss"


class GradientError(RunError):
    """There is no gradient at all, or one of a kind that the step cannot take."""

    kind = "gradient"


class CollapseError(RunError):
    """Too many steps were skipped in a row, or the loss scale stands at its floor."""

    kind = "collapse"


class CompileError(RunError):
    """torch.compile cannot compile the model here; it would train without."""

    kind = "compile"


class UserCodeError(RunError):
    """The user's own code raised; `__cause__` is that exception."""

    kind = "user_code"


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """Return the sentence "Did you mean 'x'?" for the known name closest to `given`, or ""."""
    close = get_close_matches(given.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""
