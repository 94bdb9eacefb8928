"""Two benches of one Task beside each other: another machine, another commit, another version of torch.

Their blocks were not measured side by side, so there is no paired ratio and no interval: what is shown is the ratio of
medians, and everything that differs between the two.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ampguard.errors import ConfigError, RunFolderError
from ampguard.records import SCHEMA


@dataclass(frozen=True, kw_only=True)
class Change:
    """One precision, then and now. A figure that one of them lacks is None."""

    precision: str
    step_ms: tuple[float | None, float | None]
    """Median, then and now."""
    ratio: float | None
    """How many times as fast as then."""
    speedup: tuple[float | None, float | None]
    """Over each one's own baseline."""
    peak_memory_mib: tuple[float | None, float | None]
    parity: tuple[str | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A bench beside an older one."""

    old: str
    """Where the older one lies."""
    differences: Mapping[str, tuple[Any, Any]]
    """Device and settings that are not the same: (then, now)."""
    changes: tuple[Change, ...]


def read_bench(path: Path) -> dict[str, Any]:
    """Return a `bench.json`; a folder stands for the one in it.

    Raises:
        RunFolderError: It is missing, damaged, or of another schema.
    """
    file = path / "bench.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror or error}.", hint="Give a bench.json.") from error
    except ValueError as error:
        raise RunFolderError(f"{file} is no JSON: {error}.", hint="Give a bench.json.") from error
    if not isinstance(values, dict) or not {"task", "device", "settings", "trials"} <= values.keys():
        raise RunFolderError(f"{file} is no result of a bench.", hint="Give a bench.json.")
    if values.get("schema") != SCHEMA:
        raise RunFolderError(f"{file} has schema {values.get('schema')!r}; this version reads {SCHEMA}.")
    return values


def check_same_task(old: Mapping[str, Any], task: str, *, path: Path) -> None:
    """Refuse to compare benches of different Tasks.

    Raises:
        ConfigError: They are.
    """
    if old["task"] != task:
        raise ConfigError(f"against {path}: that is a bench of {old['task']!r}, and this one is of {task!r}.")


def compare(old: Mapping[str, Any], new: Mapping[str, Any], *, path: Path) -> Comparison:
    """Return what changed. old, new: as bench.json holds them."""
    facts = {"device": (old["device"], new["device"])}
    facts |= {name: (old["settings"].get(name), new["settings"].get(name)) for name in _settings(old, new)}
    before = {trial["precision"]: trial for trial in old["trials"]}
    return Comparison(
        old=str(path),
        differences={name: pair for name, pair in facts.items() if pair[0] != pair[1]},
        changes=tuple(_change(before.get(trial["precision"], {}), trial) for trial in new["trials"]),
    )


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names of settings to compare; a clock is never the same twice."""
    return [name for name in {**old["settings"], **new["settings"]} if name != "clocks_mhz"]


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change:
    step = (_inner(before, "step_ms", "median"), _inner(now, "step_ms", "median"))
    return Change(
        precision=now["precision"],
        step_ms=step,
        ratio=step[0] / step[1] if step[0] and step[1] else None,
        speedup=(_inner(before, "speedup", "median"), _inner(now, "speedup", "median")),
        peak_memory_mib=(before.get("peak_memory_mib"), now.get("peak_memory_mib")),
        parity=(_inner(before, "parity", "result"), _inner(now, "parity", "result")),
    )


def _inner(values: Mapping[str, Any], name: str, field: str) -> Any:
    inner = values.get(name)
    return None if inner is None else inner.get(field)
