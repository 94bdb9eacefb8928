"""A LightningModule's training_step and validation_step as functions of a model and a batch, without a Trainer.

`self.log` is silent in training. In validation what it is given becomes the metrics, each a mean over the samples: a
torchmetrics object is read and reset at each batch, which is exact for a mean over samples, such as accuracy, and not
for AUROC or F1. A value logged with another reduction than the mean is left out, with a warning.
"""

import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ampguard.errors import LossError
from ampguard.integrations.lightning_module import overrides
from ampguard.task import Batch, Sum
from ampguard.training.data import leading

log = logging.getLogger("ampguard.integrations")

TRANSFER_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


class Steps:
    """The steps of every model that is made like `module`.

    Args:
        module: Tells what arguments its steps take.
        datamodule: Its transfer hooks go before the module's; None: there is none.
    """

    def __init__(self, module: Any, datamodule: Any) -> None:
        self._arguments = {name: _arguments(getattr(module, name)) for name in ("training_step", "validation_step")}
        self._batch_idx = {name: count() for name in self._arguments}
        self._hooks = [hook for hook in TRANSFER_HOOKS if overrides(module, hook)]
        self._owner = {
            hook: datamodule for hook in TRANSFER_HOOKS if datamodule is not None and overrides(datamodule, hook)
        }
        self._told: set[str] = set()

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return what training_step returns, or its "loss".

        Raises:
            LossError: It returned neither a tensor nor a mapping with one.
        """
        with _logging_to(model.training_step, _Silent()):
            output = self._call("training_step", model, self._transferred(model, batch))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise LossError(
                f"training_step returned {type(output).__name__}{' without a loss' if output is not None else ''}.",
                hint="Return a scalar tensor, or {'loss': tensor}; a Task cannot pass a batch over.",
            )
        return loss

    def evaluate(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """Return what validation_step logs, and the loss that it returns where it logs none."""
        batch = self._transferred(model, batch)
        logged = _Logged(batch, self._told)
        with _logging_to(model.validation_step, logged):
            output = self._call("validation_step", model, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if isinstance(loss, Tensor) and "loss" not in logged.sums:
            logged.log("loss", loss)
        return logged.sums

    def _call(self, step: str, model: Any, batch: Batch) -> Any:
        arguments = (batch, next(self._batch_idx[step]), 0)
        return getattr(model, step)(*arguments[: self._arguments[step]])

    def _transferred(self, model: Any, batch: Batch) -> Batch:
        if not (self._hooks or self._owner):
            return batch
        # Lightning calls both outside of autocast; a Task's loss is called inside.
        with torch.autocast(model.device.type, enabled=False):
            for hook in TRANSFER_HOOKS:
                batch = getattr(self._owner.get(hook, model), hook)(batch, 0)
        return batch


class _Silent:
    """Takes what a step logs, and drops it."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    log_dict = log


class _Logged(_Silent):
    """Takes what a step logs as sums over the samples of its batch."""

    def __init__(self, batch: Batch, told: set[str]) -> None:
        self.sums: dict[str, Sum] = {}
        self._batch = batch
        self._told = told

    def log(
        self, name: str, value: Any, *args: Any, batch_size: int | None = None, reduce_fx: Any = "mean", **kwargs: Any
    ) -> None:
        del args, kwargs
        if reduce_fx not in ("mean", torch.mean):
            self._tell(f"{name} is logged with reduce_fx={reduce_fx!r} and is left out: a Task's metrics are means.")
            return
        if hasattr(value, "compute") and hasattr(value, "reset"):
            metric, value = value, value.compute()
            metric.reset()
        size = leading(self._batch) if batch_size is None else batch_size
        self.sums[_metric_name(name)] = Sum(value * size, size)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        del args
        for name, value in dictionary.items():
            self.log(name, value, **kwargs)

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            log.warning(message)


@contextmanager
def _logging_to(step: Any, taker: _Silent) -> Iterator[None]:
    """Hide the `log` and `log_dict` of the module that a step is bound to, while it runs."""
    # The bound method knows its module, also where `model` is a wrapper around it.
    own = vars(step.__self__)
    own["log"], own["log_dict"] = taker.log, taker.log_dict
    try:
        yield
    finally:
        del own["log"], own["log_dict"]


def _arguments(step: Any) -> int:
    """Return how many of (batch, batch_idx, dataloader_idx) a step takes."""
    parameters = inspect.signature(step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 3
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


def _metric_name(name: str) -> str:
    """Return a name of [a-z0-9_/] that does not say "val" again: val_loss -> loss, Val/Top-5 -> top_5."""
    return re.sub(r"[^a-z0-9_/]+", "_", re.sub(r"^(val|valid|validation)[_/]", "", name.lower()))
