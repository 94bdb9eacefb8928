"""A run that no longer moves is reported once, with the state it had before the streak."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ampguard.engine import Action, Collapse, Guard
from ampguard.errors import CollapseError


def make(**options) -> tuple[nn.Module, Guard]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    more = {"check_every": 4, "on_unsupported": "emulate", "on_event": lambda event: None}
    return net, Guard(net, SGD(net.parameters(), lr=0.1, fused=True), **{**more, **options})


def attempt(net: nn.Module, guard: Guard, *, bad: bool) -> None:
    with guard.autocast():
        loss = net(torch.randn(4, 3) * (torch.inf if bad else 1.0)).pow(2).sum()
    guard.backward(loss)
    guard.step()


class Heard(list[Collapse]):
    def __call__(self, collapse: Collapse) -> Action:
        self.append(collapse)
        return Action.CONTINUE


def test_a_long_streak_raises_and_leaves_the_weights_as_they_were():
    net, guard = make(max_skip_streak=6)
    for _ in range(3):
        attempt(net, guard, bad=False)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CollapseError, match=r"7 steps in a row were skipped since step 4.*those before step 4"):
        for _ in range(100):
            attempt(net, guard, bad=True)
    assert guard.attempted == 12, "found at the first read after the limit, no sooner and no later"
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_streak_that_is_over_when_it_is_seen_is_not_told_as_one_that_lasts():
    heard = Heard()
    net, guard = make(max_skip_streak=2, on_collapse=heard, check_every=10)
    for step in range(1, 11):
        attempt(net, guard, bad=step <= 4)
    assert [(c.step, c.applied_again) for c in heard] == [(3, 5)]
    assert "step 5 was applied" in heard[0].message() and "weights are those" not in heard[0].message()


def test_the_floor_of_the_scale_is_a_collapse_before_the_streak_is():
    heard = Heard()
    net, guard = make(precision="fp16", init_scale=4.0, on_collapse=heard)
    for _ in range(4):
        attempt(net, guard, bad=True)
    assert [(c.cause, c.step, c.first_skipped, c.loss_scale) for c in heard] == [("floor", 3, 1, 1.0)]
    assert "floor" in heard[0].message() and "fp16-mixed" in heard[0].message()


def test_one_bad_batch_at_the_floor_is_no_collapse():
    heard = Heard()
    net, guard = make(precision="fp16", init_scale=1.0, on_collapse=heard)
    for step in range(8):
        attempt(net, guard, bad=step % 2 == 0)
    assert heard == []


def test_continue_goes_on_and_counts_afresh():
    heard, events = Heard(), []
    net, guard = make(max_skip_streak=3, on_collapse=heard, on_event=events.append)
    for _ in range(12):
        attempt(net, guard, bad=True)
    assert [c.step for c in heard] == [4, 8, 12]
    assert [c.skip_streak for c in heard] == [4, 8, 12] and {c.first_skipped for c in heard} == {1}
    assert [event.step for event in events if event.kind == "collapse"] == [4, 8, 12]
    attempt(net, guard, bad=False)
    assert guard.read().applied


@pytest.mark.parametrize("peek", [repr, Guard.state_dict])
def test_reading_the_state_in_between_hides_no_collapse(peek):
    heard = Heard()
    net, guard = make(max_skip_streak=3, on_collapse=heard)
    for bad in [True] * 4 + [False] + [True] * 4 + [False] * 3:
        attempt(net, guard, bad=bad)
        peek(guard)
    assert [c.step for c in heard] == [4, 9]


def test_a_collapse_is_raised_once():
    net, guard = make(max_skip_streak=3)
    for _ in range(3):
        attempt(net, guard, bad=True)
    with pytest.raises(CollapseError):
        attempt(net, guard, bad=True)
    assert guard.read().skip_streak == 4
