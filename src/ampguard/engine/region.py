"""The context around forward and loss: autocast, and the moment at which a step's buffers are saved."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from ampguard.precision import Policy, autocast


class Region(AbstractContextManager[None]):
    """A context that may be entered again and again, also within itself; nothing is made anew in fp32.

    Args:
        policy: The precision of the forward.
        device_type: As `torch.device.type` names it.
        on_enter: Called at each outermost entry.
    """

    def __init__(self, policy: Policy, device_type: str, on_enter: Callable[[], None]) -> None:
        self._policy = policy
        self._device_type = device_type
        self._on_enter = on_enter
        self._open: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        if not self._open:
            self._on_enter()
        context = autocast(self._policy, self._device_type)
        context.__enter__()
        self._open.append(context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.pop().__exit__(kind, error, trace)
