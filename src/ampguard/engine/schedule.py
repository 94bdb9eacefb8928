"""Any LR schedule without a host synchronisation.

Whether a step was applied is known to the device only, and the schedule must count applied steps. So the
schedule is run ahead on a dummy optimizer with the same options, tabulated, and the table is indexed on the
device: `index_select` into a row whose elements are the groups' LR tensors. Nothing is read back. LR tensors
are float64 on a CPU, bitwise the float LR, and float32 elsewhere.

A schedule that also cycles betas or momentum is refused: the table holds learning rates. Past the schedule's
own end its last row holds (torch's OneCycleLR bounces off its end for one step, then raises).

A plateau rule (lower the LR when validation stands still) is one factor on the whole table, set between steps.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, SequentialLR

from ampguard.engine.config import ScheduleFactory
from ampguard.errors import ConfigError

CHUNK = 4096
"""Rows tabulated at a time: about 50 ms of host work, 64 KiB for two groups."""

_CYCLED = ("betas", "momentum")


class Schedule(ABC):
    """The LR of every group as a function of the applied steps."""

    @abstractmethod
    def bind(self) -> None:
        """Make the optimizers read this schedule's LR. Called again after their state was loaded."""

    @abstractmethod
    def advance(self, applied_steps: Tensor) -> None:
        """Set the LR of the next step on the device. applied_steps: int64, shape (1,). Sync: none."""

    @abstractmethod
    def place(self, applied_steps: int) -> None:
        """Set the LR of the next step from the host, as Python floats where the optimizers are unfused."""

    @abstractmethod
    def reach(self, attempted: int) -> None:
        """Extend the table so that it holds a row for each of `attempted` steps and the next."""

    @abstractmethod
    def lr(self, applied_steps: int) -> float:
        """Return the first group's LR of the step that follows `applied_steps` applied ones."""

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Multiply every LR of the schedule by `factor` from now on, in place of the factor before."""


class CallersSchedule(Schedule):
    """The LR is the caller's: nothing is bound and nothing moves."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._first = optimizers[0]

    def bind(self) -> None:  # noqa: D102
        return

    def advance(self, applied_steps: Tensor) -> None:  # noqa: D102
        del applied_steps

    def place(self, applied_steps: int) -> None:  # noqa: D102
        del applied_steps

    def reach(self, attempted: int) -> None:  # noqa: D102
        del attempted

    def lr(self, applied_steps: int) -> float:  # noqa: D102
        del applied_steps
        # load_state_dict of an optimizer replaces its group dicts, so the group is asked for afresh.
        return float(self._first.param_groups[0]["lr"])

    def scale(self, factor: float) -> None:  # noqa: D102
        if factor != 1.0:
            raise ConfigError("lr_factor needs a schedule.", hint="Pass schedule=; without one the LR is yours to set.")


class TableSchedule(Schedule):
    """A factory's schedule as a table of shape (applied steps, groups).

    Args:
        factory: Makes a scheduler for an optimizer.
        optimizers: Their groups are the columns, in order.
        device: Where the LR tensors live.
        fused: Whether the optimizers take LR tensors; else they get Python floats.
    """

    def __init__(
        self, factory: ScheduleFactory, optimizers: Sequence[Optimizer], *, device: torch.device, fused: bool
    ) -> None:
        self._runs = [_DryRun(factory, optimizer) for optimizer in optimizers]
        groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
        self._fused = fused
        self._factor = 1.0
        self._rows: list[list[float]] = []
        """As the factory has them; the table and the floats handed out are these times the factor."""
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._table = torch.empty((0, groups), dtype=dtype, device=device)
        self._row = torch.empty((1, groups), dtype=dtype, device=device)
        self.reach(0)
        self.place(0)
        self.bind()
        for optimizer in optimizers:
            optimizer.register_state_dict_post_hook(_store_floats)
            optimizer.register_load_state_dict_post_hook(lambda _: self.bind())

    def bind(self) -> None:  # noqa: D102
        lrs = self._row[0].unbind() if self._fused else self._floats
        # load_state_dict of an optimizer replaces its group dicts, so they are asked for afresh.
        groups = [group for run in self._runs for group in run.optimizer.param_groups]
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = lr

    def advance(self, applied_steps: Tensor) -> None:  # noqa: D102
        torch.index_select(self._table, 0, applied_steps, out=self._row)

    def place(self, applied_steps: int) -> None:  # noqa: D102
        self._floats = [lr * self._factor for lr in self._rows[applied_steps]]
        if self._fused:
            self._row.copy_(self._table[applied_steps])
        else:
            self.bind()

    def reach(self, attempted: int) -> None:  # noqa: D102
        while len(self._rows) < attempted + 2:
            columns = [run.rows(CHUNK) for run in self._runs]
            chunk = [[lr for part in parts for lr in part] for parts in zip(*columns, strict=True)]
            self._rows += chunk
            self._table = torch.cat([self._table, self._scaled(chunk)])

    def lr(self, applied_steps: int) -> float:  # noqa: D102
        return self._rows[applied_steps][0] * self._factor

    def scale(self, factor: float) -> None:  # noqa: D102
        self._factor = factor
        self._table.copy_(self._scaled(self._rows))

    def _scaled(self, rows: list[list[float]]) -> Tensor:
        # In float64 first: on a CPU bitwise what Python's floats give.
        return (torch.tensor(rows, dtype=torch.float64) * self._factor).to(self._table)


class _DryRun:
    """A scheduler stepped ahead on a dummy of one optimizer: one scalar per group, the same options."""

    def __init__(self, factory: ScheduleFactory, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._dummy = _Dummy(optimizer)
        self._cycled = self._dummy.cycled()
        self._scheduler = self._make(factory)
        # Once is enough: a scheduler only asks whether there was a step before its own first one.
        self._dummy.step()

    def _make(self, factory: ScheduleFactory) -> LRScheduler:
        scheduler = factory(self._dummy)
        if not isinstance(scheduler, LRScheduler):
            raise ConfigError(
                f"schedule returned {type(scheduler).__name__}, not a torch.optim.lr_scheduler.LRScheduler.",
                hint="Give a function of the optimizer, for example lambda o: CosineAnnealingLR(o, T_max=1000).",
            )
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError("schedule is ReduceLROnPlateau, which needs a metric and cannot be tabulated.")
        self._refuse_cycling(scheduler)
        return scheduler

    def rows(self, count: int) -> list[list[float]]:
        """Return the LRs of the next `count` applied steps, one list of groups each."""
        rows: list[list[float]] = []
        # Once around the chunk: entering it costs as much as a step of the scheduler.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while len(rows) < count:
                rows.append(self._dummy.lrs())
                self._step()
        return rows

    def _step(self) -> None:
        if _ended(self._scheduler):
            return
        try:
            self._scheduler.step()
        except ValueError:
            # Past its own end: the dummy keeps the last LR, which is what holds from here on.
            self._step = _nothing  # type: ignore[method-assign]
        # At every row: what cycles may stand where it began when the chunk ends.
        self._refuse_cycling(self._scheduler)

    def _refuse_cycling(self, scheduler: LRScheduler) -> None:
        if self._dummy.cycled() != self._cycled:
            raise ConfigError(
                f"schedule {type(scheduler).__name__} also changes betas or momentum.",
                hint="Pass cycle_momentum=False: the schedule moves the learning rate only.",
            )


class _Dummy(Optimizer):
    def __init__(self, like: Optimizer) -> None:
        groups: list[dict[str, Any]] = [
            {
                "params": [torch.zeros((), requires_grad=True)],
                **{key: value for key, value in group.items() if key not in ("params", "initial_lr")},
                "lr": float(group["lr"]),
            }
            for group in like.param_groups
        ]
        super().__init__(groups, dict(like.defaults))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure

    def lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.param_groups]

    def cycled(self) -> list[tuple[Any, ...]]:
        return [tuple(group.get(key) for key in _CYCLED) for group in self.param_groups]


def _store_floats(optimizer: Optimizer, state: dict[str, Any]) -> None:
    del optimizer
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])


def _ended(scheduler: LRScheduler) -> bool:
    """Return whether a OneCycleLR stands at its last LR: torch takes one step more, which bounces off the end."""
    while isinstance(scheduler, SequentialLR):
        scheduler = scheduler._schedulers[-1]
    return isinstance(scheduler, OneCycleLR) and scheduler.last_epoch + 1 >= scheduler.total_steps


def _nothing() -> None:
    return
