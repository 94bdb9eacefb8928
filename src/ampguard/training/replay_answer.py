"""What a replay answers: both runs of the step side by side, and what helps."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ampguard.health import Finding
from ampguard.records import SCHEMA
from ampguard.run_folder import train_command
from ampguard.training.bad_samples import BadSamples


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One run of the step."""

    precision: str
    finite: bool
    """Whether all gradients were, so that the step was applied."""
    loss: float | None
    """The step's loss; None where it was not finite."""
    grad_norm: float | None
    """Global L2 norm of the unscaled gradients; None where it was not finite."""
    finding: Finding | None
    """What was not finite first."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a bundle's step when it was run again."""

    bundle: str
    step: int
    event: str
    """What the run told of it: nonfinite, skip, collapse."""
    reproduced: bool
    """Whether the step was not finite again."""
    exact: bool
    """Whether weights, generators and batch are those of the run."""
    remarks: tuple[str, ...]
    """Where the weights came from, and whatever is not as it was."""
    loss_scale: float | None
    run: Pass
    """In the bundle's precision."""
    fp32: Pass
    samples: BadSamples | None
    """Where in the batch and the data set the values are that are not finite; None: there are none."""
    advice: str
    """What helps, as a sentence."""
    command: str
    """The command that tries it; "" where none does."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"schema": SCHEMA, **asdict(self), "remarks": list(self.remarks)}


def advise(
    task: Mapping[str, Any], own: Pass, fp32: Pass, samples: BadSamples | None, *, loss_scale: float | None
) -> tuple[str, str]:
    """Return what helps, and the command that tries it; "" where none does.

    Args:
        task: {"target", "options"} of the run.
        own: The step in the run's precision.
        fp32: The step in fp32.
        samples: Values of the batch that are not finite.
        loss_scale: Of the step; None without scaling.
    """
    if own.finite:
        return "It was finite this time. See the remarks for what is not as it was in the run.", ""
    if samples is not None and (own.finding is None or own.finding.phase in ("data", "loss")):
        return f"The batch holds values that are not finite: {samples}. Mend or drop them.", ""
    if own.finding is not None and own.finding.phase == "weights":
        return "The weights were not finite before the step: go back to an older checkpoint.", ""
    if not fp32.finite:
        return "It is not finite in fp32 either: no precision helps. Look at the place that is named.", ""
    if loss_scale is not None and loss_scale > 1.0 and _of_the_scale(own):
        remedy = f"The loss scale of {loss_scale:g} was too large and halves after such a step"
        return f"It is finite in fp32. {remedy}: a smaller --init-scale skips fewer.", ""
    train = train_command(task)
    if own.finding is None or own.finding.fqn in ("", "loss"):
        return "It is finite in fp32.", f"{train} --precision bf16-mixed"
    what = own.finding.fqn
    command = f"{train} --precision {own.precision} --override {shlex.quote(f'{what}=fp32')}"
    return f"It is finite in fp32: {what} overflows in {own.precision}.", command


def _of_the_scale(own: Pass) -> bool:
    """Return whether a gradient overflowed that had been multiplied by the loss scale."""
    return own.finding is not None and (own.finding.phase, own.finding.kind) == ("backward", "overflow")
