"""No host synchronisation from autocast to step: nothing in between asks the device for a number.

Two nets catch a request: a dispatch mode sees the operations that a synchronisation needs, a function mode sees
the methods that copy a CPU tensor without an operation. Both are shown to catch what they are there for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ampguard import LossSum
from ampguard.engine import GradScaler, Guard

OPERATIONS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "equal",
    "masked_select",
    "item",
    "is_nonzero",
    "unique",
}
METHODS = {"tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # table[mask] is an `index` by bools, which must count them.
        masked = name in ("index", "index_put_") and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in OPERATIONS or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in METHODS:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def requests() -> Iterator[list[str]]:
    """Collect what asks for a number of the device."""
    found: list[str] = []
    with Operations() as operations, Methods() as methods:
        yield found
    found += methods.seen or operations.seen


FUSED: dict[str, Callable[..., Optimizer]] = {
    "adamw": lambda p: AdamW(p, fused=True),
    "sgd": lambda p: SGD(p, lr=0.01, fused=True),
    "sgd-momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, fused=True),
}
if hasattr(Adagrad([nn.Parameter(torch.zeros(1))], fused=True), "_step_supports_amp_scaling"):
    # In torch 2.11 its kernel took no loss scale, and the host is asked.
    FUSED["adagrad"] = lambda p: Adagrad(p, fused=True)


def make(maker: Callable[..., Optimizer], precision: str, **options) -> tuple[nn.Module, Guard]:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    on = {"max_grad_norm": 1.0, "schedule": lambda o: LambdaLR(o, lambda n: 1 / (1 + n)), "ema": 0.9}
    on["overrides"] = {"1": "fp32"}
    optimizer = maker(net.parameters())
    return net, Guard(net, optimizer, precision=precision, on_unsupported="emulate", check_every=8, **{**on, **options})


def attempt(net: nn.Module, guard: Guard, *, bad: bool, unscale: bool = False, counts: str = "int") -> Tensor:
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 1, 0, 1, 0])
    if bad:
        x = x * torch.inf
    for rows in (4, 2):
        with guard.autocast():
            loss = nn.functional.cross_entropy(net(x[:rows]), y[:rows], reduction="sum")
        if counts == "plain":
            guard.backward(loss / 6)
        elif counts == "weight":
            guard.backward(loss / rows, weight=rows)
        else:
            guard.backward(LossSum(loss, rows if counts == "int" else (y[:rows] >= 0).sum()))
    if unscale:
        guard.unscale_()
    return guard.step()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", FUSED)
def test_a_fused_step_with_every_feature_asks_the_device_nothing(name, precision):
    net, guard = make(FUSED[name], precision, init_scale=1024.0)
    assert guard.fused
    with requests() as found:
        applied = [attempt(net, guard, bad=step in (0, 3), counts="tensor" if step % 2 else "int") for step in range(7)]
    assert found == []
    assert [bool(answer) for answer in applied] == [step not in (0, 3) for step in range(7)]


@pytest.mark.parametrize("counts", ["plain", "int", "tensor", "weight"])
@pytest.mark.parametrize("unscale", [False, True])
def test_no_kind_of_loss_asks_the_device_anything(counts, unscale):
    net, guard = make(FUSED["adamw"], "fp16", agree=lambda found_inf: found_inf.clone())
    with requests() as found:
        for step in range(3):
            attempt(net, guard, bad=step == 1, unscale=unscale, counts=counts)
    assert found == []


def test_the_ring_is_read_once_in_check_every_steps():
    net, guard = make(FUSED["adamw"], "fp32", on_event=lambda event: None)
    with requests() as found:
        for _ in range(16):
            attempt(net, guard, bad=False)
    assert found == ["tolist", "tolist"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": None, "schedule": None, "ema": None}], ids=["all", "bare"])
def test_an_unfused_step_asks_exactly_once(precision, options):
    # SGD: torch's own unfused Adam also reads its step counts, which it keeps on the CPU.
    net, guard = make(lambda p: SGD(p, lr=0.01, momentum=0.9, dampening=0.1), precision, init_scale=1024.0, **options)
    assert not guard.fused
    for step in range(5):
        with requests() as found:
            attempt(net, guard, bad=step == 2)
        assert found == ["tolist"]


def scaled_step(scaler: torch.amp.GradScaler, optimizer: Optimizer, *, bad: bool, unscale: bool = False) -> Tensor:
    optimizer.zero_grad()
    loss = sum(p.square().sum() for p in optimizer.param_groups[0]["params"])
    scaler.scale(loss * torch.inf if bad else loss).backward()
    if unscale:
        scaler.unscale_(optimizer)
    applied = scaler.step(optimizer)
    scaler.update()
    return applied


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_a_scaler_with_a_fused_optimizer_asks_the_device_nothing(name, unscale):
    scaler, optimizer = GradScaler("cpu", check_every=8), FUSED[name](nn.Linear(3, 2).parameters())
    with requests() as found:
        applied = [scaled_step(scaler, optimizer, bad=step in (0, 3), unscale=unscale) for step in range(7)]
    assert found == []
    assert [bool(answer) for answer in applied] == [step not in (0, 3) for step in range(7)]
    with requests() as found:
        scaled_step(scaler, optimizer, bad=False)
    assert found == ["tolist"]


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused and dampened"])
def test_a_scaler_with_any_other_optimizer_asks_as_often_as_torchs(fused):
    for kind in (GradScaler, torch.amp.GradScaler):
        optimizer = SGD(nn.Linear(3, 2).parameters(), lr=0.01, momentum=0.9, dampening=0.1, fused=fused)
        scaler = kind("cpu")
        for step in range(4):
            with requests() as found:
                scaled_step(scaler, optimizer, bad=step == 2)
            assert found == (["item"] if kind is GradScaler or not fused else [])


PLANTED: dict[str, Callable[[Tensor], object]] = {
    "bool": bool,
    "float": float,
    "item": lambda t: t.item(),
    "tolist": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy(),
    "equal": lambda t: torch.equal(t, t),
    "nonzero": lambda t: t.nonzero(),
    "masked select": lambda t: t.masked_select(t > 0),
    "index by a mask": lambda t: t[t > 0],
    "if": lambda t: 1 if t > 0 else 0,
    "index by a number": lambda t: torch.arange(3)[t.long()],
    "index of a list": lambda t: [1, 2][t.long()],
    "where of one argument": lambda t: torch.where(t > 0),
}


@pytest.mark.parametrize("sync", PLANTED)
def test_a_planted_sync_is_caught(sync):
    with requests() as found:
        PLANTED[sync](torch.ones(()))
    assert found
