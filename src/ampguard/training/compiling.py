"""torch.compile in a run: switched on in place, and what it did said aloud.

`nn.Module.compile` compiles the model where it stands: names, weights, hooks and checkpoints stay as they are, and the
guard around it sees the same buffers. Backward passes run outside of autocast, as in eager mode. A graph that breaks
or is compiled again works, only slower; each is counted from torch's own record and told once as an event.

Left out: compiling the loss and the optimizer. What the loss calls besides `model(...)` runs eagerly.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from ampguard.precision import compile_backward_as_eager
from ampguard.records import Event


class Compilation(ABC):
    """What torch.compile did to a model."""

    @abstractmethod
    def news(self, step: int) -> list[Event]:
        """Return what happened since the last call. Called where the host reads the device anyway. Sync: none."""


class NotCompiled(Compilation):
    """The model runs eagerly."""

    def news(self, step: int) -> list[Event]:  # noqa: D102
        del step
        return []


class Compiled(Compilation):
    """The model is compiled in place.

    Args:
        model: Compiled at its first call.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen = {_key(metrics) for metrics in _metrics()}
        self._broken = set(_breaks())
        compile_backward_as_eager()
        model.compile()

    def news(self, step: int) -> list[Event]:  # noqa: D102
        fresh = [metrics for metrics in _metrics() if _key(metrics) not in self._seen]
        self._seen |= {_key(metrics) for metrics in fresh}
        breaks = [reason for reason in _breaks() if reason not in self._broken]
        self._broken |= set(breaks)
        return [_break_event(step, reason) for reason in breaks] + [
            event for metrics in fresh for event in _recompiled(step, metrics)
        ]


def _recompiled(step: int, metrics: Any) -> list[Event]:
    reason = getattr(metrics, "recompile_reason", None)
    if not reason:
        return []
    message = f"{metrics.co_name} was compiled again: {_first_line(reason)}"
    return [Event(kind="compile", step=step, message=message, data={"cause": "recompile"})]


def _break_event(step: int, reason: str) -> Event:
    message = f"the graph breaks, so that parts run eagerly: {_first_line(reason)}"
    return Event(kind="compile", step=step, message=message, data={"cause": "graph_break", "detail": reason})


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _metrics() -> list[Any]:
    # Private, but what torch's own tools read; the newest 64 compilations.
    from torch._dynamo.utils import get_compilation_metrics

    return list(get_compilation_metrics())


def _key(metrics: Any) -> tuple[Any, ...]:
    return metrics.compile_id, metrics.co_name, metrics.start_time


def _breaks() -> list[str]:
    from torch._dynamo.utils import counters

    return list(counters["graph_break"])
