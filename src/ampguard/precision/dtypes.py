"""What ran in which dtype: one forward, watched module by module and operation by operation.

How it works: forward hooks keep a stack of the modules that are running; a dispatch mode, which stands below autocast
and sees the casts that it adds, gives every operation to the module on top. An operation's dtypes are those of its
operands. Casts, copies and views move numbers and compute nothing: they do not count.

    fqn             class   weights   inputs    compute    outputs
    blocks.0.mlp.0  Linear  float32   float32   bfloat16   bfloat16

A row is a module that runs no other module inside, or that computes something itself (attention by a function call);
one that never ran is a row with no calls. "" is the model itself, OUTSIDE the code around it: the loss.

Left out: the backward, whose operations take the dtypes of the forward's; the accumulators inside an operation; and
tf32, in which every tensor stays float32. Compiled modules run eagerly here, as torch does under a dispatch mode.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUTSIDE = "(outside the model)"
"""Stands for the fqn of what runs while no module does."""

_MOVES = re.compile(r"_to_copy|copy_|clone|new_\w+|\w+_like")
"""Operations that only move or make numbers, whatever their operands are, by aten's names."""


@dataclass(frozen=True, kw_only=True)
class DtypeRow:
    """The dtypes of one module in one forward, as torch names them: "float32"; each tuple without repeats."""

    fqn: str
    """Path of the module; "" is the model itself."""
    kind: str
    """Name of its class, "Linear[fp32]" where it has a precision of its own."""
    weights: tuple[str, ...]
    """Storage dtypes of its own parameters."""
    inputs: tuple[str, ...]
    """Dtypes of the tensors given to it, integers included."""
    compute: tuple[str, ...]
    """Dtypes of the floating-point operands of what it computes itself, not in modules inside it."""
    outputs: tuple[str, ...]
    """Dtypes of the tensors that it returned."""
    calls: int
    """How often it ran; 0: never."""


@dataclass
class _Seen:
    """What was seen of one module; dicts, for they keep their order."""

    inputs: dict[str, None] = field(default_factory=dict)
    compute: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, None] = field(default_factory=dict)
    calls: int = 0


def dtype_table(model: nn.Module, run: Callable[[], object]) -> list[DtypeRow]:
    """Run a forward once and return what each module computed in.

    Buffers and torch's random numbers are afterwards as they were; all hooks are removed, also after an exception.

    Args:
        model: Its modules are watched.
        run: One forward of it, with its autocast and its loss: `lambda: task.loss(model, batch)`.

    Returns:
        A row for each module that ran and has none inside, or computed something itself; then OUTSIDE, if anything
        was computed there; then the modules that never ran, containers without weights apart.

    Sync: none of its own.
    """
    modules = dict(model.named_modules())
    seen = {module: _Seen() for module in modules.values()}
    outside = _Seen()
    stack = [outside]
    with _restored(model), ExitStack() as hooks, _Watch(stack):
        for module in seen:
            hooks.callback(module.register_forward_pre_hook(_entering(seen, stack), with_kwargs=True).remove)
            # Prepended: it must see the output as the module returned it.
            hook = module.register_forward_hook(_leaving(seen, stack), prepend=True, always_call=True)
            hooks.callback(hook.remove)
        run()
    rows = [_row(fqn, module, seen[module]) for fqn, module in modules.items()]
    ran = [row for row in rows if row.calls and (row.compute or _is_leaf(modules[row.fqn]))]
    around = [_row(OUTSIDE, None, outside)] if outside.compute else []
    idle = [row for row in rows if not row.calls and (row.weights or _is_leaf(modules[row.fqn]))]
    return [*ran, *around, *idle]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives the dtypes of each operation to the module on top of the stack."""

    def __init__(self, stack: list[_Seen]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stack = stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if not func.is_view and not _MOVES.fullmatch(func.overloadpacket.__name__):
            # Tensors without dimensions are numbers beside the others: torch computes in the dtype of those.
            operands = [t for t in _tensors((args, kwargs)) if t.is_floating_point() and t.dim()]
            self._stack[-1].compute.update(_dtypes(operands))
        return func(*args, **kwargs)


def _entering(seen: dict[nn.Module, _Seen], stack: list[_Seen]) -> Callable[..., None]:
    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        now = seen[module]
        stack.append(now)
        now.calls += 1
        now.inputs.update(_dtypes(_tensors((args, kwargs))))

    return enter


def _leaving(seen: dict[nn.Module, _Seen], stack: list[_Seen]) -> Callable[..., None]:
    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del args
        if stack[-1] is seen[module]:
            stack.pop()
        seen[module].outputs.update(_dtypes(_tensors(output)))

    return leave


def _row(fqn: str, module: nn.Module | None, seen: _Seen) -> DtypeRow:
    weights = () if module is None else module.parameters(recurse=False)
    return DtypeRow(
        fqn=fqn,
        kind="" if module is None else module._get_name(),  # type: ignore[no-untyped-call]
        weights=tuple(_dtypes(weights)),
        inputs=tuple(seen.inputs),
        compute=tuple(seen.compute),
        outputs=tuple(seen.outputs),
        calls=seen.calls,
    )


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _dtypes(tensors: Iterable[Tensor]) -> dict[str, None]:
    return dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put buffers and torch's random numbers back, those of the model's accelerator included (but for MPS)."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # fork_rng asks a device for the generator of an index, which MPS does not take.
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type not in ("cpu", "mps")}
    kind = next((device.type for device in devices), "cuda")
    with torch.random.fork_rng([device.index for device in devices], device_type=kind):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, saved in buffers:
                    buffer.copy_(saved)
