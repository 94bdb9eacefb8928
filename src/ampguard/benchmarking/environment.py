"""What the figures of a bench depend on beside the model: versions, switches, clocks; None where it cannot be read."""

import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ampguard.training.config import TrainConfig

_CPUINFO = Path("/proc/cpuinfo")


def environment(config: TrainConfig, device: torch.device, *, baseline: str) -> dict[str, Any]:
    """Return the settings of a bench, plain JSON values.

    `tf32` is that of the baseline: ampguard turns it off for an fp32 that is asked for by name.
    """
    driver, clocks = _gpu_facts(device) if device.type == "cuda" else (None, _cpu_clock())
    return {
        "tf32": baseline == "tf32",
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "compile": config.compile,
        "torch": torch.__version__,
        "driver": driver,
        "cuda": torch.version.cuda,
        "clocks_mhz": clocks,
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "batch_size": config.batch_size,
        "micro_batch_size": config.micro_batch_size,
    }


def _cpu_clock() -> float | None:
    """Return the median clock of all cores as the system tells it now."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return median(clocks) if clocks else None


def _gpu_facts(device: torch.device) -> tuple[str | None, float | None]:
    """Return (driver version, clock of the multiprocessors) as nvidia-smi tells them."""
    # By its uuid: CUDA_VISIBLE_DEVICES may have numbered the devices anew.
    number = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={number}", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        driver, clock = done.stdout.strip().split(",")
        return driver.strip(), float(clock)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None
