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
        self._entered: list[AbstractContextManager[object]] = []

    def switch(self, policy: Policy) -> None:
        """Use another precision from the next entry on; what is entered is left as it was entered."""
        self._policy, self._contexts = policy, []

    def __enter__(self) -> None:
        depth = len(self._entered)
        if not depth:
            self._on_enter()
        while depth >= len(self._contexts):
            self._contexts.append(autocast(self._policy, self._device_type))
        context = self._contexts[depth]
        context.__enter__()
        self._entered.append(context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)
