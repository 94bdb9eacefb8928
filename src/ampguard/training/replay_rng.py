"""Every generator's state at one step, taken in a few microseconds, and kept so that JSON can hold it.

`checkpointing.capture_rng` asks each generator its own way, which takes longer than the step of a small model. Here
the words of Python's and NumPy's generators are copied as memory (`data.host_rng` says where they stand), and equal
words are kept once: most runs draw nothing from them between two steps. NumPy's pending half of a pair of normal draws
is asked for only where there may be one: it appears when the words move. The state of an accelerator's generator is a
seed and an offset on the host; no device is waited for.

Left out: a state of NumPy's with equal words that somebody set with another pending draw, the generators of
devices that the run does not train on, and a generator that somebody gave NumPy in place of its Mersenne Twister.
"""

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ampguard.checkpointing import restore_rng
from ampguard.errors import InputError
from ampguard.training.data.host_rng import WORDS, numpy_bytes, numpy_pending, python_bytes


@dataclass(frozen=True, slots=True)
class HostState:
    """A Mersenne Twister of Python's or NumPy's."""

    words: tuple[int, ...] | bytes
    """Its 624 words; bytes where they were copied as memory."""
    position: int
    pending: float | None
    """Half of a pair of normal draws that was not given out yet."""


@dataclass(frozen=True, slots=True)
class RngState:
    """The generators at one step."""

    cpu: Tensor
    """torch's on the CPU, uint8."""
    python: HostState
    numpy: HostState | None
    device: Tensor | None
    """The training device's, uint8, on the CPU; None on a CPU."""

    def as_dict(self, device: torch.device) -> dict[str, Any]:
        """Return it as plain JSON. device: the training device."""
        kept = {"torch": _hex(self.cpu), "python": _plain(self.python)}
        if self.numpy is not None:
            kept["numpy"] = _plain(self.numpy)
        if self.device is not None:
            kept["device"] = {"kind": device.type, "state": _hex(self.device)}
        return kept


class RngReader:
    """Reads the state of all generators, again and again.

    Args:
        device: The training device.
    """

    def __init__(self, device: torch.device) -> None:
        self._torch = torch.default_generator.get_state
        self._device = _device_reader(device)
        self._python_words = self._numpy_words = b""
        self._python: HostState | None = None
        self._numpy: HostState | None = None

    def read(self) -> RngState:
        """Return the state of now: some 3 us where neither Python's nor NumPy's generator has moved. Sync: none."""
        device = None if self._device is None else self._device()
        return RngState(self._torch(), self._read_python(), self._read_numpy(), device)

    def _read_python(self) -> HostState:
        words, pending = python_bytes()
        if words is None:
            _, numbers, pending = random.getstate()
            return HostState(tuple(numbers[:-1]), numbers[-1], pending)
        if self._python is None or words != self._python_words or pending != self._python.pending:
            self._python_words = words
            # Memory: the position, then the words.
            self._python = HostState(words[4:], int.from_bytes(words[:4], sys.byteorder), pending)
        return self._python

    def _read_numpy(self) -> HostState | None:
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return None
        words = numpy_bytes(numpy.random)
        if words is None:
            return self._ask_numpy(numpy.random)
        if self._numpy is None or words != self._numpy_words or self._numpy.pending is not None:
            self._numpy_words = words
            position = int.from_bytes(words[-4:], sys.byteorder)
            self._numpy = HostState(words[:-4], position, numpy_pending(numpy.random))
        return self._numpy

    def _ask_numpy(self, rng: Any) -> HostState | None:
        """Return NumPy's state as it tells it, which takes longer."""
        state = rng.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            return None
        pending = state["gauss"] if state["has_gauss"] else None
        return HostState(state["state"]["key"].tobytes(), int(state["state"]["pos"]), pending)


def restore_state(kept: Mapping[str, Any], device: torch.device) -> str:
    """Set the generators as `RngState.as_dict` told them; return what could not be set, "" if all could.

    Raises:
        InputError: It is damaged; no generator was set.
    """
    try:
        state = {"torch": _checked(_tensor(kept["torch"])), "python": _python(kept["python"])}
        if "numpy" in kept:
            state["numpy"] = _numpy(kept["numpy"])
        drawn = kept.get("device")
        own = _tensor(drawn["state"]) if drawn is not None and drawn["kind"] == device.type else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise InputError(f"the random number generators' states are damaged ({error}).") from error
    restore_rng(state)
    if own is not None:
        _set_device(own, device)
    there = "cpu" if drawn is None else str(drawn["kind"])
    return "" if there == device.type else f"the generator of {there}, where the run was, is not that of {device.type}"


def _set_device(state: Tensor, device: torch.device) -> None:
    module = torch.get_device_module(device)
    if device.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)


def _device_reader(device: torch.device) -> Callable[[], Tensor] | None:
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    generators = getattr(module, "default_generators", ())
    if not generators:
        read: Callable[[], Tensor] = module.get_rng_state
        return read
    index = module.current_device() if device.index is None else device.index
    get_state: Callable[[], Tensor] = generators[index].get_state
    return get_state


def _plain(state: HostState) -> dict[str, Any]:
    words = state.words
    raw = words if isinstance(words, bytes) else b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    pending = None if state.pending is None else state.pending.hex()
    return {"words": raw.hex(), "byteorder": sys.byteorder, "position": state.position, "pending": pending}


def _words(kept: Mapping[str, Any]) -> list[int]:
    raw, order = bytes.fromhex(kept["words"]), kept["byteorder"]
    if len(raw) != 4 * WORDS or not 0 <= kept["position"] <= WORDS:
        raise ValueError(f"{len(raw)} bytes at position {kept['position']} are no Mersenne Twister")
    return [int.from_bytes(raw[at : at + 4], order) for at in range(0, len(raw), 4)]


def _python(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state as `restore_rng` takes it."""
    words = torch.tensor([*_words(kept), kept["position"]], dtype=torch.int64)
    return {"version": 3, "words": words, "gauss": _pending(kept)}


def _numpy(kept: Mapping[str, Any]) -> dict[str, Any]:
    words, pending = torch.tensor(_words(kept), dtype=torch.int64), _pending(kept)
    return {
        "words": words,
        "position": kept["position"],
        "has_gauss": int(pending is not None),
        "gauss": pending or 0.0,
    }


def _pending(kept: Mapping[str, Any]) -> float | None:
    return None if kept["pending"] is None else float.fromhex(kept["pending"])


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _checked(state: Tensor) -> Tensor:
    """Return the state, if a generator takes it."""
    torch.Generator().set_state(state)
    return state
