"""The state of every random number generator that a training run draws from.

Python's `random`, numpy's global generator, torch's on the CPU and on every device of the accelerator; as tensors and
plain numbers, so that a checkpoint holds them without a pickle that calls anything.

Left out: generators that somebody owns (`torch.Generator`, `numpy.random.default_rng`): their owner saves them.
"""

import logging
import random
from typing import Any

import torch

_log = logging.getLogger("ampguard.checkpointing")


def capture_rng() -> dict[str, Any]:
    """Return the state of all generators.

    Returns:
        "python", "torch", and where they are in use "numpy" and "device"; tensors on the CPU.

    Sync: none on a CPU; reads each accelerator's generator, which lives on the host.
    """
    return {
        "python": _capture_python(),
        "torch": torch.get_rng_state(),
        **_capture_numpy(),
        **_capture_device(),
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set all generators to `state`, as `capture_rng` returned it.

    A generator that this process lacks (numpy not installed, another accelerator) is skipped with a WARNING.
    """
    _restore_python(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        _restore_numpy(state["numpy"])
    if "device" in state:
        _restore_device(state["device"])


def _capture_python() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}


def _restore_python(state: dict[str, Any]) -> None:
    random.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))


def _capture_numpy() -> dict[str, Any]:
    try:
        import numpy as np
    except ImportError:
        return {}
    state = np.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        _log.warning(
            "numpy's global generator is %s; only MT19937 is saved, so a resumed run draws other numbers from it.",
            state["bit_generator"],
        )
        return {}
    words = torch.tensor(state["state"]["key"].tolist(), dtype=torch.int64)
    plain = {"position": state["state"]["pos"], "has_gauss": state["has_gauss"], "gauss": state["gauss"]}
    return {"numpy": {"words": words, **plain}}


def _restore_numpy(state: dict[str, Any]) -> None:
    try:
        import numpy as np
    except ImportError:
        _log.warning("The checkpoint holds a numpy generator, and numpy is not installed here; it is skipped.")
        return
    words = np.array(state["words"].tolist(), dtype=np.uint32)
    np.random.set_state(("MT19937", words, state["position"], state["has_gauss"], state["gauss"]))


def _capture_device() -> dict[str, Any]:
    """Return the generators of the accelerator's devices; none for one that this process has not used."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return {}
    module = torch.get_device_module(accelerator)
    # Asking an unused accelerator would start it: hundreds of MiB for a run that lives on the CPU.
    if not getattr(module, "is_initialized", lambda: True)():
        return {}
    every = getattr(module, "get_rng_state_all", None)
    states = every() if every else [module.get_rng_state()]
    return {"device": {"kind": accelerator.type, "states": [state.cpu() for state in states]}}


def _restore_device(saved: dict[str, Any]) -> None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != saved["kind"]:
        _log.warning("The checkpoint holds generators of %s, which this machine lacks; skipped.", saved["kind"])
        return
    module = torch.get_device_module(accelerator)
    count, states = torch.accelerator.device_count(), saved["states"]
    if len(states) != count:
        _log.warning("The checkpoint holds generators of %d devices, this machine has %d.", len(states), count)
    if hasattr(module, "set_rng_state_all"):
        module.set_rng_state_all(states[:count])
    else:
        module.set_rng_state(states[0])
