"""study.json, read and checked: what the report knows of a search."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ampguard.errors import RunFolderError
from ampguard.records import SCHEMA

NAME: Final = "study.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial."""

    number: int
    state: str
    reason: str
    params: Mapping[str, Any]
    value: float | None
    is_default: bool
    curve: tuple[tuple[int, float], ...]
    """(validation, value)."""
    wall_s: float | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """One search."""

    path: Path
    task: str
    metric: str
    minimized: bool
    status: str
    verdict: str
    trials: tuple[Trial, ...]
    best: int | None
    """Number of the best trial."""
    default_value: float | None
    space: Mapping[str, str]
    """What is searched, by name: log:1e-05:0.01, cosine,linear."""
    method: str
    """Of importance."""
    shares: Mapping[str, float] | None
    """Importance by name; None: not known."""
    why: str
    """Why importance is not known, or lacks a parameter."""
    settings: Mapping[str, Any]
    lost: tuple[tuple[int, str, int], ...]
    """(number, reason, number of the trial that ran its parameters again)."""
    warnings: tuple[str, ...]
    command: str
    """What trains the best configuration again; "": nothing does."""
    wall_s: float

    @property
    def complete(self) -> list[Trial]:
        """Trials with a final value."""
        return [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]

    @property
    def names(self) -> list[str]:
        """The parameters, in the order of the space."""
        return list(self.space)

    def better(self, value: float, than: float) -> bool:
        """Return whether one value of the metric is better than another."""
        return value < than if self.minimized else value > than


def read_study(folder: Path) -> Study:
    """Return the search of a study folder.

    Raises:
        RunFolderError: It has no study.json, a damaged one, or one of another schema.
    """
    file = folder / NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise RunFolderError(f"{file} has schema {found['schema']}; this version reads {SCHEMA}.")
        return _study(folder, found)
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{file} is damaged: {type(error).__name__}: {error}.") from error


def _study(path: Path, found: Mapping[str, Any]) -> Study:
    importance = found["importance"]
    best, spaces = found["best"], [str(text).partition("=") for text in found["space"]]
    return Study(
        path=path,
        task=str(found["task"]),
        metric=str(found["metric"]),
        minimized=found["direction"] == "minimize",
        status=str(found["status"]),
        verdict=str(found["verdict"]),
        trials=tuple(map(_trial, found["trials"])),
        best=None if best is None else int(best["number"]),
        default_value=_number(found["default_value"]),
        space={name: text for name, _, text in spaces},
        method=str(importance["method"]),
        shares=None if importance["values"] is None else {n: float(v) for n, v in importance["values"].items()},
        why=str(importance["reason"]),
        settings=dict(found["settings"]),
        lost=tuple((int(one["number"]), str(one["reason"]), int(one["again_as"])) for one in found["lost"]),
        warnings=tuple(map(str, found["warnings"])),
        command=str(found["command"] or ""),
        wall_s=float(found["wall_s"]),
    )


def _trial(found: Mapping[str, Any]) -> Trial:
    curve = sorted((int(at), float(value)) for at, value in found["intermediate"].items())
    return Trial(
        number=int(found["number"]),
        state=str(found["state"]),
        reason=str(found["reason"]),
        params=dict(found["params"]),
        value=_number(found["value"]),
        is_default=bool(found["is_default"]),
        curve=tuple((at, value) for at, value in curve if math.isfinite(value)),
        wall_s=_number(found["wall_s"]),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
