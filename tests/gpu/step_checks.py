"""What must hold of single steps on a device: parity with torch, exact skips, no synchronisation.

Each check takes the device, so that its logic runs on a CPU too; it returns figures, and raises AssertionError with
the figure that is wrong. On a CPU bf16 and fp16 are emulated where they have to be, and "no synchronisation" is seen
by modes of torch that watch its operations and methods, instead of CUDA's own.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bare import LR, Recipe, bare, guarded
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ampguard import Guard, LossSum

BATCH, FEATURES, CLASSES = 16, 32, 10
PARITY_STEPS = 40
OVERFLOWS = frozenset({1, 7, 8, 25})
"""Steps, from 1, whose batch is made infinite: the first of all, two in a row, a late one."""
UNCLIPPED_BOUND = PARITY_STEPS * 2.0**-22
"""Relative to the norm of the weights. Ours and torch's fused kernels divide by the same power of two, so the weights
are equal bit for bit (`bitwise` says so); the bound leaves two roundings a step for kernels that sum in another order
from run to run."""
CLIPPED_BOUND = PARITY_STEPS * 2.0**-21
"""Ours divides once where torch multiplies twice: two more roundings a step."""
CHECK_EVERY = 10
PARITY_CASES = {
    "adamw": Recipe(precision="fp16-mixed", growth_interval=5),
    "adamw, clipped": Recipe(precision="fp16-mixed", growth_interval=5, max_norm=0.1),
    "sgd": Recipe(
        precision="fp16-mixed", growth_interval=5, make_optimizer=lambda params: SGD(params, lr=0.05, fused=True)
    ),
}

Batch = tuple[Tensor, Tensor]


def require(fine: bool, message: str) -> None:
    """Raise AssertionError with `message`, also under python -O and without pytest."""
    if not fine:
        raise AssertionError(message)


def network(device: torch.device, *, norm: bool) -> nn.Sequential:
    """Return an MLP with the same first weights at each call; `norm`: with BatchNorm."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(64)] if norm else []
    return nn.Sequential(nn.Linear(FEATURES, 64), *norms, nn.ReLU(), nn.Linear(64, CLASSES)).to(device)


def batches(device: torch.device, count: int, bad: frozenset[int] = frozenset()) -> list[Batch]:
    """Return the same batches at each call, on the device; those whose ordinal (from 1) is in `bad` are infinite."""
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for ordinal in range(1, count + 1):
        x = torch.randn((BATCH, FEATURES), generator=generator)
        y = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        drawn.append(((x * torch.inf if ordinal in bad else x).to(device), y.to(device)))
    return drawn


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def check_parity(device: torch.device) -> dict[str, Any]:
    """Hold ours against torch.amp.GradScaler in fp16 with overflows: the scale at each step, the weights at the end."""
    return {name: _parity(device, recipe) for name, recipe in PARITY_CASES.items()}


def _parity(device: torch.device, recipe: Recipe) -> dict[str, Any]:
    theirs, mine = network(device, norm=False), network(device, norm=False)
    stock, scaler = bare(theirs, mean_loss, recipe)
    step, guard = guarded(mine, mean_loss, recipe)
    for ordinal, batch in enumerate(batches(device, PARITY_STEPS, OVERFLOWS), 1):
        stock(batch)
        step(batch)
        scale = guard.state_dict()["scale"]["scale"]
        require(scale == scaler.get_scale(), f"step {ordinal}: loss scale {scale}, torch's is {scaler.get_scale()}")
    record = guard.read()
    require(record.skipped_steps >= len(OVERFLOWS), f"{record.skipped_steps} skipped, {len(OVERFLOWS)} overflowed")
    weights, right = flat(mine), flat(theirs)
    difference = ((weights - right).norm() / right.norm()).item()
    bound = UNCLIPPED_BOUND if recipe.max_norm is None else CLIPPED_BOUND
    require(difference <= bound, f"the weights differ by {difference:.2e} of their norm; at most {bound:.2e}")
    return {
        "steps": record.step,
        "skipped_steps": record.skipped_steps,
        "bitwise": torch.equal(weights, right),
        "difference": difference,
        "bound": bound,
    }


def check_exact_skips(device: torch.device, precision: str) -> dict[str, Any]:
    """A skipped step leaves every tensor bit for bit; a run with skips is the run that never saw those batches."""
    model = network(device, norm=True)
    step, guard = guarded(model, mean_loss, _skipping(precision), ema=0.9)
    for ordinal, batch in enumerate(batches(device, 12, OVERFLOWS), 1):
        before = _everything(model, guard)
        step(batch)
        changed = [name for name, tensor in _everything(model, guard).items() if not _same(tensor, before.get(name))]
        if ordinal in OVERFLOWS:
            require(not changed, f"skipped step {ordinal} changed {', '.join(changed)}")
        else:
            require(len(changed) > 4, f"applied step {ordinal} changed only {', '.join(changed) or 'nothing'}")
    figures = {"skipped_steps": guard.read().skipped_steps, "tensors_compared": len(before)}
    if precision != "fp16-mixed":
        # In fp16 the scale differs after a skip, and with it what underflows.
        figures["equals_unseen"] = _equals_unseen(device, precision)
    return figures


def _skipping(precision: str) -> Recipe:
    """A scale so low that fp16 overflows on the infinite batches only; an LR that moves at each applied step."""
    return Recipe(precision=precision, init_scale=2.0**8, max_norm=1.0, lr_factor=lambda applied: 1 / (1 + applied))


def _everything(model: nn.Module, guard: Guard) -> dict[str, Tensor]:
    """Return copies of all that a step may move: parameters, buffers, optimizer state, LR, EMA."""
    (optimizer,) = guard.optimizers
    found = dict(model.state_dict())
    for index, state in enumerate(optimizer.state.values()):
        found |= {f"{name} of parameter {index}": value for name, value in state.items()}
    found |= {f"EMA of {name}": value for name, value in guard.state_dict()["ema"].items()}
    found |= {f"LR of group {i}": torch.as_tensor(group["lr"]) for i, group in enumerate(optimizer.param_groups)}
    return {name: value.detach().clone() for name, value in found.items()}


def _same(left: Tensor, right: Tensor | None) -> bool:
    """A state that the first, skipped step made must be as a fresh one: zeros."""
    return torch.equal(left, torch.zeros_like(left) if right is None else right)


def _equals_unseen(device: torch.device, precision: str) -> bool:
    saw, never = network(device, norm=True), network(device, norm=True)
    step, _ = guarded(saw, mean_loss, _skipping(precision))
    for batch in batches(device, 30, OVERFLOWS):
        step(batch)
    step, _ = guarded(never, mean_loss, _skipping(precision))
    for ordinal, batch in enumerate(batches(device, 30), 1):
        if ordinal not in OVERFLOWS:
            step(batch)
    same = all(torch.equal(a, b) for a, b in zip(saw.state_dict().values(), never.state_dict().values(), strict=True))
    require(same, "a run with skipped batches differs from the run that never saw them")
    return same


class _Operations(TorchDispatchMode):
    """Raises at an operation that would make the host wait for a GPU."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "equal", "masked_select")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        require(name not in self.FORBIDDEN, f"{name} synchronises")
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Raises at a method that reads a tensor, some of which copy a CPU tensor without an operation."""

    FORBIDDEN = ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        require(name not in self.FORBIDDEN, f"{name} synchronises")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync(device: torch.device) -> Iterator[None]:
    """Raise where the host waits for the device. On a CPU: where it would, on a GPU."""
    if device.type != "cuda":
        with _Operations(), _Methods():
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch says at the first call that the mode is a prototype and may miss a synchronisation.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_net(device: torch.device) -> dict[str, Any]:
    """The net of `no_sync` is not torn: it catches a read."""
    value = torch.ones((), device=device)
    try:
        with no_sync(device):
            value.item()
    except (RuntimeError, AssertionError) as error:
        return {"caught": str(error).splitlines()[0]}
    raise AssertionError("a read of the device was not seen")


def check_no_sync(device: torch.device, precision: str) -> dict[str, Any]:
    """Between two reads no step waits for the device: with clipping, schedule, EMA, accumulation and an overflow."""
    model = network(device, norm=True)
    optimizer = AdamW(model.parameters(), lr=torch.tensor(LR, device=device), fused=True)
    recipe = _skipping(precision)
    _, guard = guarded(
        model,
        mean_loss,
        Recipe(**{**vars(recipe), "make_optimizer": lambda params: optimizer}),
        ema=0.9,
        check_every=CHECK_EVERY,
    )
    watched = 0
    for ordinal, batch in enumerate(batches(device, 3 * CHECK_EVERY, frozenset({13, 14})), 1):
        # In the first window torch and its kernels set themselves up; every tenth step is the read.
        if ordinal <= CHECK_EVERY or ordinal % CHECK_EVERY == 0:
            _accumulated(model, guard, batch)
            continue
        with no_sync(device):
            _accumulated(model, guard, batch)
        watched += 1
    record = guard.read()
    require(record.skipped_steps == 2, f"{record.skipped_steps} steps were skipped instead of 2")
    return {"steps_watched": watched, "skipped_steps": record.skipped_steps, "fused": guard.fused}


def _accumulated(model: nn.Module, guard: Guard, batch: Batch) -> None:
    for x, y in zip(batch[0].split(10), batch[1].split(10), strict=True):
        with guard.autocast():
            total = functional.cross_entropy(model(x), y, reduction="sum")
        guard.backward(LossSum(total, len(y)))
    guard.step()
