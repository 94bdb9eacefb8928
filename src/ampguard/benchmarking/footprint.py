"""Where memory goes: one precision in a fresh process, so that no other's leftovers are counted.

    weights      parameters and buffers
    gradients    of the parameters, after a backward pass
    optimizer    tensors in the optimizer's state
    activations  what autograd keeps from forward to backward: storages that are no weights, each once; copies of
                 weights that autocast makes count here
    workspace    the rest of the peak: temporary results, libraries, fragments

The peak is the allocator's on an accelerator. On a CPU it is the largest resident size of the process over the steps,
less the resident size before the model was made (Linux only; None elsewhere).
"""

import gc
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ampguard.benchmarking.report import Memory

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory of a few training steps, MiB."""

    peak: float | None
    parts: Memory
    reason: str = ""
    """Why the peak is None."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Footprint":
        """Return the footprint that `as_dict` gave."""
        return Footprint(peak=values["peak"], parts=Memory(**values["parts"]), reason=values["reason"])


class PeakMeter:
    """Measures the largest memory between `start` and `peak_mib`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # torch.cuda, torch.xpu ...; torch.mps tells no peak.
        self._allocator: Any = torch.get_device_module(device)
        self._start: float | None = None

    def start(self) -> None:
        """Begin: what is in use now is not counted."""
        gc.collect()
        if self._device.type == "cpu":
            self._start = _resident_mib("VmRSS") if _forget_peak() else None
        elif hasattr(self._allocator, "max_memory_allocated"):
            self._allocator.reset_peak_memory_stats(self._device)
            self._start = self._allocator.memory_allocated(self._device) / MIB

    def peak_mib(self) -> float | None:
        """Return the peak since `start`; None where the system does not tell."""
        if self._start is None:
            return None
        if self._device.type == "cpu":
            peak = _resident_mib("VmHWM")
        else:
            peak = self._allocator.max_memory_allocated(self._device) / MIB
        return None if peak is None else max(0.0, peak - self._start)


def _forget_peak() -> bool:
    """Set the process's largest resident size back to its present one; False where there is no such thing."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident_mib(name: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) / 1024 if found else None


class KeptForBackward:
    """Counts what autograd keeps between forward and backward, while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        weights = [*model.parameters(), *model.buffers()]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._kept: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._known:
                self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def mib(self) -> float:
        """MiB kept so far."""
        return sum(self._kept.values()) / MIB

    def __enter__(self) -> "KeptForBackward":
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()


def size_mib(tensors: Iterable[Tensor | None]) -> float:
    """Return the MiB of tensors, each storage once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values()) / MIB
