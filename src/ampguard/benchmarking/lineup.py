"""Who takes part: the Task, how it is trained, and which precisions this device can run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ampguard.benchmarking.config import BenchConfig
from ampguard.errors import ConfigError, PrecisionError
from ampguard.hardware import Hardware, Support, inspect, pick_device
from ampguard.precision import Decision, resolve
from ampguard.precision.names import AUTO, canonical
from ampguard.precision.policy import IMPLEMENTED
from ampguard.task import Task
from ampguard.training.config import TrainConfig, make_config
from ampguard.training.data import open_train_data
from ampguard.training.setup import check_sizes


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """What is compared."""

    task: Task
    training: TrainConfig
    """Its batch size is what the data gives, where nobody asked."""
    ready_made: bool
    """Whether the data comes in batches of its own size."""
    baseline: str
    decisions: Mapping[str, Decision]
    """Precisions that run, by name."""
    unsupported: Mapping[str, str]
    """Why a precision cannot run here, by name."""
    emulated: frozenset[str]
    """Those of `decisions` that the device has no instructions for."""
    device: torch.device
    hardware: Hardware

    @property
    def device_word(self) -> str:
        """The kind of device, as people call it."""
        return "CPU" if self.device.type == "cpu" else "GPU"


def settled(config: BenchConfig) -> BenchConfig:
    """Return the config with precisions by their canonical names, the baseline first, each once.

    Raises:
        PrecisionError: A name is unknown or refused.
        ConfigError: "auto" is among them.
    """
    items = [part.strip() for item in config.precisions for part in str(item).split(",") if part.strip()]
    names = [canonical(item) for item in (config.baseline, *items)]
    if AUTO in names:
        raise ConfigError(
            "precisions has 'auto', but bench is what finds the best one.", hint="Name them, as fp32,bf16."
        )
    return replace(config, precisions=tuple(dict.fromkeys(names)), baseline=names[0])


def line_up(task: Task, config: BenchConfig) -> Lineup:
    """Return who takes part.

    Args:
        task: What is trained.
        config: As `settled` returns it.

    Raises:
        ConfigError: The baseline cannot run here, or a training option is out of range.
    """
    device = pick_device(config.device)
    hardware = inspect(device)
    decisions, unsupported, emulated = {}, {}, []
    for name in config.precisions:
        fact = hardware.support(name)
        try:
            decisions[name] = resolve(
                name, hardware, on_unsupported="emulate" if config.on_unsupported == "emulate" else "error"
            )
        except PrecisionError:
            unsupported[name] = why_not(fact, "CPU" if device.type == "cpu" else "GPU")
            continue
        if fact.support == "emulated":
            emulated.append(name)
    if config.baseline in unsupported:
        raise ConfigError(
            f"the baseline {config.baseline!r} cannot run here: {unsupported[config.baseline]}.",
            allowed=decisions,
            hint="Give another --baseline.",
        )
    training = make_config(_training_options(config), task)
    data = open_train_data(task, batch_size=training.batch_size, seed=training.seed, workers=training.workers)
    training = replace(training, batch_size=data.batch_size or training.batch_size)
    check_sizes(training)
    return Lineup(
        task=task,
        training=training,
        ready_made=data.batch_size is None,
        baseline=config.baseline,
        decisions=decisions,
        unsupported=unsupported,
        emulated=frozenset(emulated),
        device=device,
        hardware=hardware,
    )


def why_not(fact: Support, device: str) -> str:
    """Return why a precision cannot run, as a clause: "this CPU only emulates it (...)"."""
    if fact.support == "none":
        return fact.source
    if fact.precision not in IMPLEMENTED:
        return "this version of ampguard does not train in it"
    return f"this {device} only emulates it: {fact.source}"


def _training_options(config: BenchConfig) -> dict[str, object]:
    return {
        "batch_size": config.batch_size,
        "micro_batch_size": config.micro_batch_size,
        "compile": config.compile or None,
        "seed": config.seed,
        "device": config.device,
    }
