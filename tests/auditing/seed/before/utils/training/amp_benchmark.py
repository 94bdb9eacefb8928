"""Is mixed precision worth it here? Trains one model in float32 and in fp16, and compares time, memory and loss.

The two runs start from the same weights and see the same batches. The comparison is honest about what it is: one
run each, on one machine, so that a speed-up of a few percent may be chance.
"""

from __future__ import annotations

import copy
import gc
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from utils.tier3_training_utilities import TrainingConfig, fine_tune

BYTES_PER_MIB = 1024**2
WARM_UP_EPOCHS = 1


def benchmark_amp(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    use_wandb: bool = False,
) -> dict[str, Any]:
    """Compare float32 with mixed precision on one model.

    Float32 is measured first, then fp16, each after the allocator's records are cleared.

    Args:
        model: The model to measure; copies of it are trained, the model itself is not changed.
        dataset: Sequences of token ids.
        config: Settings of both runs.
        use_wandb: Send the comparison to the active W&B run.

    Returns:
        The results of both runs, the speed-up, the memory saved in percent and the difference of the losses; without
        a GPU a dictionary whose "error" says so.
    """
    config = config or TrainingConfig(epochs=2)

    if not torch.cuda.is_available():
        print("⚠️ CUDA not available, AMP benchmark requires GPU")
        return {
            "error": "CUDA not available",
            "fp32_results": None,
            "fp16_results": None,
            "speedup": None,
        }

    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    if gpu.major < 7:
        print(f"{gpu.name} has no tensor cores: fp16 saves memory there, and hardly any time")

    print(f"comparing float32 with fp16 on {gpu.name}, {config.epochs} epochs each")
    warm_up = _warm_up(model, dataset, config)
    if warm_up is not None:
        return {
            "error": warm_up,
            "fp32_results": None,
            "fp16_results": None,
            "speedup": None,
        }

    # Both runs start from these weights. They wait on the host, where they take no GPU memory of either run.
    weights = copy.deepcopy(model).cpu()
    size = sum(p.numel() for p in weights.parameters())
    print(f"  {size:,} parameters, batches of {config.batch_size}")

    # Kernels run behind the host: without a wait the clock would stop before the work has.
    print("measuring float32")
    _forget()
    fp32_model = copy.deepcopy(weights)
    torch.cuda.synchronize()
    fp32_start = time.perf_counter()
    fp32_results = fine_tune(fp32_model, dataset, _settings(config, "fp32", use_amp=False))
    torch.cuda.synchronize()
    fp32_time = time.perf_counter() - fp32_start
    fp32_memory = torch.cuda.max_memory_allocated() / BYTES_PER_MIB
    print(f"  {fp32_time:.1f} s, peak {fp32_memory:.0f} MiB")
    del fp32_model

    print("measuring fp16")
    _forget()
    fp16_model = copy.deepcopy(weights)
    torch.cuda.synchronize()
    fp16_start = time.perf_counter()
    fp16_results = fine_tune(fp16_model, dataset, _settings(config, "fp16", use_amp=True))
    torch.cuda.synchronize()
    fp16_time = time.perf_counter() - fp16_start
    fp16_memory = torch.cuda.max_memory_allocated() / BYTES_PER_MIB
    print(f"  {fp16_time:.1f} s, peak {fp16_memory:.0f} MiB")
    del fp16_model

    if not fp16_results["amp_enabled"]:
        print("⚠️ The second run was not in mixed precision either")
        return {
            "error": "mixed precision was not used",
            "fp32_results": fp32_results,
            "fp16_results": fp16_results,
            "speedup": None,
        }

    # A speed-up above 1 means that mixed precision is faster. Below it, the casts cost more than the tensor cores
    # win, as they do for small models and small batches. A negative reduction means that it needs more memory: the
    # weights stay in float32, and their fp16 copies come on top. The difference of the losses is below 0 where the
    # mixed run is the better one; two runs in one precision differ too, so that small values say nothing.
    # All three are of one run each.
    speedup = fp32_time / fp16_time
    memory_reduction = ((fp32_memory - fp16_memory) / fp32_memory) * 100
    loss_difference = fp16_results["best_val_loss"] - fp32_results["best_val_loss"]

    comparison = {
        "fp32_results": fp32_results,
        "fp16_results": fp16_results,
        "fp32_time_s": fp32_time,
        "fp16_time_s": fp16_time,
        "fp32_memory_mib": fp32_memory,
        "fp16_memory_mib": fp16_memory,
        "speedup": speedup,
        "memory_reduction_pct": memory_reduction,
        "loss_difference": loss_difference,
        "gpu": gpu.name,
        "epochs": config.epochs,
    }
    for line in summary(comparison):
        print(line)
    if use_wandb:
        _log_to_wandb(comparison)
    return comparison


def summary(comparison: dict[str, Any]) -> list[str]:
    """Return a comparison as lines of text.

    Args:
        comparison: What `benchmark_amp` returned, without an error.
    """
    return [
        f"time: {comparison['fp32_time_s']:.1f} s in float32, {comparison['fp16_time_s']:.1f} s in fp16",
        f"speed-up: {comparison['speedup']:.2f}x",
        f"memory: {comparison['memory_reduction_pct']:.0f} % less",
        f"validation loss: {comparison['loss_difference']:+.4f}",
        f"measured on {comparison['gpu']} over {comparison['epochs']} epochs, one run each",
    ]


def _log_to_wandb(comparison: dict[str, Any]) -> None:
    """Send the numbers of a comparison to the active W&B run.

    Without a run, or when W&B fails, the comparison is still printed and returned.

    Args:
        comparison: What `benchmark_amp` returned, without an error.
    """
    try:
        import wandb
        if wandb.run is not None:
            wandb.log(
                {
                    "benchmark/speedup": comparison["speedup"],
                    "benchmark/memory_reduction_pct": comparison["memory_reduction_pct"],
                    "benchmark/fp32_time_s": comparison["fp32_time_s"],
                    "benchmark/fp16_time_s": comparison["fp16_time_s"],
                    "benchmark/loss_difference": comparison["loss_difference"],
                    "benchmark/epochs": comparison["epochs"],
                }
            )
            print("  📊 Benchmark metrics logged to W&B")
    except Exception as e:
        import logging
        logging.warning(f"Failed to log benchmark to W&B: {e}")
        print(f"  ⚠️ Failed to log benchmark to W&B: {e}")


def _settings(config: TrainingConfig, name: str, *, use_amp: bool) -> TrainingConfig:
    """Return the settings of one of the two runs, each with a folder of its own."""
    return replace(config, use_amp=use_amp, output_dir=f"{config.output_dir}-{name}")


def _forget() -> None:
    """Give memory back and start its record anew, so that
    the second run does not see the first one's peak.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _warm_up(model: nn.Module, dataset: Dataset, config: TrainingConfig) -> str | None:
    """Train a copy for one epoch that is not measured; return why the benchmark cannot go on, or None.

    The first epoch on a GPU loads kernels and fills the allocator's cache, which would count against float32.
    """
    try:
        settings = _settings(replace(config, epochs=WARM_UP_EPOCHS), "warm-up", use_amp=False)
        fine_tune(copy.deepcopy(model), dataset, settings)
    except torch.OutOfMemoryError as error:
        print(f"⚠️ The model does not fit into memory with batch size {config.batch_size}: {error}")
        return "out of memory"
    return None
