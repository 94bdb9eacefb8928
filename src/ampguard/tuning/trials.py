"""The trials of a search, one after the other: asked for, judged, ended, lost; whoever watches is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from ampguard.tuning import study as book
from ampguard.tuning.objective import Result
from ampguard.tuning.outcome import record_of
from ampguard.tuning.plan import Plan
from ampguard.tuning.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One that runs."""

    number: int
    params: Mapping[str, Any]
    asked: optuna.Trial


class Trials:
    """Where trials come from and where their results go.

    Args:
        study: Theirs.
        plan: What is searched.
        watch: Told of each.
    """

    def __init__(self, study: optuna.Study, plan: Plan, watch: Watch) -> None:
        self._study, self._plan, self._watch = study, plan, watch

    def begin(self) -> Trial:
        """Return the next one."""
        asked, params = book.begin(self._study, self._plan)
        self._watch.began(asked.number, params)
        return Trial(number=asked.number, params=params, asked=asked)

    def judge(self, trial: Trial, validation: int, value: float) -> bool:
        """Return whether a trial is to end after a validation."""
        self._watch.validated(trial.number, validation, value)
        return book.judge(trial.asked, validation, value)

    def end(self, trial: Trial, result: Result) -> None:
        """Take a result."""
        book.finish(self._study, trial.asked, result)
        self._tell_end(trial.number)

    def lose(self, trial: Trial, because: str) -> None:
        """Have a trial run again whose process is gone; one that ends its processes each time has failed."""
        if book.try_again(self._study, trial.number, because, died=True):
            self._watch.lost(trial.number, because)
        else:
            self._tell_end(trial.number)

    def count(self) -> int:
        """Return how many have ended."""
        return len(book.finished(self._study))

    def _tell_end(self, number: int) -> None:
        self._watch.ended(record_of(self._study.get_trials(deepcopy=False)[number]))
