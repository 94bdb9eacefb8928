"""The Lightning door: a Guard where the Trainer steps, as a callback of one line or as a precision plugin.

    Trainer(precision="16-mixed", callbacks=[GuardCallback()])           # swaps the Trainer's plugin, logs amp/*
    Trainer(plugins=GuardPrecision("16-mixed", growth_interval=500))     # the plugin alone, with options of Guard

The Trainer keeps its loop, its hooks, its checkpoints (the guard's state is in them) and its logger. The guard takes
over autocast, backward, clipping and the step: a skipped step leaves no trace in weights, buffers and LR; clipping is
part of the fused step; each micro-batch of an accumulation group weighs the same, in a short last group as well.

The package `lightning.pytorch` and its older name `pytorch_lightning` are two class trees. GuardPrecision is of the
one that is installed, the newer first; GuardCallback goes by the Trainer.

Left out: manual optimization, where the loop is the module's own; more than one process. `trainer.global_step` still
counts attempted steps; `amp/applied_steps` tells the applied ones.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ampguard.engine import GuardConfig
from ampguard.errors import MissingExtraError
from ampguard.integrations.amp import guard_metrics, observed_metrics, scale_of
from ampguard.integrations.lightning_module import PACKAGES, package_of
from ampguard.integrations.lightning_steps import GuardedSteps

__all__ = ["GuardCallback", "GuardPrecision"]


def _installed() -> Any:
    for package in PACKAGES:
        if find_spec(package.partition(".")[0]) is not None:
            return import_module(package)
    raise MissingExtraError("lightning", "lightning", "The Lightning door")


pl = _installed()


class GuardPrecision(GuardedSteps, pl.plugins.Precision):  # type: ignore[misc, name-defined]
    """A Lightning precision plugin whose steps are guarded: `Trainer(plugins=GuardPrecision("16-mixed"))`.

    Args:
        precision: In any spelling, or "auto"; "32-true" leaves the process's float32 mode as it is.
        options: Options of Guard, but `precision`, and `max_grad_norm` where the Trainer clips.
    """


class GuardCallback(pl.Callback):  # type: ignore[misc, name-defined]
    """Puts a guard into the Trainer, in the Trainer's own precision, and logs `amp/*` with whatever logger is there.

    Args:
        guard: False: change nothing, and log what can be told of Lightning's own scaler.
        options: Options of Guard, but `precision`.
    """

    def __init__(self, *, guard: bool = True, **options: Any) -> None:
        self._guards = guard
        self._options = options
        self._logged = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put our plugin in the place of Lightning's, before the strategy uses it."""
        del pl_module
        theirs = trainer.precision_plugin
        if self._guards and stage == "fit" and not isinstance(theirs, GuardedSteps):
            options = _scaler_options(getattr(theirs, "scaler", None), self._options)
            trainer.strategy.precision_plugin = _plugin_class(package_of(trainer))(theirs.precision, **options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin where this fit begins: the callback may have been in another one, and a checkpoint may go on."""
        del pl_module
        self._logged = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log the figures at the Trainer's own `log_every_n_steps`, once a step. Sync: one where it logs."""
        del args
        step, every = trainer.global_step, trainer.log_every_n_steps
        if trainer.barebones or not every or step % every or step == self._logged:
            return
        self._logged = step
        pl_module.log_dict(self._figures(trainer), batch_size=1)

    def _figures(self, trainer: Any) -> dict[str, float | int]:
        plugin = trainer.precision_plugin
        if not isinstance(plugin, GuardedSteps) or plugin.guard is None:
            return observed_metrics(getattr(plugin, "scaler", None), plugin.precision)
        # Loss, LR and norm are the module's own to log, often by the very names that we have for them.
        return {key: value for key, value in guard_metrics(plugin.guard).items() if key.startswith("amp/")}


@cache
def _plugin_class(package: str) -> type:
    base = import_module(f"{package}.plugins").Precision
    return GuardPrecision if issubclass(GuardPrecision, base) else type("GuardPrecision", (GuardedSteps, base), {})


def _scaler_options(scaler: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the law of Lightning's own scaler as options of Guard, `given` ones over them; without one, those."""
    scale = scale_of(scaler)
    if scale is None:
        return given
    law = {name: getattr(scaler, f"get_{name}")() for name in ("growth_factor", "backoff_factor", "growth_interval")}
    config = GuardConfig().with_options({**law, **given})
    return {**law, "init_scale": min(max(scale, config.min_scale), config.max_scale), **given}
