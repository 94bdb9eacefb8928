"""What a bit-exact resume depends on beside the state: torch, threads and the kind of machine.

Sums are split over threads and vector lanes, and kernels change between releases: with another value the resumed run
is as good, and no longer the same bit for bit. So a difference warns and never refuses.
"""

import logging
from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn

_log = logging.getLogger("ampguard.checkpointing")

Environment = dict[str, str | int]


def describe_environment(model: nn.Module) -> Environment:
    """Return what the numbers of a run of `model` depend on, as plain values."""
    tensor = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": tensor.device.type,
        "device_name": _device_name(tensor.device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def warn_of_differences(saved: Mapping[str, object], present: Environment) -> None:
    """Log one WARNING that names every recorded value that is another one here."""
    changes = [
        f"{key} {saved[key]!r} -> {value!r}" for key, value in present.items() if key in saved and saved[key] != value
    ]
    if changes:
        _log.warning(
            "The checkpoint was written elsewhere: %s. The run goes on as well, but is no longer promised to be "
            "bit for bit the one that was interrupted.",
            ", ".join(changes),
        )


def _device_name(device: torch.device) -> str:
    """Return the accelerator's model, or for a CPU the vector instructions that torch's kernels use on it."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(device)) if name else device.type
