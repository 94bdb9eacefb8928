"""What the issue promises of the ratios, what it aims at, and whether a measurement keeps it."""

from dataclasses import dataclass
from typing import Any

from paired import Ratio
from timing import PRECISIONS, Row


@dataclass(frozen=True, kw_only=True)
class Target:
    """A promise about one ratio."""

    subject: str
    upper: Row
    lower: Row
    statistic: str
    """"median", or an end of the interval: "low", "high"."""
    limit: float
    at_most: bool
    aim: bool = False
    """Whether it is only aimed at."""

    def met(self, ratio: Ratio) -> bool:
        value: float = getattr(ratio, self.statistic)
        return value <= self.limit if self.at_most else value >= self.limit


def _overhead(subject: str, against: str, statistic: str, limit: float, *, aim: bool = False) -> list[Target]:
    return [
        Target(
            subject=subject,
            upper=("ours", precision),
            lower=(against, precision),
            statistic=statistic,
            limit=limit,
            at_most=True,
            aim=aim,
        )
        for precision in PRECISIONS
    ]


_SPEEDUP = {"subject": "text-small", "upper": ("ours", "fp32"), "lower": ("ours", "bf16-mixed"), "at_most": False}
TARGETS = [
    *_overhead("mlp", "plain", "median", 1.05),
    *_overhead("text-small", "plain", "median", 1.02),
    Target(statistic="median", limit=1.5, **_SPEEDUP),  # type: ignore[arg-type]
    Target(statistic="low", limit=1.4, **_SPEEDUP),  # type: ignore[arg-type]
    *_overhead("mlp", "plain", "high", 1.0, aim=True),
    *_overhead("mlp", "tuned", "high", 1.08, aim=True),
]


def judge(subject: str, ratios: dict[tuple[Row, Row], Ratio]) -> list[dict[str, Any]]:
    """Return each target of a subject with the value measured and whether it is met."""
    return [
        {
            "subject": subject,
            "ratio": label(target.upper, target.lower),
            "statistic": target.statistic,
            "kind": "aim" if target.aim else "promise",
            "limit": f"{'at most' if target.at_most else 'at least'} {target.limit:g}",
            "value": round(getattr(ratio, target.statistic), 4),
            "met": target.met(ratio),
        }
        for target in TARGETS
        if target.subject == subject
        for ratio in [ratios[target.upper, target.lower]]
    ]


def label(upper: Row, lower: Row) -> str:
    """Return the name of a ratio of two rows' times."""
    return f"{' '.join(upper)} / {' '.join(lower)}"
