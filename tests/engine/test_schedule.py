"""Any LR schedule, tabulated ahead, counts applied steps only."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from ampguard.engine import Guard
from ampguard.engine.schedule import CHUNK, TableSchedule
from ampguard.errors import ConfigError

CPU = torch.device("cpu")


def adamw(*, fused: bool = True, lr: float = 0.1) -> AdamW:
    return AdamW(nn.Linear(3, 2).parameters(), lr=lr, fused=fused)


def table(factory, optimizer=None, *, fused: bool = True) -> TableSchedule:
    return TableSchedule(factory, [optimizer or adamw()], device=CPU, fused=fused)


def make(*, fused: bool = True, schedule=lambda o: ExponentialLR(o, 0.5)) -> tuple[nn.Linear, AdamW, Guard]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = AdamW(net.parameters(), lr=0.1, fused=fused)
    return net, optimizer, Guard(net, optimizer, schedule=schedule, on_event=lambda event: None)


def attempt(net: nn.Module, guard: Guard, *, bad: bool = False) -> None:
    with guard.autocast():
        loss = net(torch.full((2, 3), torch.inf if bad else 1.0)).pow(2).mean()
    guard.backward(loss)
    guard.step()


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_does_not_move_the_lr(fused):
    net, optimizer, guard = make(fused=fused)
    lrs = []
    for step in range(6):
        lrs.append(float(optimizer.param_groups[0]["lr"]))
        attempt(net, guard, bad=step in (0, 1, 3))
        assert guard.read().lr == lrs[-1]
    assert lrs == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]


def test_the_table_is_extended_past_its_first_chunk():
    schedule = table(lambda o: LambdaLR(o, lambda n: 1 / (1 + n)))
    schedule.reach(CHUNK + 10)
    for n in (0, CHUNK - 1, CHUNK, CHUNK + 10):
        schedule.advance(torch.tensor([n]))
        assert schedule.lr(n) == 0.1 * (1 / (1 + n))
        assert schedule._row.item() == schedule.lr(n)


def test_a_guard_resumed_past_the_first_chunk_has_the_lr_of_that_step():
    net, optimizer, guard = make(schedule=lambda o: StepLR(o, step_size=3000, gamma=0.1))
    state = guard.state_dict()
    state["tally"] |= {"attempted": 2 * CHUNK, "applied": 2 * CHUNK - 5, "skipped": 5}
    guard.load_state_dict(state)
    attempt(net, guard)
    expected = 0.1
    for _ in range((2 * CHUNK - 5) // 3000):
        expected *= 0.1
    assert guard.read().lr == expected == float(optimizer.param_groups[0]["lr"])


def test_past_its_own_end_the_last_lr_holds():
    factory = lambda o: OneCycleLR(o, max_lr=0.1, total_steps=10, cycle_momentum=False)  # noqa: E731
    schedule, optimizer = table(factory), adamw()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = factory(optimizer)
        for _ in range(9):
            reference.step()
    assert schedule.lr(9) == schedule.lr(10) == schedule.lr(4000) == optimizer.param_groups[0]["lr"]
    assert schedule.lr(8) != schedule.lr(9)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda o: OneCycleLR(o, max_lr=0.1, total_steps=10), "also changes betas or momentum"),
        (lambda o: CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=4), "also changes betas or momentum"),
        (lambda o: ReduceLROnPlateau(o), "ReduceLROnPlateau, which needs a metric"),
        (lambda o: None, "returned NoneType, not a torch.optim.lr_scheduler.LRScheduler"),
    ],
    ids=["one cycle", "cyclic", "plateau", "nothing"],
)
@pytest.mark.parametrize("maker", [lambda p: Adam(p, lr=0.1, fused=True), lambda p: SGD(p, lr=0.1, momentum=0.9)])
def test_what_a_table_cannot_hold_is_refused(maker, factory, words):
    with pytest.raises(ConfigError, match=words):
        table(factory, maker(nn.Linear(3, 2).parameters()))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("order", ["guard first", "optimizer first"])
def test_loading_in_either_order_binds_the_lr_again(fused, order):
    net, optimizer, guard = make(fused=fused)
    for step in range(3):
        attempt(net, guard, bad=step == 1)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), guard.state_dict()))
    other_net, other, other_guard = make(fused=fused)
    other_net.load_state_dict(saved[0])
    loads = [lambda: other_guard.load_state_dict(saved[2]), lambda: other.load_state_dict(saved[1])]
    for load in loads if order == "guard first" else reversed(loads):
        load()
    for bad in (False, True, False):
        attempt(net, guard, bad=bad)
        attempt(other_net, other_guard, bad=bad)
        assert torch.equal(net.weight, other_net.weight)
        assert float(other.param_groups[0]["lr"]) == float(optimizer.param_groups[0]["lr"])
    assert float(other.param_groups[0]["lr"]) == 0.1 / 16


def test_the_optimizers_state_holds_floats_and_leaves_the_live_lr_a_tensor():
    net, optimizer, guard = make()
    attempt(net, guard)
    lr = optimizer.state_dict()["param_groups"][0]["lr"]
    assert isinstance(lr, float) and lr == 0.05
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


def test_unfused_optimizers_get_a_python_float():
    net, optimizer, guard = make(fused=False)
    attempt(net, guard)
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_the_schedule_touches_neither_weights_nor_state_when_it_is_tabulated():
    optimizer = adamw()
    before = copy.deepcopy(optimizer.state_dict())
    table(lambda o: ExponentialLR(o, 0.5), optimizer)
    after = optimizer.state_dict()
    assert after == before


def test_without_a_schedule_the_lr_is_the_callers():
    net, optimizer, guard = make(schedule=None)
    for lr in (0.1, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        attempt(net, guard)
        assert guard.read().lr == lr
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.7
    attempt(net, guard)
    assert guard.read().lr == 0.7


@pytest.mark.parametrize("fused", [True, False])
def test_a_factor_multiplies_every_lr_from_the_next_step_on(fused):
    net, optimizer, guard = make(fused=fused)
    attempt(net, guard)
    guard.lr_factor = 0.25
    assert float(optimizer.param_groups[0]["lr"]) == 0.1 * 0.5 * 0.25
    assert guard.read().lr == 0.1
    attempt(net, guard, bad=True)
    attempt(net, guard)
    assert guard.read().lr == 0.1 * 0.5 * 0.25
    assert float(optimizer.param_groups[0]["lr"]) == 0.1 * 0.25 * 0.25


@pytest.mark.parametrize("fused", [True, False])
def test_the_factor_is_part_of_the_state(fused):
    net, optimizer, guard = make(fused=fused)
    attempt(net, guard)
    guard.lr_factor = 0.3
    other, fresh, second = make(fused=fused)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second.load_state_dict(guard.state_dict())
    assert second.lr_factor == 0.3
    assert float(fresh.param_groups[0]["lr"]) == float(optimizer.param_groups[0]["lr"]) == 0.1 * 0.5 * 0.3
    attempt(other, second)
    assert float(fresh.param_groups[0]["lr"]) == 0.1 * 0.25 * 0.3


def test_the_factor_holds_for_rows_that_are_tabulated_later():
    schedule = table(lambda o: LambdaLR(o, lambda n: 1.0))
    schedule.scale(0.5)
    schedule.reach(CHUNK + 1)
    schedule.advance(torch.tensor([CHUNK + 1]))
    assert schedule._row.item() == 0.05


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_no_lr_can_have_is_refused(factor):
    guard = make()[2]
    with pytest.raises(ConfigError, match="lr_factor is"):
        guard.lr_factor = factor


def test_a_factor_without_a_schedule_is_refused():
    net = nn.Linear(3, 2)
    guard = Guard(net, AdamW(net.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="needs a schedule"):
        guard.lr_factor = 0.5
    assert guard.lr_factor == 1.0
