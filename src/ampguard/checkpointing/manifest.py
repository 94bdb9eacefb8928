"""The manifest of a checkpoint: which files belong to it, how long they are, and their SHA-256.

`manifest.json` is written last, so that a folder with a manifest is complete, and read first, so that nothing else of
a damaged checkpoint is even opened. It carries the SHA-256 of itself: no bit of a checkpoint can flip unseen.

A checksum tells damage, not malice: whoever can write the files can write the manifest. What keeps a malicious
checkpoint from running code is how its parts are read (see parts.py).
"""

import json
import re
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

from ampguard.checkpointing.durable import sync_file
from ampguard.errors import CheckpointError

SCHEMA: Final = 1
"""Version of the layout of a checkpoint folder."""

MANIFEST: Final = "manifest.json"

_STEP_FOLDER = re.compile(r"step-(\d{8,})")


class DamagedError(CheckpointError):
    """A checkpoint is incomplete, damaged or no checkpoint of ours; an older one may be sound."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {path} cannot be used: {reason}.",
            hint="Nothing of it was loaded. Take another checkpoint of the run, or start a new run.",
        )
        self.reason = reason


class NewerSchemaError(CheckpointError):
    """A checkpoint was written by a newer ampguard: it is sound, and falling back from it would lose work."""

    def __init__(self, path: Path, schema: object) -> None:
        super().__init__(
            f"checkpoint {path} has schema {schema}; this ampguard reads schema {SCHEMA}.",
            hint="It was written by a newer ampguard: upgrade with pip install -U ampguard.",
        )


def write_manifest(folder: Path, *, step: int, names: tuple[str, ...]) -> None:
    """Write and sync `manifest.json` over the files `names` of `folder`, which are complete and synced."""
    files = {name: {"length": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in names}
    path = folder / MANIFEST
    path.write_bytes(_sealed({"schema": SCHEMA, "step": step, "files": files}))
    sync_file(path)


def check_manifest(folder: Path, *, names: tuple[str, ...]) -> int:
    """Verify the manifest of `folder` and, by it, every byte of the files `names`.

    Returns:
        The checkpoint's step.

    Raises:
        DamagedError: A file is missing, unreadable, of another length or content, or the manifest is not ours.
        NewerSchemaError: A newer ampguard wrote it.
    """
    manifest = _read(folder)
    if manifest.get("schema") != SCHEMA:
        raise NewerSchemaError(folder, manifest.get("schema"))
    try:
        step = int(manifest["step"])
        expected = [(name, manifest["files"][name]["length"], manifest["files"][name]["sha256"]) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(folder, f"{MANIFEST} does not list the step and the files of a checkpoint") from error
    named = _STEP_FOLDER.match(folder.name)
    if named and int(named[1]) != step:
        raise DamagedError(folder, f"{MANIFEST} speaks of step {step}")
    for name, length, digest in expected:
        _check_file(folder, name, length=length, digest=digest)
    return step


def _read(folder: Path) -> dict[str, Any]:
    """Return the manifest's content once its own checksum holds."""
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DamagedError(folder, f"{MANIFEST} is missing, so it is incomplete or not a checkpoint") from None
    except OSError as error:
        raise DamagedError(folder, f"{MANIFEST} cannot be read ({error})") from error
    try:
        content = json.loads(raw)
        content.pop("manifest_sha256")
        intact = raw == _sealed(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(folder, f"{MANIFEST} is damaged or not ours") from error
    if not intact:
        raise DamagedError(folder, f"{MANIFEST} does not match its own SHA-256")
    return dict(content)


def _sealed(content: dict[str, Any]) -> bytes:
    """Return the one spelling of `content`, its SHA-256 included."""
    seal = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "manifest_sha256": seal}, sort_keys=True, indent=1) + "\n").encode()


def _check_file(folder: Path, name: str, *, length: int, digest: str) -> None:
    path = folder / name
    try:
        found = path.stat().st_size
        if found != length:
            raise DamagedError(folder, f"{name} has {found} bytes instead of {length}")
        if _digest(path) != digest:
            raise DamagedError(folder, f"{name} does not match its SHA-256")
    except FileNotFoundError:
        raise DamagedError(folder, f"{name} is missing") from None
    except OSError as error:
        raise DamagedError(folder, f"{name} cannot be read ({error})") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
