"""The study folder: where it is, what a resumed study takes over, and its files, each whole or not there.

study.toml (what is searched, written at the start), journal.log (the trials, Optuna's), trials/NNNN (a run folder
each), and at the end study.json, best.toml and report.html.
"""

import os
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from ampguard.errors import ConfigError, RunFolderError
from ampguard.records import SCHEMA
from ampguard.tuning.lock import FILE as LOCK

STUDY = "study.toml"

RESTARTED = ("trials", "timeout", "workers", "track", "trial_reports", "out", "resume")
"""Options that may be given anew beside a resumed study's own: they decide no number of it."""


def make_folder(out: Path | None, task: str, *, resume: bool) -> Path:
    """Return the study folder, made if it is missing.

    Raises:
        RunFolderError: It holds something already, or a study of another Task, or cannot be written.
    """
    if out is not None and resume and _read(out)["task"] != task:
        raise RunFolderError(f"the study in {out} is of the Task {_read(out)['task']!r}, not of {task!r}.")
    if out is not None and not resume and out.exists() and (not out.is_dir() or _holds_anything(out)):
        raise RunFolderError(f"folder {out} exists already.", hint="Give another --out, or --resume to go on.")
    path = out or _fresh(task)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunFolderError(f"folder {path} cannot be written.", hint="Give another --out.")
    return path


def take_over(
    given: Mapping[str, Any], task_options: Mapping[str, Any], target: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the study in `out`, to go on with it, and those of its Task.

    Args:
        given: Options that were given now, as plain values; RESTARTED go before the study's own.
        task_options: Options of the Task that were given now.
        target: The Task's.

    Raises:
        ConfigError: Something was given that would make it another study.
        RunFolderError: There is no study.
    """
    if "out" not in given:
        raise ConfigError("resume is given without out.", hint="Name the folder of the study: --out DIR.")
    out = Path(given["out"])
    stored = _read(out)
    if stored.get("target") != target:
        own = stored.get("target", "one given in Python")
        raise ConfigError(
            f"the study in {out} is of the Task {own!r}, not of {target!r}.",
            hint=f"Name it: ampguard tune {own} --resume --out {out}" if "target" in stored else "Call ampguard.tune.",
        )
    held, asked = stored["config"], stored["asked"]
    for name, value in given.items():
        if name not in RESTARTED and value not in (held.get(name), asked.get(name)):
            raise _another(out, name, value, asked.get(name, held.get(name)))
    own_options: dict[str, Any] = stored["task_options"]
    for name, value in task_options.items():
        if value != own_options.get(name):
            raise _another(out, f"task.{name}", value, own_options.get(name))
    return {**held, **{name: value for name, value in given.items() if name in RESTARTED}}, own_options


def _another(out: Path, name: str, value: Any, stored: Any) -> ConfigError:
    return ConfigError(
        f"{name} is {value!r} beside resume {out}, whose study.toml decides it ({stored!r}).",
        allowed=RESTARTED,
        hint="Leave it out, or begin another study.",
    )


def write_start(path: Path, facts: Mapping[str, Any]) -> None:
    """Write study.toml."""
    write(path / STUDY, tomli_w.dumps({"schema": SCHEMA, **facts}))


def write(file: Path, text: str) -> None:
    """Write a file wholly, or not at all.

    Raises:
        RunFolderError: It cannot be written.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((path / STUDY).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"{path} holds no study: {STUDY} cannot be read ({error.strerror}).", hint="Begin one without --resume."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path / STUDY} is damaged: {error}.") from error


def _holds_anything(path: Path) -> bool:
    return any(entry.name != LOCK for entry in path.iterdir())


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path} cannot be written: {error.strerror or error}.", hint="Give another --out.")


def _fresh(task: str) -> Path:
    stem = Path("runs") / f"tune-{task}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
