"""What a bench tells those who watch; the command line brings a table of its own. Imports no torch."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampguard.benchmarking.budget import Plan
    from ampguard.benchmarking.protocol import Timings
    from ampguard.benchmarking.run import Bench


class Watch(ABC):
    """Shows a bench."""

    @abstractmethod
    def start(self, bench: "Bench") -> None:
        """The bench begins: its folder, its budget and what it will compare are known."""

    @abstractmethod
    def stage(self, what: str) -> None:
        """Something begins that has no steps to count."""

    @abstractmethod
    def speed(self, stage: str, timings: "Timings", blocks: int) -> None:
        """A block was timed; `blocks` are wanted."""

    @abstractmethod
    def parity(self, precision: str, seed: int, plan: "Plan") -> None:
        """A run of parity begins; seed counts from 0."""

    @abstractmethod
    def stop(self) -> None:
        """Nothing more comes."""


class SilentWatch(Watch):
    """Shows nothing."""

    def start(self, bench: "Bench") -> None:
        """Do nothing."""

    def stage(self, what: str) -> None:
        """Do nothing."""

    def speed(self, stage: str, timings: "Timings", blocks: int) -> None:
        """Do nothing."""

    def parity(self, precision: str, seed: int, plan: "Plan") -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""
