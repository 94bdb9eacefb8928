"""The run folder: made once, locked while a run writes, readable without ampguard."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from ampguard.errors import RunFolderError
from ampguard.records import SCHEMA, RunRecord
from ampguard.run_folder import read_run

RUNS = Path("runs")
_UNFINISHED = ("interrupted", "preempted", "failed", "running")


class RunFolder:
    """One run's folder, locked by this process until `close`.

    Args:
        path: The folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"run folder {path} is in use by another process.", hint="Wait for it, or give another --out."
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"run folder {path} cannot be written: {error}.", hint="Give another --out."
            ) from error

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints stand."""
        return self.path / "checkpoints"

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write run.toml: config, Task, precision, device, versions."""
        self._write("run.toml", tomli_w.dumps({"schema": SCHEMA, **facts, "versions": versions()}))

    def write_record(self, record: RunRecord) -> None:
        """Write run.json: the result."""
        self._write("run.json", json.dumps(record.as_dict(), indent=1) + "\n")

    def _write(self, name: str, text: str) -> None:
        part = self.path / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.path / name)

    def close(self) -> None:
        """Release the folder."""
        self._lock.release()


def fresh_path(task: str) -> Path:
    """Return runs/<task>-<time>, with -2, -3 ... when taken; a Task's name loses what a folder's cannot hold."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]+', "-", task)[:60].lstrip(".") or "run"
    stem = f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, number = RUNS / stem, 1
    while path.exists():
        number += 1
        path = RUNS / f"{stem}-{number}"
    return path


def newest_unfinished(task: str) -> Path | None:
    """Return the newest folder under runs/ of an unfinished run of this Task, or None."""
    for path in sorted(RUNS.glob("*/run.toml"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            facts = read_run(path.parent)
        except RunFolderError:
            continue
        if facts["task"]["name"] == task and _status(path.parent) in _UNFINISHED:
            return path.parent
    return None


def _status(path: Path) -> str:
    try:
        return str(json.loads((path / "run.json").read_text())["status"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return "running"


def versions() -> dict[str, str]:
    """Return what the run was made with: python, packages, platform, and the git commit of the working folder."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("ampguard", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    commit = _git_commit()
    return found | ({"git_commit": commit} if commit else {})


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
