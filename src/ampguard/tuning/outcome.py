"""From the study to what is told of it: records of trials, the best of them, and whether it beats the default."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from ampguard.tuning.report import LostAttempt, TrialRecord
from ampguard.tuning.study import BECAUSE, LOST, is_default, result_of


def record_of(trial: FrozenTrial) -> TrialRecord:
    """Return the record of a trial that has ended with a result."""
    result = result_of(trial)
    if result is None:
        raise ValueError(f"trial {trial.number} has no result")
    return TrialRecord(
        number=trial.number,
        state=result.state,
        reason=result.reason,
        params={**trial.system_attrs.get("fixed_params", {}), **trial.params},
        value=result.value,
        run_dir=result.run_dir,
        is_default=is_default(trial),
        wall_s=result.wall_s,
        intermediate=trial.intermediate_values,
    )


def records_of(study: optuna.Study) -> tuple[TrialRecord, ...]:
    """Return the records of all trials that have ended with a result, by number."""
    return tuple(record_of(trial) for trial in study.get_trials(deepcopy=False) if result_of(trial) is not None)


def lost_in(study: optuna.Study) -> tuple[LostAttempt, ...]:
    """Return the attempts whose process was lost, and which trial ran their parameters again."""
    return tuple(
        LostAttempt(number=trial.user_attrs[LOST], reason=trial.user_attrs[BECAUSE], again_as=trial.number)
        for trial in study.get_trials(deepcopy=False)
        if LOST in trial.user_attrs and trial.state is not TrialState.WAITING
    )


def best_of(records: Sequence[TrialRecord], direction: str) -> TrialRecord | None:
    """Return the complete trial with the best value; of equals the default, else the earliest."""
    sign = 1.0 if direction == "minimize" else -1.0
    complete = [(sign * record.value, record) for record in records if record.is_complete and record.value is not None]
    found = min(complete, key=lambda pair: (pair[0], not pair[1].is_default, pair[1].number), default=None)
    return None if found is None else found[1]


def default_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the default configuration's trial; None where it did not complete."""
    return next((record for record in records if record.is_default and record.is_complete), None)


def verdict(best: TrialRecord | None, default: TrialRecord | None, metric: str) -> str:
    """Return whether anything beats the default, in a sentence."""
    if best is None:
        return "no trial is complete: there is no best."
    if default is None:
        return f"trial {best.number} is best, {metric} {best.value:.5g}; the default configuration did not finish."
    if best.is_default:
        return f"the default is best, {metric} {best.value:.5g}."
    return f"trial {best.number} is best, {metric} {best.value:.5g}; the default has {default.value:.5g}."
