"""What a GradScaler tells of its steps: counters, loss, LR, events, and when it asks the device."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ampguard.engine import Action, GradScaler
from ampguard.errors import ConfigError

HUGE = 1e38
"""A finite loss; its gradient times the scale is not."""


@pytest.fixture
def optimizer() -> Optimizer:
    return SGD([nn.Parameter(torch.ones(1))], lr=0.5, fused=True)


def watched(**options) -> tuple[GradScaler, list]:
    events: list = []
    return GradScaler("cpu", on_event=events.append, **options), events


def attempt(scaler: GradScaler, optimizer: Optimizer, *factors: float, form=lambda loss: loss) -> None:
    """One step of as many micro-batches as there are factors, each with the loss `factor * weight`."""
    optimizer.zero_grad()
    weight = optimizer.param_groups[0]["params"][0]
    for factor in factors:
        scaled = scaler.scale(form(weight.sum() * factor))
        (scaled if isinstance(scaled, torch.Tensor) else scaled[0]).sum().backward()
    scaler.step(optimizer)
    scaler.update()


def test_a_record_is_the_last_step(optimizer):
    scaler, _ = watched()
    with pytest.raises(ConfigError, match="no step was taken yet"):
        scaler.read()
    attempt(scaler, optimizer, math.inf)
    attempt(scaler, optimizer, 0.5)
    optimizer.param_groups[0]["lr"] = 0.1  # a scheduler, after the step
    record = scaler.read()
    assert (record.step, record.applied, record.applied_steps, record.skipped_steps) == (2, True, 1, 1)
    assert (record.loss, record.loss_scale, record.lr, record.grad_norm) == (0.5, 2.0**15, 0.5, None)
    assert scaler.read() == record


def test_the_loss_is_the_sum_of_a_steps_scalars(optimizer):
    scaler, _ = watched()
    attempt(scaler, optimizer, 0.25, 0.5)
    assert scaler.read().loss == 0.75
    weight = optimizer.param_groups[0]["params"][0].item()
    attempt(scaler, optimizer, 1.0)
    assert scaler.read().loss == weight


def test_the_loss_of_a_step_that_was_not_taken_is_forgotten(optimizer):
    scaler, _ = watched()
    scaler.scale(optimizer.param_groups[0]["params"][0].sum()).backward()
    scaler.unscale_(optimizer)
    scaler.update()
    assert scaler.applied is None
    attempt(scaler, optimizer, 0.5)
    record = scaler.read()
    assert (record.step, record.loss) == (1, 0.5)


def test_a_new_scale_between_steps_is_no_step(optimizer):
    scaler, _ = watched()
    attempt(scaler, optimizer, 1.0)
    scaler.update(64.0)
    attempt(scaler, optimizer, 1.0)
    record = scaler.read()
    assert (record.step, record.loss_scale) == (2, 64.0)


@pytest.mark.parametrize("form", [lambda loss: [loss], lambda loss: loss.expand(2)], ids=["list", "vector"])
def test_an_unknown_loss_is_absent_and_no_event(optimizer, form):
    scaler, events = watched()
    attempt(scaler, optimizer, math.inf, form=form)
    assert scaler.read().loss is None
    assert [event.kind for event in events] == ["skip", "scale_backoff"]


def test_a_loss_that_never_passed_through_the_scaler_is_unknown(optimizer):
    scaler, events = watched()
    attempt(scaler, optimizer, 1.0)
    optimizer.param_groups[0]["params"][0].grad = torch.full((1,), math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.read().loss is None
    assert [event.kind for event in events] == ["skip", "scale_backoff"]


def test_events_tell_a_loss_that_was_not_finite_from_one_that_was(optimizer):
    scaler, events = watched()
    attempt(scaler, optimizer, HUGE)
    assert scaler.read().loss == pytest.approx(HUGE)
    attempt(scaler, optimizer, math.nan)
    scaler.read()
    assert [event.kind for event in events] == ["skip", "scale_backoff", "skip", "nonfinite", "scale_backoff"]
    assert events[-1].data == {"from": 2.0**15, "to": 2.0**14}


def test_a_factor_that_was_set_on_the_way_is_the_one_that_events_tell(optimizer):
    scaler, events = watched()
    scaler.set_backoff_factor(0.25)
    attempt(scaler, optimizer, HUGE)
    scaler.read()
    assert events[-1].data["to"] == scaler.get_scale() == 2.0**14


def test_a_collapse_is_judged_once_in_check_every_steps_however_often_it_is_printed(optimizer):
    asked = []

    def patience(collapse):
        asked.append(collapse)
        return Action.CONTINUE

    scaler, events = watched(init_scale=2.0, check_every=4, on_collapse=patience)
    for step in range(1, 9):
        attempt(scaler, optimizer, math.inf)
        repr(scaler)
        assert len(asked) == {4: 2, 8: 4}.get(step, len(asked)) and (step >= 4 or not asked)
    assert {collapse.cause for collapse in asked} == {"floor"}
    assert asked[0].first_skipped == 1
    assert sum(event.kind == "collapse" for event in events) == len(asked)


def test_an_optimizer_without_an_lr_has_none(optimizer):
    scaler, _ = watched()

    class Bare(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            pass

    attempt(scaler, Bare([nn.Parameter(torch.ones(1))]), 1.0)
    assert math.isnan(scaler.read().lr)
