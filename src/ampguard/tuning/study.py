"""The Optuna study behind a search: where it is stored, how it samples and prunes, what its trials hold.

All that Optuna is asked and told stands here and in importance.py. Only the process of the search opens the storage:
workers are told their parameters and answer with values.

A trial that failed by its own parameters is told to the sampler as pruned, which TPE ranks behind every complete one:
Optuna's own failed state would teach it nothing. That state is for an attempt whose process was lost; the trial's
parameters are then enqueued as another attempt, with a number of its own.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ampguard.errors import ConfigError, RunFolderError
from ampguard.tuning.objective import Result
from ampguard.tuning.plan import Plan
from ampguard.tuning.space import Parameter, Range

RESULT = "ampguard_result"
"""User attribute of a trial that ended with a result: it."""
SPACE = "ampguard_space"
"""User attribute of the study: its space, as texts."""
FIRST, LOST, BECAUSE, DEATHS = "first_attempt", "attempt_before", "because", "deaths"
"""User attributes of a further attempt: number of the first and of the one before, what became of that one, and how
many processes died of these parameters."""

RETRIES = 2
"""How often a trial is run again whose process died; after that it counts as failed by itself."""

STARTUP = 4
"""Complete trials before the median counts; Optuna's own default is 5, for longer searches."""
WARMUP = 2
"""The first validation that the median is asked at: the very first one tells little."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines away, and its warnings about features that are in use here on purpose."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(plan: Plan, folder: Path) -> optuna.Study:
    """Return the study of a plan, made if it is not there.

    Raises:
        RunFolderError: Its storage cannot be used, or holds a study of that name that is not to be resumed.
        ConfigError: The study there searches another space.
    """
    config = plan.config
    # Hyperband's brackets hang on the name: in a folder of its own a study has the same one everywhere.
    name = folder.resolve().name if config.storage else "study"
    where = config.storage or str(folder / "journal.log")
    try:
        with quiet():
            study = optuna.create_study(
                study_name=name,
                storage=_storage(where, is_url=config.storage is not None),
                pruner=_pruner(plan),
                direction=config.direction,
                load_if_exists=True,
            )
            before = study.get_trials(deepcopy=False)
            study.sampler = _sampler(config.seed, len(before))
    except (OSError, ImportError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise RunFolderError(
            f"the storage {where} cannot be used: {_first_line(error)}.",
            hint="Give another --storage or --out.",
        ) from error
    _check_space(study, name, [str(parameter) for parameter in plan.space])
    if before and not config.resume:
        raise RunFolderError(
            f"the storage {where} holds a study {name!r} already.", hint="Give another --out, or --resume to go on."
        )
    return study


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _check_space(study: optuna.Study, name: str, space: list[str]) -> None:
    stored = study.user_attrs.get(SPACE)
    if stored is None:
        study.set_user_attr(SPACE, space)
    elif stored != space:
        raise ConfigError(
            f"there is a study {name!r} with another space: {', '.join(stored)}; this one is {', '.join(space)}.",
            hint="Give another --out, or the same space.",
        )


def _storage(where: str, *, is_url: bool) -> str | BaseStorage:
    return where if is_url else JournalStorage(JournalFileBackend(where))


def _sampler(seed: int, trials: int) -> TPESampler:
    """Return the sampler; a resumed study does not draw again what it drew at its beginning."""
    mixed = seed if not trials else int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=mixed)


def _pruner(plan: Plan) -> BasePruner:
    if plan.config.pruner == "none" or plan.validations < 2:
        return NopPruner()
    if plan.config.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=plan.validations)
    return MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP)


def enqueue_default(study: optuna.Study, plan: Plan) -> None:
    """Have the default configuration run first, once."""
    if not study.get_trials(deepcopy=False):
        with quiet():
            study.enqueue_trial(dict(plan.default))


def begin(study: optuna.Study, plan: Plan) -> tuple[optuna.Trial, dict[str, Any]]:
    """Return the next trial and its parameters; the default keeps to those that have a default within the space."""
    with quiet():
        trial = study.ask()
        named = plan.default if is_default(trial) else [parameter.name for parameter in plan.space]
        space = [parameter for parameter in plan.space if parameter.name in named]
        return trial, {parameter.name: _suggest(trial, parameter) for parameter in space}


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    if not isinstance(parameter, Range):
        return trial.suggest_categorical(parameter.name, parameter.values)
    if parameter.whole:
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def is_default(trial: optuna.Trial | FrozenTrial) -> bool:
    """Return whether a trial is the default configuration, at whichever attempt."""
    return bool(trial.user_attrs.get(FIRST, trial.number) == 0)


def judge(trial: optuna.Trial, validation: int, value: float) -> bool:
    """Note a validation, and return whether the trial is to end; the default runs to its end."""
    with quiet():
        trial.report(value, validation)
        return not is_default(trial) and bool(trial.should_prune())


def finish(study: optuna.Study, trial: optuna.Trial, result: Result) -> None:
    """Write how a trial ended."""
    trial.set_user_attr(RESULT, result.as_dict())
    _tell(study, trial.number, result)


def _tell(study: optuna.Study, number: int, result: Result) -> None:
    with quiet():
        if result.state == "complete":
            study.tell(number, result.value)
        else:
            study.tell(number, state=TrialState.PRUNED)


def settle(study: optuna.Study, because: str, *, died: bool) -> None:
    """See to the trials that were begun and have not ended, when nobody runs them any more.

    Args:
        study: Theirs.
        because: What became of them.
        died: Whether a process died, and was not stopped by a person.
    """
    for trial in study.get_trials(deepcopy=False):
        if trial.state is TrialState.RUNNING:
            if RESULT in trial.user_attrs:
                # It was written that it ended, and the process died before that was told.
                _tell(study, trial.number, Result(**trial.user_attrs[RESULT]))
            else:
                try_again(study, trial.number, because, died=died)


def try_again(study: optuna.Study, number: int, because: str, *, died: bool) -> bool:
    """Give up an attempt that runs no more, and enqueue its parameters once more; return whether that was done.

    Args:
        study: Of the trial.
        number: The attempt's.
        because: What became of it.
        died: Whether its process died; not where a person stopped it.
    """
    trial = study.get_trials(deepcopy=False)[number]
    died_before = int(trial.user_attrs.get(DEATHS, 0))
    if died and died_before == RETRIES:
        study.tell(number, state=TrialState.PRUNED)
        return False
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    first = trial.user_attrs.get(FIRST, number)
    attrs = {FIRST: first, LOST: number, BECAUSE: because, DEATHS: died_before + died}
    with quiet():
        study.tell(number, state=TrialState.FAIL)
        study.enqueue_trial(params, user_attrs=attrs)
    return True


def result_of(trial: FrozenTrial) -> Result | None:
    """Return how a trial ended; None for one that has not, or whose process was lost."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    values: Mapping[str, Any] | None = trial.user_attrs.get(RESULT)
    if values is not None:
        return Result(**values)
    return Result(state="failed", reason=f"{trial.user_attrs.get(BECAUSE)}, and so {RETRIES} times more")


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ended with a result, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if result_of(trial) is not None]
