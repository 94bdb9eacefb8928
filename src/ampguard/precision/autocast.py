"""How a policy reaches torch: a context around each forward, and a switch of the float32 math mode.

Left out: the loss scale (the engine's), per-module overrides (overrides.py), and the dtype of the weights (the
caller's `.to`).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from ampguard.precision.policy import Policy

MathMode = Literal["tf32", "ieee", "unchanged"]


def autocast(policy: Policy, device_type: str) -> AbstractContextManager[object]:
    """Return a new context for one forward; fp32 and tf32 get an empty one.

    bf16-true autocasts too: its weights are bf16 already, and inputs arrive in float32.

    Args:
        policy: What to compute in.
        device_type: As `torch.device.type` names it.

    Sync: none.
    """
    if not policy.autocasts:
        return nullcontext()
    return torch.autocast(device_type, dtype=policy.compute_dtype)


def enable_tf32(policy: Policy, device: torch.device) -> MathMode:
    """Set the float32 math mode of matrix products, convolutions and RNNs, for the whole process.

    tf32 turns it on. fp32 turns it *off*, so that an fp32 baseline is one (torch allows tf32 in convolutions by
    default); call it for an fp32 that somebody asked for, not for one that nobody chose. Other precisions, and
    devices other than CUDA and ROCm, are left as they are.

    torch >= 2.9 has a new switch (`fp32_precision`) beside the old one (`allow_tf32`), and its readers raise when the
    two disagree; torch.compile is one of those readers. The old switch is therefore set first, as it sets both,
    and the new one says the same again: a plain "off" of the old one lets convolutions inherit tf32.

    Returns:
        The mode that now holds, "unchanged" where nothing was set.

    Sync: none.
    Source: torch aten/src/ATen/Context.cpp, setAllowTF32CuBLAS and allowTF32CuBLAS; pytorch issues 166387, 179445.
    """
    if device.type != "cuda" or policy.name not in ("fp32", "tf32"):
        return "unchanged"
    mode: MathMode = "tf32" if policy.name == "tf32" else "ieee"
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    with _old_switch_unannounced():
        matmul.allow_tf32 = cudnn.allow_tf32 = mode == "tf32"
    for switch in _new_switches():
        switch.fp32_precision = mode
    return mode


@contextmanager
def kept_math_mode(device: torch.device) -> Iterator[None]:
    """Put what `enable_tf32` switches for a device back as it was found. Sync: none."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    # Setting the old switch of products also sets that of the CPU's library.
    new = [(switch, switch.fp32_precision) for switch in [*_new_switches(), *_cpu_switches()]]
    with _old_switch_unannounced():
        products, convolutions = _told(torch.get_float32_matmul_precision), _told(lambda: cudnn.allow_tf32)
    try:
        yield
    finally:
        with _old_switch_unannounced():
            if products is not None:
                torch.set_float32_matmul_precision(products)
            if convolutions is not None:
                cudnn.allow_tf32 = convolutions
        for switch, mode in new:
            switch.fp32_precision = mode


def _new_switches() -> list[Any]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    return [matmul, cudnn.conv, cudnn.rnn] if hasattr(matmul, "fp32_precision") else []


def _cpu_switches() -> list[Any]:
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    return [matmul] if hasattr(matmul, "fp32_precision") else []


def _told(read: Callable[[], Any]) -> Any:
    """Return what an old switch reads; None where it disagrees with the new one, and its reader raises."""
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _old_switch_unannounced() -> Iterator[None]:
    """Leave out what torch 2.9 and 2.10 announce: that the old switch will go."""
    with warnings.catch_warnings():
        # Not setting the old switch at all is what breaks torch.compile there.
        warnings.filterwarnings(
            "ignore", message="Please use the new API settings to control TF32", category=UserWarning
        )
        yield
