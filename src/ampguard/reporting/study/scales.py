"""Where a value of a parameter, or of the metric, lies on an axis. Plain numbers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ampguard.reporting.axes import Steps, make_axis
from ampguard.reporting.study.read import Study
from ampguard.reporting.words import tick

WIDE = 30.0
"""Ratio of worst to best value from which the axis of the metric is logarithmic."""


class Scale(ABC):
    """An axis that is drawn: values, and labels at some of them."""

    @abstractmethod
    def share(self, value: Any) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end."""

    @abstractmethod
    def labels(self, count: int) -> list[tuple[float, str]]:
        """Return (share, text) of about `count` values."""


class Numbers(Scale):
    """Numbers on a linear or a logarithmic axis.

    Args:
        values: All that are shown; at least one.
        log: Where all are positive.
    """

    def __init__(self, values: Sequence[float], *, log: bool) -> None:
        low, high = min(values), max(values)
        self._axis = make_axis("log" if log and low > 1e-200 and high < 1e200 else "linear", low, high)

    def share(self, value: Any) -> float:  # noqa: D102
        return self._axis.share(value)

    def labels(self, count: int) -> list[tuple[float, str]]:  # noqa: D102
        return [(self._axis.share(value), tick(value)) for value in self._axis.ticks(count)]


class Ordinals(Scale):
    """Whole numbers that count something: trials, validations.

    Args:
        values: All that are shown; at least one.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self._axis = Steps(min(values), max(values))

    def share(self, value: Any) -> float:  # noqa: D102
        return self._axis.share(value)

    def labels(self, count: int) -> list[tuple[float, str]]:  # noqa: D102
        return [(self._axis.share(value), tick(value)) for value in self._axis.ticks(count)]


class Choices(Scale):
    """Several values, side by side.

    Args:
        values: Each, as text.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self._values = list(values)

    def share(self, value: Any) -> float:  # noqa: D102
        return (self._values.index(str(value)) + 0.5) / len(self._values)

    def labels(self, count: int) -> list[tuple[float, str]]:  # noqa: D102, ARG002
        return [(self.share(value), value) for value in self._values]


def scale_of(study: Study, name: str) -> Scale | None:
    """Return the axis of a parameter; None where no trial has it."""
    values = [trial.params[name] for trial in study.trials if name in trial.params]
    if not values:
        return None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) and ":" in (
        text := study.space[name]
    ):
        return Numbers(values, log=text.startswith("log"))
    return Choices(list(dict.fromkeys(map(str, [*study.space[name].split(","), *values]))))


def metric_scale(values: Sequence[float]) -> Scale:
    """Return the axis of the metric over values; at least one."""
    low, high = min(values), max(values)
    return Numbers(values, log=low > 0 and high / low > WIDE)
