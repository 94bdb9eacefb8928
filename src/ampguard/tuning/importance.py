"""Which parameters mattered: fANOVA over the complete trials, PED-ANOVA where scikit-learn is missing.

What cannot be computed is said, with its reason: it is never silently missing.
Source: Hutter et al. 2014 (fANOVA); Watanabe et al. 2023 (PED-ANOVA); both as Optuna implements them.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, TrialState

from ampguard.tuning.report import Importance
from ampguard.tuning.study import quiet

FEWEST = 2
"""Complete trials, and different values, without which there is no variance to explain."""


def importance(study: optuna.Study, names: Sequence[str], *, seed: int) -> Importance:
    """Return the importance of each parameter, or why there is none.

    Args:
        study: With its trials.
        names: Of everything that is searched.
        seed: Of fANOVA's forest.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # The default configuration may lack a parameter, where its own value is not in the space.
    whole = [trial for trial in trials if all(name in trial.params for name in names)]
    varied = [name for name in names if _is_varied(whole, name)]
    method, evaluator = _evaluator(seed)
    if reason := _why_not(whole, varied):
        return Importance(method=method, values=None, reason=reason)
    try:
        with quiet():
            values = get_param_importances(study, evaluator=evaluator, params=varied)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        return Importance(method=method, values=None, reason=f"{type(error).__name__}: {error}")
    if not all(map(math.isfinite, values.values())):
        return Importance(method=method, values=None, reason="the result is not finite")
    return Importance(method=method, values=dict(values), reason=_constant(names, varied))


def _why_not(trials: Sequence[FrozenTrial], varied: Sequence[str]) -> str:
    if len(trials) < FEWEST:
        return f"complete trials with every parameter: {len(trials)}; it takes {FEWEST}"
    if len({trial.value for trial in trials}) < FEWEST:
        return "all complete trials have the same value"
    if not varied:
        return "no parameter has more than one value among the complete trials"
    return ""


def _is_varied(trials: Sequence[FrozenTrial], name: str) -> bool:
    return len({repr(trial.params[name]) for trial in trials}) > 1


def _constant(names: Sequence[str], varied: Sequence[str]) -> str:
    left = [name for name in names if name not in varied]
    return f"constant among the complete trials, and so without one: {', '.join(left)}" if left else ""


def _evaluator(seed: int) -> tuple[str, BaseImportanceEvaluator]:
    with quiet():
        if find_spec("sklearn") is None:
            return "PED-ANOVA", PedAnovaImportanceEvaluator()
        return "fANOVA", FanovaImportanceEvaluator(seed=seed)
