"""What torch.amp.GradScaler lacks: limits, an answer, and no harm from fused kernels. Parity is in tests/parity."""

import copy
import io
import logging
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ampguard.engine import Action, GradScaler
from ampguard.errors import CheckpointError, CollapseError, ConfigError

KINDS = {"fused": lambda p: AdamW(p, lr=0.1, fused=True), "unfused": lambda p: AdamW(p, lr=0.1)}


def weight_of(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.full((3,), value))


def attempt(scaler: torch.amp.GradScaler, optimizer: Optimizer, *, bad: bool = False):
    optimizer.zero_grad()
    loss = sum(p.square().sum() for group in optimizer.param_groups for p in group["params"])
    scaler.scale(loss * math.inf if bad else loss).backward()
    answer = scaler.step(optimizer)
    scaler.update()
    return answer


def patient(**options) -> GradScaler:
    return GradScaler("cpu", on_collapse=lambda collapse: Action.CONTINUE, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_step_tells_whether_it_was_applied(kind):
    weight = weight_of()
    scaler, optimizer = GradScaler("cpu"), KINDS[kind]([weight])
    for bad in (True, False, True):
        before = weight.detach().clone()
        applied = attempt(scaler, optimizer, bad=bad)
        assert (applied.dtype, applied.shape) == (torch.bool, ())
        assert bool(applied) is bool(scaler.applied) is (not bad)
        assert torch.equal(weight, before) is bad


def test_a_scaler_is_torchs_to_those_who_ask():
    assert isinstance(GradScaler("cpu"), torch.amp.GradScaler)
    assert GradScaler("cpu").applied is None


def test_several_optimizers_answer_for_themselves_and_the_update_for_all():
    scaler, optimizers = GradScaler("cpu"), [KINDS["fused"]([weight_of()]), KINDS["unfused"]([weight_of()])]
    answers = []
    for optimizer, factor in zip(optimizers, (1.0, math.inf), strict=True):
        scaler.scale(optimizer.param_groups[0]["params"][0].sum() * factor).backward()
        answers.append(bool(scaler.step(optimizer)))
    scaler.update()
    assert answers == [True, False]
    assert not scaler.applied
    record = scaler.read()
    assert (record.applied_steps, record.skipped_steps) == (0, 1)


def test_the_scale_stops_at_its_floor_where_torchs_reaches_zero():
    ours, torchs = patient(init_scale=8.0, min_scale=2.0), torch.amp.GradScaler("cpu", init_scale=8.0)
    for scaler in (ours, torchs):
        for _ in range(160):
            attempt(scaler, KINDS["fused"]([weight_of()]), bad=True)
    assert (ours.get_scale(), torchs.get_scale()) == (2.0, 0.0)


def test_the_scale_stops_at_its_ceiling():
    scaler, optimizer = (
        GradScaler("cpu", init_scale=8.0, growth_interval=1, max_scale=24.0),
        KINDS["fused"]([weight_of()]),
    )
    for _ in range(4):
        attempt(scaler, optimizer)
    assert scaler.get_scale() == 24.0


def test_a_new_scale_keeps_to_the_limits_as_number_with_a_warning_and_as_tensor(caplog):
    scaler = GradScaler("cpu", max_scale=64.0, init_scale=8.0)
    attempt(scaler, KINDS["fused"]([weight_of()]))
    scaler.update(32.0)
    assert scaler.get_scale() == 32.0
    scaler.update(torch.tensor(1e9))
    assert scaler.get_scale() == 64.0
    assert not caplog.records
    scaler.update(0.0)
    assert scaler.get_scale() == 1.0
    assert "loss scale 0 is not between 1 and 64: it goes on at 1" in caplog.text


def test_a_run_that_no_longer_moves_raises_at_a_read():
    scaler, optimizer = GradScaler("cpu", init_scale=4.0, check_every=5), KINDS["fused"]([weight_of()])
    for _ in range(4):
        attempt(scaler, optimizer, bad=True)
    with pytest.raises(CollapseError, match="3 steps in a row were skipped since step 1"):
        attempt(scaler, optimizer, bad=True)


@pytest.mark.parametrize("summed", [2.0, 0.5, math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_others_make_of_found_inf_the_step_is_skipped(kind, summed):
    """As a sum over ranks or devices does. torch's fused kernels apply the step at each of these numbers."""
    weight = weight_of()
    scaler, optimizer = GradScaler("cpu", init_scale=4.0), KINDS[kind]([weight])
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    for found_inf in scaler._found_inf_per_device(optimizer).values():
        found_inf.fill_(summed)
    assert not scaler.step(optimizer)
    assert weight.eq(1.0).all()
    scaler.update()
    assert not scaler.applied
    assert scaler.get_scale() == 2.0


def test_fused_kernels_get_zero_or_one_when_devices_were_summed(monkeypatch):
    """One process has one CPU: the second device's found_inf is put beside the first's, as torch's check would."""
    stock, weight = torch.amp.GradScaler._unscale_grads_, weight_of()

    def of_two_devices(self, *args):
        found = stock(self, *args)
        return {**found, torch.device("meta"): next(iter(found.values())).clone()}

    monkeypatch.setattr(torch.amp.GradScaler, "_unscale_grads_", of_two_devices)
    assert not attempt(GradScaler("cpu"), KINDS["fused"]([weight]), bad=True)
    assert weight.eq(1.0).all()
    attempt(torch.amp.GradScaler("cpu"), KINDS["fused"]([weight]), bad=True)
    assert weight.isnan().all(), "torch sums to 2.0 and applies the step; once it does not, this test says so"


def test_a_fused_sgd_survives_a_skipped_first_step_and_a_late_gradient():
    weights = [weight_of(), weight_of()]
    scaler, optimizer = GradScaler("cpu"), SGD(weights, lr=0.1, momentum=0.9, fused=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)  # fills `empty` with NaN: what is uninitialised shows
    try:
        attempt(scaler, optimizer, bad=True)
        optimizer.zero_grad()
        scaler.scale(weights[0].sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        attempt(scaler, optimizer)
    finally:
        torch.use_deterministic_algorithms(False)
    assert weights[0].isfinite().all() and weights[0].ne(1.0).all()
    assert weights[1].isfinite().all() and weights[1].ne(1.0).all()


def test_a_group_that_overrides_fused_is_stepped_where_torch_fails():
    def groups() -> Optimizer:
        return Adam([{"params": [weight_of()]}, {"params": [weight_of()], "fused": False}], fused=True)

    optimizer = groups()
    assert attempt(GradScaler("cpu"), optimizer)
    assert all(group["params"][0].ne(1.0).all() for group in optimizer.param_groups)
    assert optimizer._step_supports_amp_scaling, "the optimizer is left as it was"
    with pytest.raises(AssertionError):
        attempt(torch.amp.GradScaler("cpu"), groups())


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_is_refused_by_name_as_in_torch_and_by_position_too(kind):
    scaler, optimizer = GradScaler("cpu"), KINDS[kind]([weight_of()])
    scaler.scale(weight_of().sum())
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: None)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, lambda: None)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    assert scaler.step(optimizer, None), "Accelerate hands over its closure by position: None"


@pytest.mark.parametrize("kind", KINDS)
def test_calls_out_of_order_are_refused_as_in_torch(kind):
    scaler, optimizer = GradScaler("cpu"), KINDS[kind]([weight_of()])
    with pytest.raises(AssertionError, match="_scale is None"):
        scaler.step(optimizer)
    with pytest.raises(AssertionError, match="_scale is None"):
        scaler.update()
    scaler.scale(weight_of().sum())
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.update()
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called"):
        scaler.step(optimizer)


def test_a_disabled_scaler_steps_and_says_yes():
    weight, scaler = weight_of(), GradScaler("cpu", enabled=False, growth_factor=0.0)
    assert attempt(scaler, KINDS["fused"]([weight]))
    assert weight.ne(1.0).all()
    assert bool(scaler.applied)
    assert (scaler.get_scale(), scaler.state_dict(), repr(scaler)) == (1.0, {}, "GradScaler(disabled)")
    scaler.load_state_dict(GradScaler("cpu").state_dict())
    with pytest.raises(ConfigError, match="no step was taken yet"):
        scaler.read()


def test_without_cuda_the_default_device_disables_it_as_in_torch():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.warns(UserWarning, match="CUDA is not available"):
        scaler = GradScaler()
    assert not scaler.is_enabled()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"growth_factor": 1.0}, AssertionError, "growth factor must be > 1"),
        ({"backoff_factor": 1.0}, AssertionError, "backoff factor must be < 1"),
        ({"backoff_factor": 0.0}, ConfigError, r"backoff_factor is 0.0; it must be a number in \(0, 1\)"),
        ({"growth_interval": 0}, ConfigError, "growth_interval is 0; it must be an integer >= 1"),
        ({"init_scale": 0.5}, ConfigError, "between min_scale 1 and max_scale"),
        ({"min_scale": 0.0}, ConfigError, "min_scale is 0.0"),
        ({"max_scale": math.inf}, ConfigError, "max_scale is inf"),
        ({"max_skip_streak": 0}, ConfigError, "max_skip_streak is 0"),
        ({"check_every": 0}, ConfigError, "check_every is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        GradScaler("cpu", **options)


def after(scaler: torch.amp.GradScaler, history: str) -> tuple[Tensor, torch.amp.GradScaler]:
    """Take steps: x is an overflow, anything else is fine."""
    weight = weight_of()
    optimizer = SGD([weight], lr=0.01, fused=True)
    for step in history:
        attempt(scaler, optimizer, bad=step == "x")
    return weight.detach(), scaler


STATES = {"ours to torch's": (GradScaler, torch.amp.GradScaler), "torch's to ours": (torch.amp.GradScaler, GradScaler)}


@pytest.mark.parametrize("started", [False, True], ids=["fresh", "started"])
@pytest.mark.parametrize("way", STATES)
def test_states_interchange_with_torchs(way, started):
    source, target = (kind("cpu", growth_interval=3) for kind in STATES[way])
    after(source, "x.." if started else "")
    if started:
        after(target, "..")
    target.load_state_dict(source.state_dict())
    weights, scales = zip(*(after(scaler, ".x....") for scaler in (source, target)), strict=True)
    assert torch.equal(*weights)
    assert scales[0].get_scale() == scales[1].get_scale()
    assert scales[0]._get_growth_tracker() == scales[1]._get_growth_tracker()


def test_a_state_of_ours_carries_counters_and_limits():
    source = patient(init_scale=8.0, min_scale=2.0, max_scale=64.0, max_skip_streak=7)
    after(source, ".xx")
    target = patient()
    target.load_state_dict(torch_loaded(source.state_dict()))
    assert target.state_dict() == source.state_dict()
    after(target, "x")
    record = target.read()
    assert (record.step, record.applied_steps, record.skipped_steps, record.skip_streak) == (4, 1, 3, 3)
    assert target.get_scale() == 2.0


def torch_loaded(state: dict) -> dict:
    """Through a file, as plain numbers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_torchs_state_restarts_the_counters_and_leaves_the_limits():
    scaler = GradScaler("cpu", max_scale=2.0**17)
    after(scaler, "..")
    scaler.load_state_dict(torch.amp.GradScaler("cpu").state_dict())
    assert scaler.state_dict()["ampguard"]["tally"]["attempted"] == 0
    assert scaler.state_dict()["ampguard"]["limits"]["max_scale"] == 2.0**17


@pytest.mark.parametrize("started", [False, True], ids=["fresh", "started"])
@pytest.mark.parametrize(("scale", "goes_on"), [(0.0, 1.0), (2.0**-30, 1.0), (math.inf, 2.0**24), (math.nan, 2.0**24)])
def test_a_scale_outside_of_the_limits_goes_on_at_the_nearest_with_one_warning(scale, goes_on, started, caplog):
    scaler = GradScaler("cpu")
    if started:
        after(scaler, ".")
    scaler.load_state_dict({**torch.amp.GradScaler("cpu").state_dict(), "scale": scale})
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"it goes on at {goes_on:g}" in caplog.text
    assert scaler.get_scale() == goes_on
    after(scaler, ".")
    assert scaler.get_scale() == goes_on


def test_a_state_that_cannot_be_one_is_refused_and_changes_nothing():
    scaler = GradScaler("cpu")
    before = scaler.state_dict()
    with pytest.raises(RuntimeError, match="source state dict is empty"):
        scaler.load_state_dict({})
    with pytest.raises(CheckpointError, match="lacks growth_factor, backoff_factor, growth_interval, _growth_tracker"):
        scaler.load_state_dict({"scale": 8.0, "of another": "version"})
    with pytest.raises(CheckpointError, match="schema 2; this version reads 1"):
        scaler.load_state_dict({**before, "scale": 8.0, "ampguard": {"schema": 2}})
    with pytest.raises(ConfigError, match="min_scale is -1"):
        scaler.load_state_dict({**before, "ampguard": {"schema": 1, "limits": {"min_scale": -1.0}}})
    assert scaler.state_dict() == before


def test_a_state_of_a_later_torch_may_hold_more():
    scaler = GradScaler("cpu")
    scaler.load_state_dict({**torch.amp.GradScaler("cpu", init_scale=4.0).state_dict(), "later": 1})
    assert scaler.get_scale() == 4.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_copy_goes_on_alone(copied, enabled):
    scaler = GradScaler("cpu", enabled=enabled, growth_interval=3)
    after(scaler, "x.")
    twin = copied(scaler)
    assert twin.state_dict() == scaler.state_dict()
    after(twin, "x")
    after(scaler, "..")
    if enabled:
        assert (twin.read().skipped_steps, scaler.read().skipped_steps) == (2, 1)
        twin.set_backoff_factor(0.25)
        assert scaler.get_backoff_factor() == 0.5


def test_a_copy_in_mid_step_is_refused_as_in_torch():
    scaler, optimizer = GradScaler("cpu"), KINDS["fused"]([weight_of()])
    scaler.scale(optimizer.param_groups[0]["params"][0].sum()).backward()
    scaler.step(optimizer)
    with pytest.raises(AssertionError, match="only be pickled"):
        copy.deepcopy(scaler)


def test_it_prints_itself_in_a_line():
    scaler = patient()
    assert repr(scaler) == "GradScaler(loss scale 65536 | 0 applied, 0 skipped)"
    after(scaler, "x..")
    assert repr(scaler) == "GradScaler(loss scale 32768 | 2 applied, 1 skipped)"
