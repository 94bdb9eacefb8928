"""What follows from a validation: best, early stop, plateau; and that a resumed run decides the same."""

import pytest

from ampguard import Sum
from ampguard.errors import ConfigError
from ampguard.training import TrainConfig, train
from ampguard.training.monitor import Monitor


def judged(task, values, **options):
    monitor = Monitor(TrainConfig(**options), task)
    return [monitor.judge({"val/loss": value}) for value in values]


def test_the_best_is_the_lowest_and_a_tie_is_none(toy):
    assert [v.best for v in judged(toy(), [3.0, 2.0, 2.0, float("nan"), float("inf"), 1.0])] == [
        *(True, True, False, False, False, True)
    ]


def test_with_mode_max_the_best_is_the_highest(toy):
    assert [v.best for v in judged(toy(), [1.0, 2.0, 1.5, 3.0], monitor_mode="max")] == [True, True, False, True]


def test_early_stop_counts_validations_in_a_row_that_are_not_better_by_delta(toy):
    values = [3.0, 2.0, 1.95, 1.5, 1.45, 1.41, 1.3]
    stops = [bool(v.stop) for v in judged(toy(), values, early_stop=2, early_stop_delta=0.1)]
    assert stops == [False, False, False, False, False, True, False]


def test_a_loss_that_is_never_finite_stops_too(toy):
    verdicts = judged(toy(), [float("nan")] * 3, early_stop=3)
    assert verdicts[-1].stop == "val/loss did not improve in 3 validations: the best is none that is finite"


def test_the_plateau_is_torchs_rule(toy):
    factors = [v.lr_factor for v in judged(toy(), [1.0] * 7, schedule="plateau", plateau_patience=1)]
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_the_plateau_sees_gains_of_negative_values(toy):
    values = [-3.0, -3.0, -4.0, -4.0, -4.0]
    factors = [v.lr_factor for v in judged(toy(), values, schedule="plateau", plateau_patience=0)]
    assert factors == [1.0, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("options", [{"early_stop": 2}, {"schedule": "plateau", "plateau_patience": 1}])
def test_a_restored_monitor_decides_as_the_one_that_went_on(toy, options):
    values = [2.0, 1.0, 1.1, 1.2, 1.3, 0.9, 1.0, 1.1]
    one, two = Monitor(TrainConfig(**options), toy()), Monitor(TrainConfig(**options), toy())
    for value in values[:3]:
        one.judge({"val/loss": value})
    two.load_state_dict(one.state_dict())
    for value in values[3:]:
        assert one.judge({"val/loss": value}) == two.judge({"val/loss": value})


def accurate(toy, **change):
    task = toy()
    values = {field: getattr(task, field) for field in task.__dataclass_fields__}
    values["evaluate"] = lambda model, batch: {"loss": Sum(1.0, 1), "accuracy": Sum(1.0, 2)}
    return type(task)(**{**values, **change})


def test_an_unknown_metric_is_refused_and_the_known_ones_are_named(toy, tmp_path):
    with pytest.raises(ConfigError, match="val/acuracy") as caught:
        train(accurate(toy), steps=2, monitor="val/acuracy", out=tmp_path / "run")
    assert caught.value.allowed == ("val/loss", "val/accuracy") and "val/accuracy" in caught.value.hint
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
    with pytest.raises(ConfigError, match="does not give"):
        train(toy(), steps=2, monitor="val/accuracy", out=tmp_path / "early")
    assert not (tmp_path / "early").exists()


@pytest.mark.parametrize("options", [{"early_stop": 2}, {"schedule": "plateau"}])
def test_what_goes_by_validation_needs_validation_data(toy, tmp_path, options):
    with pytest.raises(ConfigError, match="has no val_data"):
        train(accurate(toy, val_data=None), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_early_stopping_ends_a_run_and_resuming_it_ends_at_once(toy, tmp_path, read):
    options = {"validate_every": 2, "early_stop": 3, "precision": "fp32", "out": tmp_path / "run"}
    record = train(accurate(toy), **options)
    assert (record.status, record.steps.attempted) == ("stopped_early", 8)
    (event,) = (event for event in read(tmp_path / "run").events if event["event"] == "early_stop")
    assert event["message"] == "val/loss did not improve in 3 validations: the best is 1"
    record = train(accurate(toy), **options, resume="auto")
    assert (record.status, record.steps.attempted, record.resumed_from) == ("stopped_early", 8, 8)


@pytest.mark.parametrize("interrupt_at", [5, 9, 13])
def test_a_plateau_lowers_the_lr_and_a_resumed_run_has_the_same_rows(toy, tmp_path, read, interrupt_at):
    options = {
        "schedule": "plateau",
        "plateau_patience": 0,
        "validate_every": 2,
        "warmup_steps": 3,
        "log_every": 1,
        "lr": 0.5,
        "precision": "fp32",
    }
    train(toy(), out=tmp_path / "whole", **options)
    train(toy(interrupt_at=interrupt_at), out=tmp_path / "cut", **options)
    train(toy(), out=tmp_path / "cut", resume="auto", **options)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert whole.numbers() == cut.numbers()
    lowered = [event for event in whole.events if event["event"] == "lr_lowered"]
    assert lowered
    lrs = {row["step"]: row["train/lr"] for row in whole.rows}
    first = lowered[0]
    assert first["factor"] == 0.5
    assert lrs[first["step"] + 1] == 0.5 * min(1.0, (first["step"] + 1) / 3) * first["factor"]
