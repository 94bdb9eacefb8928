"""The options of an audit, from the command line, from `[tool.ampguard.audit]`, or as keywords of `audit()`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ampguard.errors import ConfigError, did_you_mean

FAIL_ON = ("warn", "block", "never")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is looked for, where, and how bad each thing is."""

    select: tuple[str, ...] = ()
    """Codes or prefixes of codes to look for ("AMP", "ERR0"); empty: every rule that is not in preview."""
    ignore: tuple[str, ...] = ()
    """Codes or prefixes of codes to leave out; stronger than `select`."""
    exclude: tuple[str, ...] = ()
    """Globs of paths to leave out, beside the folders that nobody audits (.git, .venv, build, ...)."""
    per_file: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Glob of paths -> codes or prefixes to leave out there."""
    severity: Mapping[str, str] = field(default_factory=dict)
    """Code or prefix -> severity to give its findings."""
    critical_operations: tuple[str, ...] = ()
    """Names of functions or methods of one's own that must not fail silently ("save_weights")."""
    workers: int = 0
    """Processes; 0: one a core, or one where there are few files."""
    fail_on: str = "warn"
    """The decision from which the command exits with 1: "warn", "block" or "never"."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant; names of rules are checked by `rules`, which knows them."""
        if self.fail_on not in FAIL_ON:
            raise ConfigError(
                f"fail-on {self.fail_on!r} is unknown.", allowed=FAIL_ON, hint=did_you_mean(str(self.fail_on), FAIL_ON)
            )
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; it is a number of processes, or 0 for one a core.")

    @property
    def processes(self) -> int:
        """Return how many processes work: `workers`, or the cores that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))
