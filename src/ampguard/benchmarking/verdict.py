"""What the figures mean: which precision to use, and why, in words that a person uses.

A precision is recommended when it is faster than the baseline beyond its interval, or as fast and smaller, and was not
found to be less accurate. Of several the fastest is taken. Nothing beats the baseline on a measurement that is too
noisy to tell, and an accuracy that was not measured, or is undecided, is said to be so, not taken for granted.
"""

from collections.abc import Sequence

from ampguard.benchmarking.intervals import NOISY, TOO_NOISY
from ampguard.benchmarking.report import Recommendation, Targets, Trial

SPEEDUP, MEMORY_PCT = 1.5, 40.0
"""What mixed precision is hoped to give. Source: the targets of the first benchmark that this one replaced."""

SAVES_PCT = 5.0
"""Less memory by this much is a reason to take a precision that is as fast as the baseline."""

AS_FAST = 0.95
"""As fast: the interval holds 1, and nothing under this."""


def targets(trial: Trial) -> Targets:
    """Return which of the three aims a trial reaches: on its medians, for accuracy on the verdict; None: not known."""
    faster, saved, result = trial.speedup.median, trial.memory_reduction_pct, trial.parity.result
    return Targets(
        speedup_1_5x=None if faster is None or too_noisy(trial) else faster >= SPEEDUP,
        memory_reduction_40pct=None if saved is None else saved >= MEMORY_PCT,
        accuracy_stable={"equivalent": True, "different": False}.get(result),
    )


def recommend(trials: Sequence[Trial], baseline: str) -> Recommendation:
    """Return the precision to use.

    Args:
        trials: All of them, the baseline's included.
        baseline: Its precision.
    """
    others = [trial for trial in trials if trial.precision != baseline]
    base = next((trial for trial in trials if trial.precision == baseline), None)
    if base is not None and base.status == "failed":
        return _without_baseline(base, others)
    good = [trial for trial in others if _pays(trial) and trial.parity.result != "different"]
    if good:
        best = max(good, key=lambda trial: trial.speedup.median or 0.0)
        return Recommendation(precision=best.precision, why=f"{sentence(best)}: {_advice(best)}.")
    if not others:
        return Recommendation(precision=baseline, why=f"nothing was compared with {baseline}.")
    return Recommendation(precision=baseline, why=f"{'; '.join(map(sentence, others))}. Stay with {baseline}.")


def _without_baseline(base: Trial, others: Sequence[Trial]) -> Recommendation:
    """Return the fastest of those that run: the baseline does not."""
    running = [trial for trial in others if trial.status == "ok" and trial.step_ms.median is not None]
    if not running:
        every = "; ".join(map(sentence, [base, *others]))
        return Recommendation(precision=base.precision, why=f"{every}. None can be recommended.")
    best = min(running, key=lambda trial: trial.step_ms.median or 0.0)
    why = f"{sentence(base)}; {best.precision} runs, and nothing is there to compare its accuracy with."
    return Recommendation(precision=best.precision, why=why)


def _pays(trial: Trial) -> bool:
    """Return whether a trial is surely faster than the baseline; as fast counts where it saves memory."""
    if trial.status != "ok" or trial.speedup.ci95 is None or too_noisy(trial):
        return False
    low, high = trial.speedup.ci95
    saves = trial.memory_reduction_pct is not None and trial.memory_reduction_pct >= SAVES_PCT
    return low > 1.0 or (high >= 1.0 and low > AS_FAST and saves)


def too_noisy(trial: Trial) -> bool:
    """Return whether the paired ratios spread too far for any verdict on speed."""
    return trial.spread is not None and trial.spread > TOO_NOISY


def _advice(trial: Trial) -> str:
    if trial.parity.result == "equivalent":
        return "use it"
    return "use it for its speed, and watch its accuracy, which this bench does not vouch for"


def sentence(trial: Trial) -> str:
    """Return a trial as a sentence: "bf16-mixed is 1.80x faster (95 % CI 1.70-1.90), with 31 % less memory ..."."""
    if trial.status != "ok":
        if trial.status == "failed":
            return f"{trial.precision} failed: {trial.reason.rstrip('.')}"
        # The rest of the reason says who says so: it stands in the trial.
        return f"{trial.precision} cannot run here: {trial.reason.partition(': ')[0]}"
    if _is_slower(trial):
        # What it saves, and that it is as accurate, is no use to anybody who would have to wait for it.
        parts = [_accuracy(trial)] if trial.parity.result == "different" else []
    else:
        parts = [_memory(trial), _accuracy(trial)]
    return ", ".join([f"{trial.precision} {_speed(trial)}", *filter(None, parts)])


def _is_slower(trial: Trial) -> bool:
    interval, median = trial.speedup.ci95, trial.speedup.median
    if interval is None:
        return median is not None and median < 1.0
    return interval[1] < 1.0 and not too_noisy(trial)


def _speed(trial: Trial) -> str:
    faster = trial.speedup.median
    if faster is None:
        return f"has no speed-up ({trial.reasons.get('speedup', 'it was not measured')})"
    if too_noisy(trial):
        return f"cannot be judged: the ratios to the baseline spread over {trial.spread:.0%} of their median"
    why = f": {trial.reason}" if trial.reason else ""
    if trial.speedup.ci95 is None:
        few = f"({trial.step_ms.n} blocks, too few for an interval)"
        return (
            f"is about {times(faster)} faster {few}"
            if faster >= 1
            else f"is about {times(1 / faster)} slower {few}{why}"
        )
    low, high = trial.speedup.ci95
    if high < 1.0:
        return f"is {times(1 / faster)} slower {_interval(1 / high, 1 / low)}{why}"
    if low > 1.0:
        return f"is {times(faster)} faster {_interval(low, high)}"
    return f"is as fast as the baseline {_interval(low, high)}"


def times(ratio: float) -> str:
    """Return 1.834 as "1.83x", 23.4 as "23x"."""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _interval(low: float, high: float) -> str:
    return f"(95 % CI {low:.2f}-{high:.2f})"


def _memory(trial: Trial) -> str:
    saved = trial.memory_reduction_pct
    if saved is None or abs(saved) < 0.5:
        return ""
    return f"with {abs(saved):.0f} % {'less' if saved > 0 else 'more'} memory"


def _accuracy(trial: Trial) -> str:
    parity = trial.parity
    over = f"over {parity.steps} steps, {parity.seeds} seeds"
    margin = margin_words(parity.margin, parity.kind)
    match parity.result:
        case "equivalent":
            return f"and equivalent in {parity.metric} within {margin} {over}"
        case "different":
            found = margin_words(abs(parity.difference or 0.0), parity.kind)
            side = "higher" if (parity.difference or 0.0) > 0 else "lower"
            return f"but its {parity.metric} is {side} by {found} {over} (margin {margin})"
        case "inconclusive":
            return f"with {parity.metric} undecided {over} ({parity.reason})"
    return f"accuracy not measured ({parity.reason})"


def margin_words(value: float, kind: str) -> str:
    """Return a difference or a margin as people read it: 0.01 of a share as "0.01", of a loss as "1 %"."""
    return f"{value:.3g}" if kind == "absolute" else f"{100 * value:.3g} %"


def noise_warnings(trials: Sequence[Trial]) -> list[str]:
    """Return what to say about ratios that spread."""
    found = []
    for trial in trials:
        if trial.spread is not None and trial.spread > NOISY:
            word = "too noisy for a verdict" if too_noisy(trial) else "noisy"
            found.append(
                f"{trial.precision}: the machine was {word}: the paired ratios spread over {trial.spread:.0%} of "
                "their median (interquartile range). Run it on an idle machine, or with a larger --budget."
            )
    return found
