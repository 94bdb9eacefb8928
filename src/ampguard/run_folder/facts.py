"""`run.toml` and `run.json`: what a run is, and what came of it."""

import json
import tomllib
from pathlib import Path
from typing import Any

from ampguard.errors import RunFolderError
from ampguard.records import SCHEMA


def read_run(path: Path) -> dict[str, Any]:
    """Return run.toml of a run folder.

    Raises:
        RunFolderError: It is missing, damaged, or of a newer schema.
    """
    file = path / "run.toml"
    try:
        facts = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{path} is no run folder: it has no run.toml.", hint="Give a folder under runs/."
        ) from None
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{file} is damaged: {error}.") from error
    return _checked(facts, path)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return run.json of a run folder; None where none can be read: the run goes on, was killed, or it is damaged.

    Raises:
        RunFolderError: It is of a newer schema.
    """
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return _checked(record, path) if isinstance(record, dict) else None


def _checked(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    if facts.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{path} has schema {facts.get('schema')}; this version reads {SCHEMA}.",
            hint="Read it with the version of ampguard that wrote it, or a newer one.",
        )
    return facts
