"""One number for a code base, to compare two states of it by. It decides nothing: see `decision`.

The law. A finding costs 25 (critical), 12 (high), 6 (medium), 2 (low) or nothing (info). One habit repeated is not as
many problems, so the k-th finding of one rule in one file, counted from the worst, costs log2(k / (k - 1)) of that:
k equal findings cost as much as 1 + log2(k), two as two, fifty as 6.6. The same law counts the files of one rule,
from the costliest: a habit in a hundred files costs as much as 7.6. The score is 100 minus the sum, at least 0,
rounded half up.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

from ampguard.auditing.findings import Finding, Severity

COSTS = {Severity.CRITICAL: 25, Severity.HIGH: 12, Severity.MEDIUM: 6, Severity.LOW: 2, Severity.INFO: 0}

GRADES = (
    *((97, "A+"), (92, "A"), (87, "A-"), (82, "B+"), (77, "B"), (72, "B-")),
    *((67, "C+"), (62, "C"), (57, "C-"), (52, "D+"), (47, "D"), (42, "D-")),
)
"""Score from which a grade is given; F below. Chosen: five points a step, from 97 down."""


def score(findings: Iterable[Finding]) -> int:
    """Return the score of a code base with these findings, from 0 to 100."""
    by_rule: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for finding in findings:
        by_rule[finding.code][finding.path].append(COSTS[finding.severity])
    cost = sum(damped(damped(costs) for costs in files.values()) for files in by_rule.values())
    return max(0, math.floor(100 - cost + 0.5))


def damped(costs: Iterable[float]) -> float:
    """Return what costs of one kind amount to: the k-th from the top counts log2(k / (k - 1)), the first wholly."""
    ordered = sorted(costs, reverse=True)
    return sum(cost * (math.log2(k / (k - 1)) if k > 1 else 1.0) for k, cost in enumerate(ordered, 1))


def grade(points: int) -> str:
    """Return the letter of a score."""
    return next((letter for least, letter in GRADES if points >= least), "F")
