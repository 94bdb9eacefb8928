"""A skipped step leaves no trace in the buffers either.

The forward has already changed BatchNorm's running statistics when the gradients turn out to be non-finite,
and they may be inf for ever. So the buffers of modules in training mode are saved when a step's first forward
begins and put back, on the device, if the step is skipped: `torch.where`, never arithmetic (0 * inf is NaN),
and never by `_version` (eager BatchNorm does not bump it).

A buffer over 1 MiB that the first step leaves unchanged (a mask, a table) is left out afterwards and listed.
A buffer that is rebound to another shape costs a synchronisation. Buffers of modules that the forward creates
are seen from the next `rescan` on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LARGE_BYTES = 2**20
"""From this size on a buffer must earn its copy: 1 MiB, far over any running statistic."""


@dataclass(frozen=True)
class _Slot:
    """Where a buffer lives: a module may rebind the name to another tensor."""

    module: nn.Module
    name: str
    fqn: str

    @property
    def tensor(self) -> Tensor | None:
        return self.module._buffers.get(self.name)


class _Flat:
    """The saved buffers of one dtype, one flat copy."""

    def __init__(self, slots: Sequence[_Slot], live: list[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in live]
        self.slots = slots
        self.large = [index for index, tensor in enumerate(live) if tensor.nbytes > LARGE_BYTES]
        self._live = live
        self._saved = torch.empty(sum(sizes), dtype=live[0].dtype, device=live[0].device)
        self._now = torch.empty_like(self._saved)
        self._saved_parts = _views(self._saved, sizes, live)
        self._now_parts = _views(self._now, sizes, live)

    def save(self) -> None:
        torch._foreach_copy_(self._saved_parts, self._live)

    def put_back(self, applied: Tensor) -> None:
        current = self._current(applied)
        torch._foreach_copy_(self._now_parts, current)
        torch.where(applied, self._now, self._saved, out=self._now)
        torch._foreach_copy_(current, self._now_parts)

    def changed(self, index: int) -> Tensor:
        """Return whether buffer `index` differs from what was saved, bool, shape (). Sync: none."""
        tensor, saved = self.slots[index].tensor, self._saved_parts[index]
        if tensor is None or tensor.shape != saved.shape:
            return torch.ones((), dtype=torch.bool, device=saved.device)
        return (tensor != saved).any()

    def _current(self, applied: Tensor) -> list[Tensor]:
        current = [slot.tensor for slot in self.slots]
        for index, (slot, tensor, saved) in enumerate(zip(self.slots, current, self._saved_parts, strict=True)):
            if tensor is None or tensor.shape != saved.shape or tensor.dtype != saved.dtype:
                if not applied.item():
                    slot.module._buffers[slot.name] = saved.clone()
                current[index] = saved.clone()
            elif tensor is not self._live[index]:
                # The new tensor may be the caller's own, a batch for one: it must not be written to.
                current[index] = slot.module._buffers[slot.name] = tensor.clone()
        return current  # type: ignore[return-value]


class Undo:
    """Saves and restores the buffers that a forward in training mode may change.

    Args:
        model: Its modules' buffers are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._large: dict[str, Tensor | None] = {}
        self._flats: tuple[_Flat, ...] = ()
        self._key: tuple[int, ...] = ()
        self._open = False
        self.unprotected: tuple[str, ...] = ()
        """fqn of each buffer that is not undone: over 1 MiB, and unchanged by the first step."""
        self.rescan()

    def rescan(self) -> None:
        """Look for buffers again: a module may have been added, or have made its buffers at first use."""
        slots = [
            _Slot(module, name, f"{prefix}.{name}" if prefix else name)
            for prefix, module in self._model.named_modules()
            for name, tensor in module._buffers.items()
            if _protectable(tensor)
        ]
        # By identity: a table that several modules share is left out under all its names.
        idle = {id(slot.tensor) for slot in slots if slot.fqn in self.unprotected}
        self._slots = [slot for slot in slots if id(slot.tensor) not in idle]

    def save(self) -> None:
        """Save the buffers, unless this step's were saved already. Sync: none."""
        if self._open or not self._slots:
            return
        slots = [slot for slot in self._slots if slot.module.training and _protectable(slot.tensor)]
        if not slots:
            return
        live: list[Tensor] = [slot.tensor for slot in slots]  # type: ignore[misc]
        key = tuple(map(id, live))
        if key != self._key:
            self._flats, self._key = _group(slots, live), key
        with torch.no_grad():
            for flat in self._flats:
                flat.save()
        self._open = True

    def put_back(self, applied: Tensor) -> None:
        """Restore what was saved where `applied` (bool, shape ()) is False; the next forward saves anew.

        Sync: none, but for a buffer that was rebound to another shape.
        """
        if not self._open:
            return
        for flat in self._flats:
            self._watch_large(flat)
            flat.put_back(applied)
        self._open = False

    def settle(self) -> None:
        """Leave out the large buffers that the first step did not change. Sync: one, and once."""
        idle = [fqn for fqn, changed in self._large.items() if changed is not None and not changed.item()]
        self._large = dict.fromkeys(self._large)
        if idle:
            self.unprotected += tuple(idle)
            self.rescan()

    def _watch_large(self, flat: _Flat) -> None:
        for index in flat.large:
            if flat.slots[index].fqn not in self._large:
                self._large[flat.slots[index].fqn] = flat.changed(index)


def _protectable(tensor: Tensor | None) -> bool:
    return (
        isinstance(tensor, Tensor) and not isinstance(tensor, nn.parameter.UninitializedBuffer) and tensor.numel() > 0
    )


def _group(slots: Sequence[_Slot], live: Sequence[Tensor]) -> tuple[_Flat, ...]:
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    # A buffer that modules share is saved once, under its first name.
    for index in {id(live[index]): index for index in reversed(range(len(live)))}.values():
        kinds.setdefault((live[index].dtype, live[index].device), []).append(index)
    return tuple(_Flat([slots[i] for i in part], [live[i] for i in part]) for part in kinds.values())


def _views(flat: Tensor, sizes: list[int], like: Sequence[Tensor]) -> list[Tensor]:
    return [part.view(tensor.shape) for part, tensor in zip(torch.split(flat, sizes), like, strict=True)]
