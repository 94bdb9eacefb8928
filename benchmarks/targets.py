"""What the project promises of the ratios, what it aims at, and whether a measurement keeps it.

The peers are judged on the MLP, where the step is all overhead. "Below" a peer is the upper end of the interval; "level
with" Ignite, which calls a bare loop and guards nothing, is an interval that is not wholly above 1.
"""

from dataclasses import dataclass
from typing import Any, Literal

from loops import OURS
from paired import Ratio
from timing import PRECISIONS
from worker import Row

Pair = tuple[Row, Row]
"""A ratio of two rows' times: the first over the second."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A promise about one ratio."""

    subject: str
    pair: Pair
    statistic: Literal["median", "low", "high"]
    """"low" and "high" are the ends of the interval."""
    limit: float
    at_most: bool = True
    kind: Literal["promise", "aim"] = "promise"

    def met(self, ratio: Ratio) -> bool:
        value: float = getattr(ratio, self.statistic)
        return value <= self.limit if self.at_most else value >= self.limit


def _overhead(
    subject: str,
    ours: str,
    other: str,
    statistic: Literal["median", "low", "high"],
    limit: float,
    kind: Literal["promise", "aim"] = "promise",
) -> list[Target]:
    """Return a target on ours over another loop, in each precision."""
    pairs: list[Pair] = [((ours, precision), (other, precision)) for precision in PRECISIONS]
    return [Target(subject=subject, pair=pair, statistic=statistic, limit=limit, kind=kind) for pair in pairs]


def _kind(ours: str, peer: str) -> Literal["promise", "aim"]:
    """Return "aim" for our whole trainer against Fabric, which is a loop of the user's own without a run folder."""
    return "aim" if (ours, peer) == ("train", "fabric") else "promise"


SPEEDUP: Pair = (("ours", "fp32"), ("ours", "bf16-mixed"))
TARGETS = [
    *_overhead("mlp", "ours", "plain", "median", 1.05),
    *_overhead("text-small", "ours", "plain", "median", 1.02),
    Target(subject="text-small", pair=SPEEDUP, statistic="median", limit=1.5, at_most=False),
    Target(subject="text-small", pair=SPEEDUP, statistic="low", limit=1.4, at_most=False),
    *(
        target
        for ours in OURS
        for peer in ("fabric", "accelerate", "lightning", "transformers")
        for target in _overhead("mlp", ours, peer, "high", 1.0, _kind(ours, peer))
    ),
    *_overhead("mlp", "ours", "ignite", "low", 1.0),
    *_overhead("mlp", "ours", "plain", "high", 1.0, "aim"),
    *_overhead("mlp", "ours", "tuned", "high", 1.08, "aim"),
]


def judge(subject: str, ratios: dict[Pair, Ratio]) -> list[dict[str, Any]]:
    """Return each target of a subject whose ratio was measured, with the value and whether it is met."""
    return [
        {
            "subject": subject,
            "ratio": label(target.pair),
            "statistic": target.statistic,
            "kind": target.kind,
            "limit": f"{'<=' if target.at_most else '>='} {target.limit:g}",
            "value": round(getattr(ratios[target.pair], target.statistic), 4),
            "met": target.met(ratios[target.pair]),
        }
        for target in TARGETS
        if target.subject == subject and target.pair in ratios
    ]


def label(pair: Pair) -> str:
    """Return the name of a ratio: "ours / plain, fp32", or with both precisions "ours fp32 / ours bf16-mixed"."""
    (upper, precision), (lower, other) = pair
    if precision == other:
        return f"{upper} / {lower}, {precision}"
    return f"{upper} {precision} / {lower} {other}"
