"""The context around forward and loss: autocast, and the moment at which a step's buffers are saved."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from ampguard.precision import Policy, autocast


class Region(AbstractContextManager[None]):
    """A context that may be entered again and again, also within itself.

    Each depth has one autocast context, made at its first entry: torch allows it to be entered again, and making one
    costs more than entering it.

    Args:
        policy: The precision of the forward.
        device_type: As `torch.device.type` names it.
        on_enter: Called at each outermost entry.
    """

    def __init__(self, policy: Policy, device_type: str, on_enter: Callable[[], None]) -> None:
        self._policy = policy
        self._device_type = device_type
        self._on_enter = on_enter
        self._contexts: list[AbstractContextManager[object]] = []
        self._depth = 0

    def __enter__(self) -> None:
        depth = self._depth
        if not depth:
            self._on_enter()
        if depth == len(self._contexts):
            self._contexts.append(autocast(self._policy, self._device_type))
        self._contexts[depth].__enter__()
        self._depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        self._contexts[self._depth].__exit__(kind, error, trace)
