"""`--require`: what a precision must reach, for CI.

    speedup>=1.5,equivalent          judged on the recommended precision
    bf16:speedup>=1.2,memory>=20     judged on a named one

A speed-up counts by the lower end of its interval: what is required has been shown, not merely seen.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ampguard.benchmarking.report import Trial
from ampguard.benchmarking.verdict import too_noisy
from ampguard.errors import ConfigError, did_you_mean
from ampguard.precision.names import canonical

WORDS = ("speedup>=N", "memory>=PERCENT", "equivalent")
_PATTERN = re.compile(r"(speedup|memory)\s*>=\s*(\d+(?:\.\d+)?)x?%?")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that is required."""

    subject: Literal["speedup", "memory", "equivalent"]
    least: float = 0.0

    def __str__(self) -> str:
        return self.subject if self.subject == "equivalent" else f"{self.subject}>={self.least:g}"

    def unmet(self, trial: Trial) -> str:
        """Return why the trial does not meet it; "" where it does."""
        if trial.status != "ok":
            return f"it {'failed' if trial.status == 'failed' else 'cannot run here'}: {trial.reason}"
        if self.subject == "equivalent":
            parity = trial.parity
            more = f" ({parity.reason})" if parity.reason else ""
            return "" if parity.result == "equivalent" else f"its parity is {parity.result.replace('_', ' ')}{more}"
        if self.subject == "memory":
            saved = trial.memory_reduction_pct
            if saved is None:
                return f"its memory is not known: {trial.reasons.get('memory_reduction_pct', 'it was not measured')}"
            return "" if saved >= self.least else f"its memory is {abs(saved):.1f} % {'less' if saved >= 0 else 'more'}"
        if trial.speedup.ci95 is None:
            return f"its speed-up has no interval: {trial.reasons.get('speedup', 'it was not measured')}"
        if too_noisy(trial):
            return f"the machine was too noisy for a verdict: the ratios spread over {trial.spread:.0%} of their median"
        low, high = trial.speedup.ci95
        return "" if low >= self.least else f"the interval of its speed-up is {low:.2f} to {high:.2f}"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What one precision must reach."""

    precision: str | None
    """None: the recommended one."""
    conditions: tuple[Condition, ...]

    def failures(self, trials: Sequence[Trial], *, recommended: str, baseline: str) -> list[str]:
        """Return one sentence for each condition that is not met."""
        name = self.precision or recommended
        if name == baseline and self.precision is None:
            wanted = ", ".join(map(str, self.conditions))
            return [f"{wanted} is required, but no other precision is recommended than {baseline}, the baseline"]
        trial = next(trial for trial in trials if trial.precision == name)
        unmet = ((condition, condition.unmet(trial)) for condition in self.conditions)
        return [f"{name}: {condition} is required, but {why}" for condition, why in unmet if why]


def parse_requirements(texts: Sequence[str], precisions: Sequence[str]) -> list[Requirement]:
    """Return the requirements that texts state.

    Args:
        texts: As --require is given.
        precisions: What is compared; no other can be required of.

    Raises:
        ConfigError: One is none, or names a precision that is not compared.
    """
    found = [_requirement(text) for text in texts]
    for item in found:
        if item.precision is not None and item.precision not in precisions:
            raise ConfigError(
                f"require names {item.precision!r}, which is not compared.",
                allowed=precisions,
                hint="Name it in --precisions, too.",
            )
    return found


def _requirement(text: str) -> Requirement:
    name, colon, rest = text.partition(":")
    precision = canonical(name.strip()) if colon else None
    conditions = tuple(_condition(part.strip()) for part in (rest if colon else text).split(","))
    return Requirement(precision=precision, conditions=conditions)


def _condition(text: str) -> Condition:
    if text == "equivalent":
        return Condition(subject="equivalent")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"require has {text!r}, which is no condition.",
            allowed=WORDS,
            hint=did_you_mean(text, ("speedup", "memory", "equivalent")),
        )
    return Condition(subject="speedup" if match[1] == "speedup" else "memory", least=float(match[2]))
