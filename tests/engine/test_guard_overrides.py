"""A Guard with per-module overrides: applied once, shown to run, and under every guarantee of the step."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch._functorch.config as compiler_config
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ampguard.engine import Guard
from ampguard.errors import ConfigError, PrecisionError

RUNS = ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true")


@pytest.fixture(autouse=True)
def _backward_setting_as_found() -> Iterator[None]:
    with compiler_config.patch(backward_pass_autocast="same_as_forward"):
        yield


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def make(precision: str, overrides: dict, **options) -> tuple[nn.Module, Optimizer, Guard]:
    torch.manual_seed(1)
    net = Net()
    optimizer = AdamW(net.parameters(), lr=0.01, fused=True)
    more = {"on_unsupported": "emulate", "init_scale": 1024.0, "overrides": overrides}
    return net, optimizer, Guard(net, optimizer, precision=precision, **{**more, **options})


def attempt(net: nn.Module, guard: Guard, seed: int, *, bad: bool = False) -> Tensor:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    with guard.autocast():
        loss = net(x * (torch.inf if bad else 1.0)).float().pow(2).mean()
    guard.backward(loss)
    return guard.step()


def everything(net: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    moments = [torch.as_tensor(value) for state in optimizer.state.values() for value in state.values()]
    return [tensor.clone() for tensor in (*net.state_dict().values(), *moments)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("precision", RUNS)
def test_a_skipped_step_moves_nothing_and_the_next_moves_on(precision):
    net, optimizer, guard = make(precision, {"norm": "fp32", "head": "fp32"})
    assert attempt(net, guard, 1)
    before = everything(net, optimizer)
    assert not attempt(net, guard, 2, bad=True)
    assert same(everything(net, optimizer), before)
    assert attempt(net, guard, 3)
    assert not same(everything(net, optimizer), before)


class ByHand(Net):
    """What the override of `head` is, written into the model."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        with torch.autocast("cpu", enabled=False):
            return self.head(y.float())


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
def test_training_is_bitwise_that_of_a_model_with_the_context_written_by_hand(precision):
    net, optimizer, guard = make(precision, {"head": "fp32"})
    other, other_optimizer, other_guard = make(precision, {})
    other.__class__ = ByHand
    for seed in range(4):
        attempt(net, guard, seed, bad=seed == 2)
        attempt(other, other_guard, seed, bad=seed == 2)
    assert same(everything(net, optimizer), everything(other, other_optimizer))


def test_compiled_training_has_the_gradients_of_eager_training():
    torch.compiler.reset()
    net, _, guard = make("bf16-mixed", {"head": "fp32"})
    other, _, other_guard = make("bf16-mixed", {"head": "fp32"})
    net.compile(fullgraph=True, backend="aot_eager")
    attempt(net, guard, 1)
    attempt(other, other_guard, 1)
    assert same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()])


def test_a_part_in_lower_precision_trains_in_an_fp32_run():
    net, _, guard = make("fp32", {"stem": "bf16"})
    assert attempt(net, guard, 1)
    assert net.stem(torch.ones(1, 4)).dtype == torch.float32
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}


def test_an_fp32_part_of_a_bf16_run_keeps_float32_weights_and_moments():
    net, optimizer, guard = make("bf16-true", {"head": "fp32"})
    assert attempt(net, guard, 1)
    assert guard.fused
    assert net.head.weight.dtype == optimizer.state[net.head.weight]["exp_avg"].dtype == torch.float32
    assert net.stem.weight.dtype == optimizer.state[net.stem.weight]["exp_avg"].dtype == torch.bfloat16


class WithBranch(Net):
    def __init__(self) -> None:
        super().__init__()
        # Of a class that no other test has compiled: what torch.compile has traced counts as run.
        self.unused = nn.Bilinear(2, 2, 2)


def test_a_module_that_did_not_run_is_an_error_of_the_first_step_before_anything_moves():
    torch.manual_seed(1)
    net = WithBranch()
    optimizer = AdamW(net.parameters(), fused=True)
    guard = Guard(net, optimizer, overrides={"unused": "fp32", "head": "fp32"})
    before = everything(net, optimizer)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"the forward of 'unused' was not called in the first step"):
            attempt(net, guard, 1, bad=True)
        guard.rewind()
    assert same(everything(net, optimizer), before) and guard.attempted == 0


def test_a_module_may_rest_after_the_first_step():
    net, _, guard = make("bf16-mixed", {"head": "fp32"})
    attempt(net, guard, 1)
    with guard.autocast():
        loss = net.stem(torch.ones(1, 4)).sum()
    guard.backward(loss)
    assert guard.step()


def test_the_last_guard_over_a_model_holds():
    net, optimizer, _ = make("bf16-mixed", {"norm": "fp32", "head": "fp32"})
    Guard(net, optimizer, precision="bf16-mixed", on_unsupported="emulate", overrides={"head": "fp32"})
    assert type(net.norm) is nn.BatchNorm1d and "Linear[fp32]" in repr(net)
    Guard(net, optimizer)
    assert [type(module) for module in net.modules()] == [type(module) for module in Net().modules()]


def test_a_run_goes_on_bitwise_from_its_states():
    overrides = {"norm": "fp32", "head": "fp32"}
    net, optimizer, guard = make("fp16-mixed", overrides, ema=0.9)
    attempt(net, guard, 1)
    states = copy.deepcopy((net.state_dict(), optimizer.state_dict(), guard.state_dict()))
    attempt(net, guard, 2)
    again, again_optimizer, again_guard = make("fp16-mixed", overrides, ema=0.9)
    for part, state in zip((again, again_optimizer, again_guard), states, strict=True):
        part.load_state_dict(state)
    attempt(again, again_guard, 2)
    assert same(everything(net, optimizer), everything(again, again_optimizer))


@pytest.mark.parametrize("precision", RUNS)
def test_fp16_is_for_runs_that_scale(precision):
    if precision == "fp16-mixed":
        net, _, guard = make(precision, {"": "fp32", "head": "fp16"})
        assert attempt(net, guard, 1)
    else:
        with pytest.raises(PrecisionError, match="fp16-mixed needs the loss scale"):
            make(precision, {"head": "fp16"})


@pytest.mark.parametrize("given", [["head=fp32"], "head=fp32", None])
def test_overrides_are_a_mapping(given):
    with pytest.raises(ConfigError, match=r"overrides is .*; it must be a mapping \{glob: precision\}"):
        make("fp32", given)
