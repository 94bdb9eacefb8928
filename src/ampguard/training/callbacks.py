"""What a caller may do while a run runs: four hooks, called at step boundaries only.

    class Notify(ampguard.Callback):
        def on_validation_end(self, step, metrics):
            send(f"step {step}: {metrics['val/loss']:.3f}")

    ampguard.train(task, callbacks=[Notify()])

At a boundary the step is over, its row is logged and its validation done; then come `on_step_end`,
`on_validation_end` and the events, and after a save `on_checkpoint`. A hook that raises ends the run with the user's
own frames, after a checkpoint of that boundary: what follows a mended hook continues there. Hooks that a class does
not define cost nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ampguard.errors import ConfigError, UserCodeError
from ampguard.records import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """What `on_step_end` may read without a synchronisation; only a tensor's value costs one."""

    step: int
    """Ordinal of the attempted step, from 1."""
    epoch: int
    """Epoch that the step's batch is of, from 0."""
    loss: Tensor
    """The step's own loss over its whole batch, float32, shape (), on the device."""
    applied: Tensor
    """Whether the step was applied, bool, shape (), on the device. Testing it synchronises."""
    model: nn.Module
    """The model that is trained, after the step."""
    stop: Callable[[str], None]
    """Asks the run to end at this boundary, early, with a reason; it is saved and counts as well done."""


class Callback:
    """Base of callbacks: define what you need."""

    def on_step_end(self, state: StepEnd) -> None:
        """A step was attempted. Called every step: keep it cheap. Sync: none, unless you read a tensor."""

    def on_validation_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """The model was validated. metrics: "val/loss" and the Task's own, read from the device already."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint stands in the folder `path`, whole and synced to the disk."""

    def on_event(self, event: Event) -> None:
        """Something happened, as in events.jsonl. Skips are told at the read that found them, up to 50 steps late."""


class Callbacks:
    """All callbacks of a run; what they raise becomes a UserCodeError that names the hook.

    Args:
        members: Called in order.

    Raises:
        ConfigError: One is no Callback.
    """

    def __init__(self, members: Sequence[Callback]) -> None:
        for member in members:
            if not isinstance(member, Callback):
                raise ConfigError(
                    f"callbacks has a {type(member).__name__}, which is no ampguard.Callback.",
                    hint="Derive its class from ampguard.Callback, and give an instance.",
                )
        self._hooks = {name: _defined(members, name) for name in vars(Callback) if name.startswith("on_")}
        self._events: list[Event] = []

    @property
    def wants_steps(self) -> bool:
        """Whether anybody defines `on_step_end`."""
        return bool(self._hooks["on_step_end"])

    def step_end(self, state: StepEnd) -> None:
        """Call `on_step_end`."""
        self._call("on_step_end", state)

    def validation_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call `on_validation_end`."""
        self._call("on_validation_end", step, metrics)

    def checkpoint(self, step: int, path: Path) -> None:
        """Call `on_checkpoint`."""
        self._call("on_checkpoint", step, path)

    def note(self, event: Event) -> None:
        """Keep an event for the next boundary: it may come from within a step."""
        if self._hooks["on_event"]:
            self._events.append(event)

    def tell_events(self) -> None:
        """Call `on_event` for each event since the last time."""
        events, self._events = self._events, []
        for event in events:
            self._call("on_event", event)

    def _call(self, name: str, *values: Any) -> None:
        for hook in self._hooks[name]:
            try:
                hook(*values)
            except Exception as error:
                owner = type(hook.__self__).__name__
                raise UserCodeError(f"the callback {owner}.{name} raised {type(error).__name__}: {error}") from error


def _defined(members: Sequence[Callback], name: str) -> list[Any]:
    return [getattr(member, name) for member in members if getattr(type(member), name) is not getattr(Callback, name)]
