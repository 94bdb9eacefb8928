"""What a search tells those who watch; the command line brings a table of its own. Imports neither torch nor Optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampguard.tuning.config import TuneConfig
    from ampguard.tuning.report import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A search that begins, or goes on."""

    task: str
    config: "TuneConfig"
    """With everything decided."""
    validations: int
    """Validations of a whole trial."""
    folder: str
    warnings: Sequence[str]
    before: "Sequence[TrialRecord]"
    """Trials that ended in an earlier part."""


class Watch:
    """Base of those who watch: each defines what it needs."""

    def start(self, opening: Opening) -> None:
        """The search begins."""

    def began(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial has begun."""

    def validated(self, number: int, validation: int, value: float) -> None:
        """A trial was validated; validations count from 1."""

    def ended(self, record: "TrialRecord") -> None:
        """A trial has ended with a result."""

    def lost(self, number: int, because: str) -> None:
        """A trial's process is gone; its parameters will be run again, as a trial of another number."""

    def stop(self) -> None:
        """Nothing more comes."""
