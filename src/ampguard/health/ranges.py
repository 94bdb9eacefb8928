"""How large the numbers in a model are, module by module, and what each format would make of them.

    with Ranges(model) as ranges:
        loss_fn(model(x), y).backward()
    for row in ranges.table():
        print(row.fqn, row.kind, row.max_abs, row.underflow_pct["fp16"])

How it works: inside the `with`, forward hooks count what each module returns, tensor hooks the gradients of that and of
the weights; entering counts the weights. Entering again adds to the counts. Hooks only read: results, buffers and
random numbers stay bitwise as they are. Nothing is copied to the host before `table`.

A module is measured if it has none inside, or weights of its own. Code that torch.compile made knows no hooks: inside
the `with` it runs eagerly. A block that is recomputed in the backward pass (checkpointing) is counted once.

Left out: what is computed between modules (attention scores in a function call), tensors in objects that torch's
pytree does not know, dataclasses apart, and TorchScript modules, which take no hooks: `notes` names them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ampguard.errors import ConfigError
from ampguard.health.formats import FORMATS, LOSS_SCALE
from ampguard.health.histogram import Histogram
from ampguard.health.tally import ELEMENTS, Tally, largest, real_values

Kind = Literal["weight", "activation", "gradient", "weight_gradient"]
KINDS: tuple[Kind, ...] = ("weight", "activation", "gradient", "weight_gradient")


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """The values of one kind in one module. Shares are of the values that are finite and not 0."""

    fqn: str
    """Path of the module; "" is the model itself."""
    kind: Kind
    """weight: its own parameters. activation: what it returned. gradient: that of what it returned."""
    dtype: str
    """Dtype of the tensors, "float32"; several are joined."""
    count: int
    """Values that were counted."""
    zero_pct: float
    """Share of `count` that is 0."""
    nonfinite_pct: float
    """Share of `count` that is inf or NaN."""
    max_abs: float | None
    """Largest finite magnitude, of all values; None: there is none but 0."""
    min_abs: float | None
    """Smallest magnitude other than 0, of the values that were counted."""
    exponents: dict[str, Any]
    """{"lowest": e, "counts": [...]}: how many have the base-2 exponent e, e + 1 ..."""
    overflow_pct: dict[str, float]
    """By format: share that a cast takes beyond the format's largest value."""
    underflow_pct: dict[str, float]
    """By format: share that a cast takes to 0."""
    subnormal_pct: dict[str, float]
    """By format: share that keeps only a part of its mantissa."""
    underflow_scaled_pct: dict[str, float]
    """As `underflow_pct`, with a scale. fp16: of gradients only, with the loss scale 65536. e4m3 and e5m2: at least
    this share, when the tensor's largest value is scaled to the format's."""
    max_input_abs: float | None
    """Of activations: largest finite magnitude that the module was given."""
    histogram: Histogram
    """What all shares are from; not part of `as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as in ranges.json."""
        values = asdict(self)
        del values["histogram"]
        return values


class Ranges:
    """Measures a model while it runs inside `with`.

    Args:
        model: Its modules are measured.
        elements: Values that are counted of each tensor, evenly spaced; the largest is that of all values.

    Raises:
        ConfigError: `elements` is not positive.
    """

    def __init__(self, model: nn.Module, *, elements: int = ELEMENTS) -> None:
        if elements < 1:
            raise ConfigError(f"elements is {elements}; it must be an integer >= 1.")
        self.elements = elements
        self._modules = {_plain(fqn): module for fqn, module in model.named_modules() if _is_measured(module)}
        self._tallies: dict[tuple[str, Kind], Tally] = {}
        self._inputs: dict[str, Tensor] = {}
        self._skipped = [fqn for fqn, m in self._modules.items() if isinstance(m, torch.jit.ScriptModule)]
        self._active = ExitStack()
        self._inside = False
        self._loss_scale = 1.0

    def scaled_by(self, loss_scale: float) -> Self:
        """Say by what the loss is multiplied: gradients are divided by it before they are counted."""
        self._loss_scale = loss_scale
        return self

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            seen: set[Tensor] = set()
            for fqn, module in self._modules.items():
                if fqn not in self._skipped:
                    self._watch(fqn, module, stack)
                for weight in module.parameters(recurse=False):
                    # A tied weight belongs to the module that comes first.
                    if weight not in seen:
                        seen.add(weight)
                        self._watch_weight(fqn, weight, stack)
            self._active = stack.pop_all()
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        self._active.close()

    def table(self) -> list[RangeRow]:
        """Return what was measured so far, a row for each module and kind, in the model's order. Sync: a few a row."""
        found = ((fqn, kind, self._tallies.get((fqn, kind))) for fqn in self._modules for kind in KINDS)
        return [self._row(fqn, kind, tally) for fqn, kind, tally in found if tally is not None]

    def notes(self) -> list[str]:
        """Return what could not be measured, as sentences."""
        kinds = {kind for _, kind in self._tallies}
        lines = []
        if "activation" not in kinds:
            lines.append("no module that has none inside returned a floating-point tensor: only weights were measured.")
        elif not kinds & {"gradient", "weight_gradient"}:
            lines.append("no backward pass ran: there are no gradients.")
        if self._skipped:
            lines.append(f"TorchScript modules take no hooks and were not measured: {', '.join(self._skipped)}.")
        return lines

    def _watch(self, fqn: str, module: nn.Module, stack: ExitStack) -> None:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            del module
            if not _recomputing():
                for tensor in _tensors((args, kwargs)):
                    self._note_input(fqn, tensor)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            for tensor in _tensors(output):
                if not _recomputing():
                    self._add(fqn, "activation", tensor)
                # A leaf is a weight or an input that the module passed on, and would keep the hook for ever.
                if tensor.requires_grad and not tensor.is_leaf:
                    tensor.register_hook(self._counting(fqn, "gradient"))  # type: ignore[no-untyped-call]

        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        # Prepended: it must see the output as the module returned it.
        stack.callback(module.register_forward_hook(leave, prepend=True).remove)

    def _watch_weight(self, fqn: str, weight: Tensor, stack: ExitStack) -> None:
        self._add(fqn, "weight", weight)
        if weight.requires_grad:
            hook = weight.register_hook(self._counting(fqn, "weight_gradient"))  # type: ignore[no-untyped-call]
            stack.callback(hook.remove)

    def _counting(self, fqn: str, kind: Kind) -> Callable[[Tensor], None]:
        def count(gradient: Tensor) -> None:
            # Hooks on outputs stay until their graph is freed.
            if self._inside:
                self._add(fqn, kind, gradient, self._loss_scale)

        return count

    @torch.no_grad()
    def _add(self, fqn: str, kind: Kind, tensor: Tensor, scale: float = 1.0) -> None:
        values = real_values(tensor)
        if values is None:
            return
        tally = self._tallies.get((fqn, kind))
        if tally is None:
            tally = self._tallies[fqn, kind] = Tally(values.device, self.elements)
        # Autocast would widen the whole tensor for the norm.
        with torch.autocast(values.device.type, enabled=False):
            tally.add(values, scale)

    @torch.no_grad()
    def _note_input(self, fqn: str, tensor: Tensor) -> None:
        values = real_values(tensor)
        if values is not None:
            with torch.autocast(values.device.type, enabled=False):
                given = largest(values).float()
            given = torch.where(given.isfinite(), given, 0.0)
            before = self._inputs.get(fqn, given)
            self._inputs[fqn] = torch.maximum(before, given.to(before.device))

    def _row(self, fqn: str, kind: Kind, tally: Tally) -> RangeRow:
        seen = tally.histogram()
        lowest, counts = seen.exponents()
        given = self._inputs.get(fqn) if kind == "activation" else None
        top = float(tally.largest)
        return RangeRow(
            fqn=fqn,
            kind=kind,
            dtype=", ".join(tally.dtypes),
            count=seen.total,
            zero_pct=100.0 * seen.zeros / max(1, seen.total),
            nonfinite_pct=100.0 * seen.nonfinite / max(1, seen.total),
            max_abs=top or None,
            min_abs=float(tally.smallest) if seen.nonzero else None,
            exponents={"lowest": lowest, "counts": counts},
            overflow_pct={name: seen.overflow_pct(item) for name, item in FORMATS.items()},
            underflow_pct={name: seen.underflow_pct(item) for name, item in FORMATS.items()},
            subnormal_pct={name: seen.subnormal_pct(item) for name, item in FORMATS.items()},
            underflow_scaled_pct=_scaled(kind, seen, top),
            max_input_abs=None if given is None else float(given),
            histogram=seen,
        )


def _scaled(kind: Kind, seen: Histogram, largest: float) -> dict[str, float]:
    by_tensor = (FORMATS[name] for name in ("e4m3", "e5m2"))
    shares = {item.name: seen.flushed_pct(item, item.largest / largest if largest else 1.0) for item in by_tensor}
    if kind in ("weight", "activation"):
        return shares
    return {"fp16": seen.flushed_pct(FORMATS["fp16"], LOSS_SCALE), **shares}


def _is_measured(module: nn.Module) -> bool:
    return next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None


def _plain(fqn: str) -> str:
    """Return the path as it was before torch.compile wrapped the model."""
    return ".".join(part for part in fqn.split(".") if part != "_orig_mod")


def _recomputing() -> bool:
    """Return whether a forward runs inside a backward pass."""
    # Private, but what torch's own checkpointing asks; a number other than -1 names the pass.
    return bool(torch._C._current_graph_task_id() != -1)


def _tensors(tree: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _tensors(list(vars(leaf).values()))
