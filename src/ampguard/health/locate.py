"""The first module whose output or gradient is not finite: where it is, in which phase, and the likely cause.

    with Locator(model) as locator:
        loss = loss_fn(model(x), y)
        loss.backward()
    print(locator.finding)

A forward hook on each module compares what went in with what came out; a hook on each node of the autograd graph does
so for gradients (graph.py). Children return before their parent, so the innermost module is named; a container is
named only where its own code did it, between its children. A checkpointed block that is computed again counts as a
forward of its own. Compiled models run eagerly meanwhile, as far as torch.compile is in use in this process.

-inf alone is no proof, for attention masks are made of it: it is named only where the loss turns out non-finite too,
or NaN follows from it. A forward without gradients, such as a validation, is not looked at.

It costs a synchronisation for each module and each operation of the backward pass. Numbers, buffers and generators are
as without it. Left out: modules whose `forward` is called past their `__call__`, and tensors within torch.func.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ampguard.health.cause import Evidence, Kind, backward_cause, forward_cause
from ampguard.health.graph import Graph, Part
from ampguard.health.readings import Reading, read, readable, tensors_in
from ampguard.precision import precision_of

Phase = Literal["data", "weights", "forward", "loss", "backward"]
_PRODUCTS = ("mm", "Mm", "MatMul", "Linear", "Convolution", "DotProduct", "Bilinear", "Einsum")
"""In the names of operations that autocast runs in half precision."""
LOSS = "loss"
"""The fqn of a finding behind the last module: the loss function, which is no part of the model."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Where a number became non-finite first."""

    fqn: str
    """The module as torch prints it, without "_orig_mod"; "" for the model itself, "loss" behind the last module."""
    phase: Phase
    """data: what the module was given. weights: a parameter of it. forward: its output. backward: the gradient that it
    made. loss: the loss, from outputs that were finite."""
    kind: Kind
    dtype: str
    """The format in which it was computed, as torch names it: "float16"."""
    shape: tuple[int, ...]
    """Shape of the first tensor that is not finite."""
    max_abs_before: float | None
    """Largest finite |x| of the module's inputs (forward) or of the gradients that came in (backward)."""
    limit: float
    """The format's largest finite number."""
    cause: str
    """One sentence for people."""
    call: int = 1
    """Which call of the module in this step, from 1."""

    def message(self) -> str:
        """Return the place and the cause as one sentence."""
        place = {"": "the model itself", LOSS: "the loss"}.get(self.fqn, f"module {self.fqn!r}")
        nth = f", call {self.call}" if self.call > 1 else ""
        return f"{place}, {self.phase}{nth}: {self.cause} ({self.dtype}, shape {self.shape})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "shape": list(self.shape)}

    def __str__(self) -> str:
        return self.message()


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call of a module that is under way, or was."""

    module: nn.Module
    fqn: str
    number: int
    before: Reading
    computes: torch.dtype | None
    """The half precision that autocast computes in; None: whatever the tensors have."""
    ignored: bool


@dataclass(frozen=True)
class _Suspect:
    finding: Finding
    sure: bool
    """False: -inf alone, which may be a mask."""


class Locator(AbstractContextManager["Locator"]):
    """Looks for the first non-finite number while it is entered.

    Args:
        model: Its modules are watched.
        loss_scale: What the loss is multiplied by, for the words of a finding; may be set at any time.
    """

    def __init__(self, model: nn.Module, *, loss_scale: float | None = None) -> None:
        self.model = model
        self.loss_scale = loss_scale
        self._armed = ExitStack()
        self._graph: Graph[_Call | None] = Graph(self._passed)
        self._clear()

    def _clear(self) -> None:
        self._graph.forget()
        self._suspects: list[_Suspect] = []
        self._found = False
        """Whether a suspect is sure: from then on nothing is looked at."""
        self._loss: _Suspect | None = None
        self._calls: list[_Call] = []
        self._counts: dict[str, int] = {}
        self._masks_out = False
        """Whether the model handed -inf on to the loss."""
        self._outer: set[Any] = set()
        """The last nodes of the model: what comes in there comes from the loss."""

    def __enter__(self) -> "Locator":
        with ExitStack() as hooks:
            # torch.compile takes seconds to import, and what nobody imported has compiled nothing.
            if "torch._dynamo" in sys.modules:
                hooks.enter_context(torch.compiler.set_stance("force_eager"))
            self._names = _names(self.model)
            for module in self._names:
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                hooks.callback(before.remove)
                after = module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
                hooks.callback(after.remove)
            hooks.callback(self._graph.forget)
            self._armed = hooks.pop_all()
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed.close()

    def restart(self) -> None:
        """Forget what was seen and look at the weights: another step begins. Sync: one for each parameter."""
        self._clear()
        for module, fqns in self._names.items():
            for name, parameter in module.named_parameters(recurse=False):
                reading = read([parameter])
                if not reading.finite:
                    self._accuse_weights(fqns[0], name, parameter, reading)
                    return

    def _accuse_weights(self, fqn: str, name: str, parameter: Tensor, reading: Reading) -> None:
        cause = f"parameter {name!r} holds {reading.count} values that are not finite, before the step"
        finding = _finding(fqn, "weights", "weights", parameter, parameter.dtype, reading.max_abs, cause)
        self._suspect(finding, sure=True)

    def check_inputs(self, batch: object) -> None:
        """Look at a batch before the model is given it. Sync: one for each tensor."""
        self._check_data("", readable(list(tensors_in(batch))))

    def _check_data(self, fqn: str, given: Sequence[Tensor]) -> None:
        bad, reading = _first_bad(given)
        if bad is None or self._found:
            return
        cause = f"the batch holds {reading.count} values that are not finite"
        finding = _finding(fqn, "data", "data", bad, bad.dtype, reading.max_abs, cause)
        self._suspect(finding, sure=reading.broken)

    def check_loss(self, loss: Tensor) -> None:
        """Look at the loss, before its backward or after. Sync: one."""
        reading = read([loss])
        self._graph.claim([loss], None, readable=_saved_plainly())
        if not reading.finite:
            cause = "the loss is not finite, and the outputs of all modules are"
            self._loss = _Suspect(_finding(LOSS, "loss", "unknown", loss, loss.dtype, None, cause), sure=True)

    @property
    def finding(self) -> Finding | None:
        """The first in order of computation: weights, data, forward, loss, backward; None while all is finite."""
        sure = next((suspect.finding for suspect in self._suspects if suspect.sure), None)
        if sure is not None and sure.phase != "backward":
            return sure
        # log(0) is -inf, which says nothing until its gradient, or the loss, is not finite either.
        masks = [suspect.finding for suspect in self._suspects if not suspect.sure]
        spoiled = self._loss is not None or (sure is not None and sure.fqn == LOSS)
        same = [mask for mask in masks if (spoiled and self._masks_out) or (sure is not None and mask.fqn == sure.fqn)]
        if same:
            return same[0]
        return sure if self._loss is None else self._loss.finding

    def _suspect(self, finding: Finding, *, sure: bool) -> None:
        self._suspects.append(_Suspect(finding, sure))
        self._found |= sure

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        outer = self._calls[-1] if self._calls else None
        given = readable(list(tensors_in((args, kwargs))))
        ignored = outer.ignored if outer else not (torch.is_grad_enabled() or any(x.requires_grad for x in given))
        looks = not (ignored or self._found)
        before = read(given) if looks else Reading()
        if looks:
            parts = self._graph.claim(given, outer, readable=_saved_plainly())
            if not (before.finite or _in_backward()):
                self._judge_inputs(outer, self._name(module, outer), given, parts)
        self._calls.append(self._call(module, outer, before, ignored=ignored))

    def _call(self, module: nn.Module, outer: _Call | None, before: Reading, *, ignored: bool) -> _Call:
        fqn = self._name(module, outer)
        # A block that is computed again in the backward pass is the call that it was.
        number = self._counts.get(fqn, 0) + (not ignored and not _in_backward())
        self._counts[fqn] = number
        computes = _computes(module, next(module.parameters(), None))
        return _Call(module=module, fqn=fqn, number=max(1, number), before=before, computes=computes, ignored=ignored)

    def _name(self, module: nn.Module, outer: _Call | None) -> str:
        """Return the module's fqn; of a shared one, that under the module which calls it."""
        fqns = self._names[module]
        if outer is None or len(fqns) == 1:
            return fqns[0]
        inside = f"{outer.fqn}." if outer.fqn else ""
        return next((fqn for fqn in fqns if fqn.startswith(inside)), fqns[0])

    def _judge_inputs(
        self, outer: _Call | None, fqn: str, given: Sequence[Tensor], parts: Sequence[Part[_Call | None]]
    ) -> None:
        bad, reading = _first_bad(given)
        if outer is None and bad is not None and bad.grad_fn is None:
            self._check_data(fqn, given)
        elif bad is not None and (reading.broken or bad.requires_grad):
            # Nobody returned it: the code around did it, between its modules.
            self._accuse(outer, bad, reading, parts)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        del args, kwargs
        if all(call.module is not module for call in self._calls):
            return
        while (call := self._calls.pop()).module is not module:
            pass
        if call.ignored or self._found:
            return
        made = readable(list(tensors_in(output)))
        parts = self._graph.claim(made, call, readable=_saved_plainly())
        bad, reading = _first_bad(made)
        if not self._calls:
            self._outer |= {tensor.grad_fn for tensor in made}
            self._masks_out |= reading.masked
        if bad is None:
            return
        source = next((s for s in self._suspects if s.finding.phase == "forward"), None)
        if reading.broken and call.before.masked and source is not None and not _takes_masks(parts):
            # NaN from -inf: what made the -inf was no mask.
            self._suspect(source.finding, sure=True)
        else:
            self._accuse(call, bad, reading, parts)

    def _accuse(self, call: _Call | None, bad: Tensor, after: Reading, parts: Sequence[Part[_Call | None]]) -> None:
        before = call.before if call else Reading()
        dtype = _worked_in(call, bad, parts)
        kind, cause = forward_cause(Evidence(dtype=dtype, before=before, after=after, parts=parts))
        if call and next(call.module.children(), None) is not None:
            cause += "; in its own code, between the modules that it calls"
        finding = _finding(call.fqn if call else "", "forward", kind, bad, dtype, before.max_abs, cause, call)
        self._suspect(finding, sure=after.broken)

    def _passed(self, part: Part[_Call | None], made: Sequence[Tensor | None], got: Sequence[Tensor | None]) -> None:
        if self._found:
            return
        bad, after = _first_bad(readable(made))
        if bad is None:
            return
        arrived, before = _first_bad(readable(got))
        if arrived is not None:
            self._accuse_before(part, arrived, before)
            return
        evidence = Evidence(dtype=bad.dtype, before=read(got), after=after, parts=[part], loss_scale=self.loss_scale)
        kind, cause = backward_cause(evidence)
        fqn = part.owner.fqn if part.owner else LOSS
        self._suspect(
            _finding(fqn, "backward", kind, bad, bad.dtype, evidence.before.max_abs, cause, part.owner), sure=True
        )

    def _accuse_before(self, part: Part[_Call | None], arrived: Tensor, before: Reading) -> None:
        """What came in was not finite and nobody seen made it: the loss, or the sum over several uses."""
        evidence = Evidence(dtype=arrived.dtype, before=before, after=before, parts=(), loss_scale=self.loss_scale)
        kind, cause = backward_cause(evidence)
        owner = None if part.node in self._outer else part.owner
        fqn = owner.fqn if owner else LOSS
        self._suspect(_finding(fqn, "backward", kind, arrived, arrived.dtype, before.max_abs, cause, owner), sure=True)


def _finding(
    fqn: str, phase: Phase, kind: Kind, bad: Tensor, dtype: torch.dtype, max_abs: float | None, cause: str,
    call: _Call | None = None,
) -> Finding:  # fmt: skip
    return Finding(
        fqn=fqn,
        phase=phase,
        kind=kind,
        dtype=str(dtype).removeprefix("torch."),
        shape=tuple(bad.shape),
        max_abs_before=max_abs,
        limit=float(torch.finfo(dtype).max),
        cause=cause,
        call=call.number if call else 1,
    )


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Return the fqns of each module, shared ones with several; compiled ones under the name that they had before."""
    names: dict[nn.Module, list[str]] = {}
    for fqn, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(".".join(part for part in fqn.split(".") if part != "_orig_mod"))
    return names


def _first_bad(tensors: Sequence[Tensor]) -> tuple[Tensor | None, Reading]:
    """Return the first tensor that holds NaN or inf, else the first that holds -inf, and its reading."""
    readings = [(tensor, read([tensor])) for tensor in tensors]
    tests: tuple[Callable[[Reading], bool], ...] = (lambda x: x.broken, lambda x: x.masked)
    for bad in tests:
        for tensor, reading in readings:
            if bad(reading):
                return tensor, reading
    return None, Reading()


def _takes_masks(parts: Sequence[Part[Any]]) -> bool:
    return any("oftmax" in part.node.name() or "DotProduct" in part.node.name() for part in parts)


def _worked_in(call: _Call | None, bad: Tensor, parts: Sequence[Part[Any]]) -> torch.dtype:
    """Return the format that gave up: float32 results of autocast may come from products in half precision."""
    products = any(name in part.node.name() for part in parts for name in _PRODUCTS)
    narrow = call.computes if call else None
    return narrow if narrow is not None and bad.dtype is torch.float32 and products else bad.dtype


def _computes(module: nn.Module, like: Tensor | None) -> torch.dtype | None:
    own = precision_of(module)
    if own is not None:
        return own.compute_dtype if own.autocasts else None
    kind = "cpu" if like is None else like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _saved_plainly() -> bool:
    """Return whether saved tensors can be looked at: a hook on them, as checkpointing has, may compute them again."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
