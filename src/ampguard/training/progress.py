"""What a run tells those who watch. The loop speaks, a Progress shows; the command line brings its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from ampguard.records import Event

TOLD = (
    "resumed", "collapse", "fallback", "checkpoint_failed", "preempted", "interrupted", "early_stop", "oom_split",
    "lr_lowered", "compile", "replay", "replay_failed",
)  # fmt: skip
"""Events that are worth a line; skips and checkpoints show in the figures and in events.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What is known before the first step."""

    task: str
    steps: int
    first_step: int
    """Steps done already: 0, or where a resumed run goes on."""
    precision: str
    """Granted precision with its reason."""
    device: str
    run_dir: str
    parameters: int


class Progress(ABC):
    """Shows a run."""

    @abstractmethod
    def start(self, outline: Outline) -> None:
        """The run begins."""

    @abstractmethod
    def step(self, step: int) -> None:
        """A step was attempted. Called every step: must be cheap."""

    @abstractmethod
    def row(self, row: Mapping[str, float | int]) -> None:
        """A row of metrics was logged."""

    @abstractmethod
    def event(self, event: Event) -> None:
        """Something happened."""

    @abstractmethod
    def stop(self) -> None:
        """The run is over, however it ended."""


class NullProgress(Progress):
    """Shows nothing."""

    def start(self, outline: Outline) -> None:
        """Do nothing."""

    def step(self, step: int) -> None:
        """Do nothing."""

    def row(self, row: Mapping[str, float | int]) -> None:
        """Do nothing."""

    def event(self, event: Event) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def figures(row: Mapping[str, float | int]) -> str:
    """Return the figures of a row that a person follows: loss, scale, skips, samples/s, validation."""
    parts = [f"loss {row['train/loss']:.4f}"] if "train/loss" in row else []
    if "amp/loss_scale" in row:
        parts.append(f"scale {row['amp/loss_scale']:g}")
    if row.get("amp/skipped_steps"):
        parts.append(f"skipped {row['amp/skipped_steps']}")
    if "throughput/samples_per_s" in row:
        parts.append(f"{row['throughput/samples_per_s']:,.0f} samples/s")
    parts += [f"{key} {value:.4f}" for key, value in row.items() if key.startswith("val/")]
    return "  ".join(parts)
