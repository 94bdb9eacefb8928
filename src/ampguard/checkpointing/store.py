"""The checkpoints of a run on disk: written atomically, verified before use, the old ones removed.

    checkpoints/step-00000120/model.safetensors, state.pt, manifest.json
    checkpoints/latest, checkpoints/best          text files that name a step folder

A checkpoint is written under a temporary name in the same folder, synced file by file, then renamed, and the folder
is synced: at every instant, a power cut included, a step folder is whole or not there. One that has the same step is
first renamed to `step-00000120.replaced`, which counts as that checkpoint until the new one stands: there is no
moment without a valid one.

A run has one history. Saving step s removes what lies past s: those steps belong to a history that the run left when
it went back to an older checkpoint, because the newer were damaged.

Saving is synchronous: when `save` returns, the state is on the disk, so nothing has to be cloned for it. Not here: two
processes in one folder (the run folder's lock), sharded checkpoints.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ampguard.checkpointing.durable import WRITING, sync_folder, write_text
from ampguard.checkpointing.manifest import DamagedError, check_manifest, write_manifest
from ampguard.checkpointing.parts import MODEL, STATE, read_parts, write_parts
from ampguard.errors import CheckpointError, ConfigError

_log = logging.getLogger("ampguard.checkpointing")

_STEP_FOLDER = re.compile(r"step-(\d{8,})(\.replaced)?")
_REPLACED = ".replaced"
_PARTS = (MODEL, STATE)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A checkpoint that could not be used."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint that was verified and read."""

    step: int
    state: dict[str, Any]
    """What was given to `save`, tensors on the CPU."""
    path: Path
    rejected: tuple[Rejected, ...]
    """Newer ones that could not be used, newest first."""


class CheckpointStore:
    """The checkpoints in one folder.

    Args:
        folder: `runs/<name>/checkpoints`; made at the first save.
        keep: Number of newest checkpoints that stay beside the best one, >= 1. 2: when the newest turns out damaged
            there is another.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}; a run keeps at least 1 checkpoint.", hint="2 or more is safer.")
        self.folder = folder
        self.keep = keep
        self._rejected: dict[Path, str] = {}

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The checkpoints that the last `newest_valid` rejected, newest first."""
        return tuple(Rejected(path=path, reason=reason) for path, reason in self._rejected.items())

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, valid or not, in ascending order."""
        return sorted({step for step, _ in self._candidates()})

    def pointed(self, name: Literal["latest", "best"]) -> Path | None:
        """Return the checkpoint that `latest` or `best` names; None if it names none that exists."""
        try:
            path = self.folder / (self.folder / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return path if path.parent == self.folder and _STEP_FOLDER.fullmatch(path.name) and path.is_dir() else None

    def save(self, step: int, state: Mapping[str, Any], *, best: bool = False) -> Path:
        """Write a checkpoint, durably, then remove those that are no longer kept.

        Args:
            step: Ordinal of the last attempted step in it, >= 0.
            state: As `collect` returns it; "model" is a state_dict.
            best: Also let `best` name it.

        Returns:
            Its folder.

        Raises:
            OSError: The disk is full, read-only or fails. What was valid before is valid still; call again later.
            CheckpointError: `state` holds an object that could not be read back safely.

        Sync: copies every tensor to the host and waits for the disk.
        """
        if step < 0:
            raise CheckpointError(f"a checkpoint of step {step} was asked for; steps count from 0.")
        self._prepare()
        final = self._path(step)
        temporary = self.folder / f"{WRITING}{final.name}"
        try:
            temporary.mkdir()
            write_parts(temporary, state)
            write_manifest(temporary, step=step, names=_PARTS)
            sync_folder(temporary)
            self._publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for name in ("latest", "best") if best else ("latest",):
            write_text(self.folder / name, f"{final.name}\n")
        self._prune(step)
        return final

    def load(self, which: int | Path) -> dict[str, Any]:
        """Return the state of a checkpoint, after every byte of it has been verified.

        Args:
            which: A step of this store, or the folder of any checkpoint.

        Returns:
            What was given to `save`, tensors on the CPU.

        Raises:
            CheckpointError: It is missing, damaged, malicious or of a newer schema. No code of it has been run.
        """
        path = self._existing(which) if isinstance(which, int) else which
        check_manifest(path, names=_PARTS)
        return read_parts(path)

    def newest_valid(self) -> Loaded | None:
        """Return the newest checkpoint that is sound, and tell which were rejected and why; None: there is none.

        Raises:
            CheckpointError: The newest sound one is of a newer schema; falling back from it would lose work.
        """
        self._rejected = {}
        for step, path in self._candidates():
            try:
                state = self.load(path)
            except DamagedError as error:
                _log.warning("%s", error)
                self._rejected[path] = error.reason
            else:
                return Loaded(step=step, state=state, path=path, rejected=self.rejected)
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _existing(self, step: int) -> Path:
        for candidate, path in self._candidates():
            if candidate == step:
                return path
        raise CheckpointError(
            f"{self.folder} has no checkpoint of step {step}.",
            allowed=map(str, self.steps()),
            hint="Name a step that it has, or take the newest valid one.",
        )

    def _candidates(self) -> list[tuple[int, Path]]:
        """Return (step, folder), newest first; one that is being replaced comes after the one that replaces it."""
        found = []
        for path in self.folder.glob("step-*"):
            named = _STEP_FOLDER.fullmatch(path.name)
            if named:
                found.append((int(named[1]), not named[2], path))
        return [(step, path) for step, _, path in sorted(found, reverse=True)]

    def _prepare(self) -> None:
        """Make the folder, and clear away what a process that was killed left in it."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)
        for litter in self.folder.glob(f"{WRITING}*"):
            _log.info("Removing %s, left by an interrupted save.", litter)
            _remove(litter)
        for _, path in self._candidates():
            standing = path.with_suffix("")
            if path.suffix == _REPLACED and not standing.exists():
                path.rename(standing)

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give a complete checkpoint its name, durably; an older one of the same step stands aside until then."""
        if final in self._rejected:
            self._discard(final)
        elif final.exists():
            aside = final.with_suffix(_REPLACED)
            if aside.exists():
                self._discard(aside)
            final.rename(aside)
        temporary.rename(final)
        sync_folder(self.folder)
        self._rejected.pop(final, None)

    def _prune(self, step: int) -> None:
        """Remove all but the newest `keep` and the best of the history that ends at `step`."""
        history = [
            path
            for past, path in self._candidates()
            if past <= step and path not in self._rejected and path.suffix != _REPLACED
        ]
        best = self.pointed("best")
        kept = {*history[: self.keep], *(path for path in history if path == best)}
        try:
            for _, path in self._candidates():
                if path not in kept:
                    self._discard(path)
            if best not in kept:
                (self.folder / "best").unlink(missing_ok=True)
        except OSError as error:
            _log.warning("Old checkpoints in %s could not be removed: %s.", self.folder, error)

    def _discard(self, path: Path) -> None:
        """Remove a checkpoint so that a kill half-way leaves litter of ours, not a checkpoint that looks damaged."""
        litter = path.rename(self.folder / f"{WRITING}discarded-{path.name}")
        _remove(litter)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
