"""What the host learns is exact, whenever it asks."""

import logging

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ampguard.engine import Guard
from ampguard.errors import ConfigError
from ampguard.records import Event

BAD = (1, 4, 5, 9)


def make(**options) -> tuple[nn.Module, Guard]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    more = {"check_every": 5, "on_unsupported": "emulate", "init_scale": 1024.0}
    return net, Guard(net, SGD(net.parameters(), lr=2.0**-6, fused=True), **{**more, **options})


def attempt(net: nn.Module, guard: Guard) -> None:
    bad = guard.attempted + 1 in BAD
    with guard.autocast():
        loss = net(torch.full((2, 3), torch.inf if bad else 1.0)).pow(2).mean()
    guard.backward(loss)
    guard.step()


@pytest.mark.parametrize("read_at", [(), (1,), (3, 4, 5, 6), (7,), tuple(range(1, 13))], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_events_name_the_exact_steps_whenever_they_are_read(precision, read_at):
    events: list[Event] = []
    net, guard = make(precision=precision, on_event=events.append)
    for step in range(1, 13):
        attempt(net, guard)
        if step in read_at:
            assert guard.read().step == step
    record = guard.read()
    assert [event.step for event in events if event.kind == "skip"] == list(BAD)
    assert [event.step for event in events if event.kind == "nonfinite"] == list(BAD)
    backoffs = [(e.step, e.data["from"], e.data["to"]) for e in events if e.kind == "scale_backoff"]
    halved = [(1, 1024, 512), (4, 512, 256), (5, 256, 128), (9, 128, 64)]
    assert backoffs == (halved if precision == "fp16" else [])
    assert (record.applied_steps, record.skipped_steps, record.skip_streak) == (8, 4, 0)


def test_a_record_tells_the_numbers_of_its_step():
    net, guard = make(precision="fp16", max_grad_norm=0.5)
    streaks = {1: 1, 4: 1, 5: 2, 9: 1}
    for step in range(1, 11):
        weights = [p.detach().clone().double() for p in net.parameters()]
        attempt(net, guard)
        record = guard.read()
        assert record.applied == (step not in BAD) and record.lr == 2.0**-6
        assert record.skip_streak == streaks.get(step, 0)
        if step in BAD:
            assert record.loss is None and record.grad_norm is None
            continue
        x = torch.ones(2, 3, dtype=torch.float64)
        weights = [w.requires_grad_() for w in weights]
        loss = nn.functional.linear(x, *weights).pow(2).mean()
        loss.backward()
        norm = torch.stack([w.grad.norm() for w in weights]).norm()
        # A few roundings to 11 bits each (2**-11) between here and there.
        assert record.loss == pytest.approx(loss.item(), rel=8 * 2**-11)
        assert record.grad_norm == pytest.approx(norm.item(), rel=8 * 2**-11)


def test_the_scale_of_a_record_is_the_one_its_step_was_taken_with():
    net, guard = make(precision="fp16")
    attempt(net, guard)
    assert guard.read().loss_scale == 1024.0
    attempt(net, guard)
    assert guard.read().loss_scale == 512.0


def test_no_event_tells_of_a_backoff_that_did_not_happen():
    events: list[Event] = []
    net, guard = make(precision="fp16", init_scale=1.0, on_event=events.append)
    attempt(net, guard)
    guard.read()
    assert [event.kind for event in events] == ["skip", "nonfinite"]


def test_read_again_returns_the_same_record_and_no_event_twice():
    events: list[Event] = []
    net, guard = make(on_event=events.append)
    attempt(net, guard)
    assert guard.read() == guard.read()
    assert [event.kind for event in events] == ["skip", "nonfinite"]


def test_read_before_the_first_step_says_so():
    _, guard = make()
    with pytest.raises(ConfigError, match="no step was taken yet"):
        guard.read()


def test_without_a_listener_each_kind_of_event_warns_once(caplog):
    net, guard = make()
    with caplog.at_level(logging.DEBUG, logger="ampguard.engine"):
        for _ in range(5):
            attempt(net, guard)
    levels = [record.levelname for record in caplog.records if ": skip: " in record.message]
    assert levels == ["WARNING", "DEBUG", "DEBUG"]


def test_repr_is_one_line_that_counts():
    net, guard = make(on_event=lambda event: None)
    for _ in range(6):
        attempt(net, guard)
    assert repr(guard).startswith("fp32 (") and repr(guard).endswith("| 3 applied, 3 skipped")
    assert "\n" not in repr(guard)
