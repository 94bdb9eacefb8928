"""A replay bundle on disk: one step that was not finite, with what it takes to run it again.

    replay/step-00000120/bundle.json           what happened, and everything that is no tensor
    replay/step-00000120/batch.safetensors     the tensors of its batch
    replay/step-00000120/state/step-00000119/  a checkpoint to start from, where it fits into the size limit

Nothing here is a pickle: reading a bundle runs no code of it. The batch's tensors carry a SHA-256 in bundle.json. A
bundle is written under a temporary name, synced, and renamed: it is whole or not there. A batch that is over the limit
or cannot be kept is left out, with the reason; the Task gives it again by its (epoch, position).

Left out: what the facts mean (training), and how the step is run again.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ampguard.errors import InputError
from ampguard.health.batch_tree import Flat, TreeError, flatten, unflatten

SCHEMA: Final = 1
"""Version of the layout of a bundle."""

BUNDLE: Final = "bundle.json"
BATCH: Final = "batch.safetensors"
STATE: Final = "state"

_WRITING = ".writing-"
_MEBIBYTE = 2**20


class BundleError(InputError):
    """A folder is no replay bundle, is damaged, or was written by a newer ampguard."""

    kind = "bundle"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and found whole."""

    path: Path
    step: int
    """The step that was not finite, from 1."""
    facts: Mapping[str, Any]
    """What the run wrote down: event, epoch, position, precision, loss_scale, task, config, state, rng, versions."""
    absent: str
    """Why there is no batch in it; "" where there is one."""

    def batch(self) -> Any:
        """Return the batch, its tensors on the CPU.

        Raises:
            TreeError: It is not kept here, or its structure is damaged, or of a class that is not loaded.
        """
        if self.absent:
            raise TreeError(f"the batch is not in the bundle: {self.absent}.")
        return unflatten(self.facts["batch"]["tree"], _read_tensors(self.path / BATCH))

    def fact(self, name: str, kind: type) -> Any:
        """Return one fact, which is of a type.

        Raises:
            BundleError: It is missing, or of another type.
        """
        value = self.facts.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _damaged(self.path, f"{BUNDLE} has no usable {name!r}")
        return value


def bundle_name(step: int) -> str:
    """Return the folder's name of a step's bundle."""
    return f"step-{step:08d}"


def write_bundle(
    folder: Path,
    facts: Mapping[str, Any],
    batch: Callable[[], Any],
    *,
    state: Callable[[Path, int], Mapping[str, Any]],
    limit_bytes: int,
) -> Path:
    """Write a bundle, durably, as a whole or not at all.

    Args:
        folder: The run's `replay`; made if it is missing.
        facts: Plain JSON; "step" names the bundle.
        batch: Returns the batch; what it raises is the reason why there is none.
        state: Keeps a checkpoint in a folder, in so many bytes at most, and returns what to tell of it.
        limit_bytes: Most bytes of batch and checkpoint together.

    Raises:
        OSError: The disk is full or fails; nothing is left behind.

    Sync: copies the batch's tensors to the host.
    """
    final = folder / bundle_name(facts["step"])
    temporary = folder / f"{_WRITING}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        told, used = _write_batch(temporary, batch, limit_bytes)
        kept = dict(state(temporary / STATE, limit_bytes - used))
        _write_json(temporary / BUNDLE, {"schema": SCHEMA, **facts, "state": kept, "batch": told})
        _sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _write_batch(folder: Path, batch: Callable[[], Any], limit_bytes: int) -> tuple[dict[str, Any], int]:
    """Write the batch's tensors; return what bundle.json tells of the batch, and the bytes that were used."""
    try:
        flat = flatten(batch())
    except Exception as error:  # noqa: BLE001 - whatever the data raises costs the batch, and not the run
        return {"stored": False, "reason": f"it could not be read again ({type(error).__name__}: {error})"}, 0
    if flat.nbytes > limit_bytes:
        size, limit = flat.nbytes / _MEBIBYTE, limit_bytes / _MEBIBYTE
        reason = f"it has {size:.1f} MiB, over the limit of {limit:g} MiB for a bundle"
        return {"stored": False, "reason": reason}, 0
    digest = _write_tensors(folder / BATCH, flat)
    told = {"stored": not flat.lost, "tree": flat.tree, "tensors": digest}
    if flat.lost:
        told["reason"] = f"a bundle cannot keep {'; '.join(flat.lost)}"
    return told, flat.nbytes


def _write_tensors(path: Path, flat: Flat) -> dict[str, Any]:
    # Clones: safetensors refuses tensors that share memory.
    tensors = {index: tensor.cpu().contiguous().clone() for index, tensor in flat.tensors.items()}
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)
    _sync(path)
    return _seal(path)


def keep_files(checkpoint: Path, folder: Path, room_bytes: int) -> bool:
    """Keep a checkpoint's files in `folder`, by hard links where the disk has them; return whether they fit.

    Raises:
        OSError: The disk is full or fails.
    """
    if sum(file.stat().st_size for file in checkpoint.iterdir()) > room_bytes:
        return False
    kept = folder / checkpoint.name
    kept.mkdir(parents=True)
    for file in checkpoint.iterdir():
        try:
            os.link(file, kept / file.name)
        except OSError:
            # No hard links on this disk, or not in this folder: a full disk fails here again, aloud.
            shutil.copyfile(file, kept / file.name)
            _sync(kept / file.name)
    return True


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's facts and verify its batch. No code of it is run.

    Args:
        path: Its folder.

    Raises:
        BundleError: It is no bundle, is damaged, or of a newer schema.
    """
    facts = _read_json(path)
    if facts.get("schema") != SCHEMA:
        raise BundleError(
            f"bundle {path} has schema {facts.get('schema')!r}; this ampguard reads schema {SCHEMA}.",
            hint="It was written by a newer ampguard: upgrade with pip install -U ampguard.",
        )
    batch, step = facts.get("batch"), facts.get("step")
    if not isinstance(batch, dict) or not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise _damaged(path, f"{BUNDLE} does not say which step and batch it is of")
    if batch.get("stored") is not True:
        return Bundle(path=path, step=step, facts=facts, absent=str(batch.get("reason") or "it was not kept"))
    if not (path / BATCH).is_file() or _seal(path / BATCH) != batch.get("tensors"):
        raise _damaged(path, f"{BATCH} is missing, or not the file that {BUNDLE} speaks of")
    _read_tensors(path / BATCH)
    return Bundle(path=path, step=step, facts=facts, absent="")


def _read_json(path: Path) -> dict[str, Any]:
    file = path / BUNDLE
    try:
        facts = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{path} is no replay bundle: it has no {BUNDLE}.", allowed=_bundles_under(path),
            hint="Give a folder under runs/NAME/replay/.",
        ) from None  # fmt: skip
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{BUNDLE} is no JSON ({error})") from error
    if not isinstance(facts, dict):
        raise _damaged(path, f"{BUNDLE} is no JSON object")
    return facts


def _bundles_under(path: Path) -> list[str]:
    """Return the bundles of a run folder, or of its `replay`, that was given in their place."""
    return [
        str(file.parent) for pattern in (f"replay/*/{BUNDLE}", f"*/{BUNDLE}") for file in sorted(path.glob(pattern))
    ]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _damaged(path.parent, f"{path.name} is no safetensors file ({error})") from error
    return tensors


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(f"bundle {path} cannot be used: {reason}.", hint="Nothing of it was run. Take another bundle.")


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"length": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
