"""The options of an audit, from the command line, from `[tool.ampguard.audit]`, or as keywords of `audit()`."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ampguard.errors import ConfigError, did_you_mean

FAIL_ON = ("warn", "block", "never")
SEVERITIES = ("critical", "high", "medium", "low", "info")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is looked for, where, and how bad each thing is."""

    select: tuple[str, ...] = ()
    """Codes, names or prefixes of codes to look for ("AMP", "ERR0"); empty: every rule that is not in preview."""
    ignore: tuple[str, ...] = ()
    """Codes, names or prefixes of codes to leave out; stronger than `select`."""
    exclude: tuple[str, ...] = ()
    """Globs of paths to leave out, beside the folders that nobody audits (.git, .venv, build, ...)."""
    per_file: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Glob of paths -> codes, names or prefixes to leave out there."""
    severity: Mapping[str, str] = field(default_factory=dict)
    """Code, name or prefix -> severity to give its findings."""
    critical_operations: tuple[str, ...] = ()
    """Names of functions or methods of one's own that must not fail silently ("save_weights")."""
    workers: int = 0
    """Processes; 0: one a core, or one where there are few files."""
    fail_on: str = "warn"
    """The decision from which the command exits with 1: "warn", "block" or "never"."""
    stdin_filename: str = "<stdin>"
    """How reports name the text that comes on stdin; a path, where imports should be followed from there."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant; names of rules are checked by `selection`, which knows them."""
        for name in ("select", "ignore", "exclude", "critical_operations"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        per_file = _table("per_file", self.per_file)
        object.__setattr__(self, "per_file", {glob: _texts("per_file", codes) for glob, codes in per_file.items()})
        object.__setattr__(self, "severity", {k: _severity(k, v) for k, v in _table("severity", self.severity).items()})
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 0:
            raise ConfigError(f"workers is {self.workers!r}; it is a number of processes, or 0 for one a core.")
        if self.fail_on not in FAIL_ON:
            raise ConfigError(
                f"fail-on {self.fail_on!r} is unknown.", allowed=FAIL_ON, hint=did_you_mean(str(self.fail_on), FAIL_ON)
            )
        if not isinstance(self.stdin_filename, str) or not self.stdin_filename:
            raise ConfigError(f"stdin-filename is {self.stdin_filename!r}; it is a path or a name.")

    @property
    def processes(self) -> int:
        """Return how many processes work: `workers`, or the cores that this process may use."""
        return self.workers or _cores()


def option_names() -> tuple[str, ...]:
    """Return the names of the options as Python spells them."""
    return tuple(item.name for item in fields(AuditConfig))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts; one text is a list of its parts between commas, as on the command line."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Iterable) or isinstance(items, Mapping | bytes):
        raise ConfigError(f"{_flag(name)} is {value!r}; it is a list of texts.")
    listed = list(items)
    wrong = [item for item in listed if not isinstance(item, str)]
    if wrong:
        raise ConfigError(f"{_flag(name)} holds {wrong[0]!r}; it is a list of texts.")
    return tuple(part.strip() for item in listed for part in item.split(",") if part.strip())


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{_flag(name)} is {value!r}; it is a table of texts.")
    return value


def _severity(key: str, value: Any) -> str:
    given = str(value).lower()
    if given not in SEVERITIES:
        hint = did_you_mean(given, SEVERITIES)
        raise ConfigError(f"severity of {key} is {value!r}, which is unknown.", allowed=SEVERITIES, hint=hint)
    return given


def _flag(name: str) -> str:
    return name.replace("_", "-")
