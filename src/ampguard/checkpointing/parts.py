"""The two files of a checkpoint: tensors of the model that any tool can read, and everything else.

`model.safetensors` holds weights and buffers; a tied weight is stored once, under the first of its names, and the
other names stand in the file's metadata ("aliases"), from which loading gives the whole state_dict back. What that
format cannot hold (sparse and complex tensors, tensor subclasses, a module's extra state) stands with the rest.

`state.pt` is written by `torch.save` and read back with `weights_only=True`, which builds tensors and plain
containers and calls nothing else. A state that could not be read back so is refused when it is saved, not when it is
needed. There is no other way in.

Tensors are read to the CPU; `load_state_dict` of their owners takes them to their devices.
"""

import errno
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from ampguard.checkpointing.durable import sync_file
from ampguard.checkpointing.manifest import DamagedError
from ampguard.errors import CheckpointError

MODEL: Final = "model.safetensors"
STATE: Final = "state.pt"

_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
"""Dtypes that every supported safetensors (>= 0.5) can hold. Source: safetensors.torch._TYPES."""

_MALFORMED = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    AssertionError, ArithmeticError, MemoryError, SafetensorError,
)  # fmt: skip
"""What the two readers raise on content that neither of our writers made."""


def write_parts(folder: Path, state: Mapping[str, Any]) -> None:
    """Write and sync both files of `state` into `folder`.

    Args:
        folder: An existing, empty folder.
        state: "model", a state_dict, and anything else that `torch.load(weights_only=True)` accepts.

    Raises:
        OSError: The disk is full or fails.
        CheckpointError: `state` holds an object that could not be read back safely.

    Sync: copies every tensor to the host.
    """
    storable = {key: value.detach() for key, value in state["model"].items() if _is_storable(value)}
    rest = {key: value for key, value in state["model"].items() if key not in storable}
    try:
        _write_model(folder / MODEL, storable)
        _write_state(folder / STATE, {**state, "model": rest})
    except (RuntimeError, SafetensorError) as error:
        if disk_error := _disk_error(error):
            raise disk_error from error
        raise
    _refuse_unsafe(folder / STATE)


def read_parts(folder: Path) -> dict[str, Any]:
    """Return the state whose files lie in `folder`; they have been verified against their manifest.

    Raises:
        DamagedError: A file is not what our writers make, or asks to run code; nothing of it has been run.
    """
    name = MODEL
    try:
        model = _read_model(folder / MODEL)
        name = STATE
        state = _read_state(folder / STATE)
        return {**state, "model": {**model, **state["model"]}}
    except pickle.UnpicklingError as error:
        raise DamagedError(folder, f"{name} holds objects that a safe load refuses ({_first_line(error)})") from error
    except _MALFORMED as error:
        raise DamagedError(folder, f"{name} is malformed ({_first_line(error)})") from error


def _is_storable(value: object) -> bool:
    """Say whether safetensors can hold `value` and give it back as it was."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter, nn.Buffer)
        and value.layout == torch.strided
        and value.device.type != "meta"
        and value.dtype in _DTYPES
    )


def _write_model(path: Path, tensors: Mapping[str, Tensor]) -> None:
    names: dict[object, str] = {}
    aliases = {}
    for key, tensor in tensors.items():
        first = names.setdefault(_identity(key, tensor), key)
        if first != key:
            aliases[key] = first
    stored = {key: tensor.contiguous() for key, tensor in tensors.items() if key not in aliases}
    save_file(_apart(stored), path, metadata={"format": "pt", "aliases": json.dumps(aliases)})
    # safetensors makes its file for the owner alone; the folder's own mode, from the umask, says who may read.
    path.chmod(path.parent.stat().st_mode & 0o666)
    sync_file(path)


def _identity(key: str, tensor: Tensor) -> object:
    """Return equal values for two names of the same elements; an empty tensor is only itself."""
    if not tensor.numel():
        return key
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clone those that overlap with another in memory, which safetensors refuses; disjoint slices stay as they are."""
    apart = dict(tensors)
    ends: dict[torch.device, int] = {}
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        if tensor.numel() and tensor.data_ptr() < ends.get(tensor.device, 0):
            apart[key] = tensor.clone()
        elif tensor.numel():
            ends[tensor.device] = tensor.data_ptr() + tensor.nbytes
    return apart


def _read_model(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        aliases = json.loads(file.metadata()["aliases"])
    return {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _not_storable(str(error)) from error
    sync_file(path)


def _read_state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        # torch.load would also take bare pickles and tar files, its formats of old; our writer makes neither.
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("it is not an archive of torch.save")
        file.seek(0)
        return dict(torch.load(file, map_location="cpu", weights_only=True))


def _refuse_unsafe(path: Path) -> None:
    """Refuse now what a safe load would refuse later, when the state is needed."""
    unsafe = get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise _not_storable(f"it holds {', '.join(sorted(unsafe))}")


def _not_storable(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the state cannot be saved: {reason}.",
        hint="A checkpoint takes tensors, numbers, strings, None, and dicts, lists and tuples of them.",
    )


def _disk_error(error: BaseException) -> OSError | None:
    """Return the OSError behind an error of a writer, if there is one.

    torch raises a RuntimeError in whose context the OSError of the file stands; safetensors tells the errno as text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__context__
    code = re.search(r"\(os error (\d+)\)", str(error))
    if code:
        return OSError(int(code[1]), str(error))
    return OSError(errno.EIO, str(error)) if "I/O error" in str(error) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
