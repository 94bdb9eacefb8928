"""What is decided before anything is written."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ampguard import Task
from ampguard.errors import ConfigError, PrecisionError, TaskError
from ampguard.tasks import find_task
from ampguard.tuning.config import make_config
from ampguard.tuning.plan import make_plan

TOY = Path(__file__).parents[1] / "training" / "toy_task.py"


def planned(build, task_options=None, **options):
    return make_plan(build, task_options or {}, make_config({"precision": "fp32", "threads": 1, **options}))


def toy(**changes):
    """A Task of 96 samples, with its defaults changed."""
    defaults = changes.pop("defaults", {"steps": 20, "lr": 1e-2, "batch_size": 20})
    data = torch.utils.data.TensorDataset(torch.zeros(96, 2), torch.zeros(96))
    values = {"train_data": data, "val_data": data, "defaults": defaults, **changes}
    return Task(name="toy", model=lambda: nn.Linear(2, 1), loss=lambda model, batch: model(batch[0]).mean(), **values)


def space_of(task, **options):
    return dict(text.split("=") for text in planned(lambda: task, **options).config.space)


def test_the_default_space_lies_around_the_tasks_own_values():
    assert space_of(toy()) == {
        "lr": "log:1e-05:0.01",
        "batch_size": "log-int:5:80",
        "warmup_steps": "int:0:4",
        "weight_decay": "float:0:0.3",
    }


def test_the_default_space_keeps_within_the_data_and_reaches_the_tasks_own_lr():
    found = space_of(toy(defaults={"steps": 50, "lr": 0.1, "batch_size": 64}))
    assert (found["batch_size"], found["warmup_steps"], found["lr"]) == ("log-int:16:96", "int:0:10", "log:1e-05:1")


def test_warm_up_of_a_task_of_epochs_scales_with_its_steps():
    found = space_of(toy(defaults={"epochs": 5, "lr": 1e-3, "batch_size": 24}))
    assert found["warmup_steps"] == "int:0:4"


def test_fewer_steps_make_a_shorter_warm_up():
    assert space_of(toy(), steps=10)["warmup_steps"] == "int:0:2"


def test_default_stands_for_the_default_space_beside_others():
    found = space_of(toy(), space=("default", "lr=log:1e-3:1", "max_grad_norm=0.5:2"))
    assert sorted(found) == ["batch_size", "lr", "max_grad_norm", "warmup_steps", "weight_decay"]
    assert found["lr"] == "log:0.001:1"


def test_what_the_task_ignores_of_the_default_space_is_left_out_and_told():
    plan = planned(lambda: toy(optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr=lr)))
    assert "weight_decay" not in " ".join(plan.config.space)
    assert any("weight_decay is not searched: it brings its own optimizer" in told for told in plan.warnings)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)


@pytest.mark.parametrize(
    ("text", "changes", "why"),
    [
        ("weight_decay=0:1", {"optimizer": lambda m, lr: torch.optim.SGD(m.parameters(), lr=lr)}, "its own optimizer"),
        ("lr=0.1:1", {"optimizer": lambda m, lr: torch.optim.SGD(m.parameters(), lr=0.1)}, "the same LR whatever"),
        ("batch_size=2:4", {"train_data": [(torch.zeros(4, 2), torch.zeros(4))]}, "ready batches"),
        ("warmup_steps=0:4", {"schedule": cosine}, "its own schedule"),
        ("plateau_factor=0.1:0.5", {}, "not plateau"),
        ("init_scale=1:8", {}, "no loss scale"),
        ("early_stop_delta=0:1", {}, "early_stop is not given"),
    ],
)
def test_a_searched_parameter_that_the_task_ignores_is_refused(text, changes, why):
    with pytest.raises(ConfigError, match="ignores what is searched") as caught:
        planned(lambda: toy(**changes), space=(text,))
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plateau_factor=0.5:2", r"plateau_factor is 2\.0; it must be a number in \(0, 1\)"),
        ("lr=a,b", "lr is 'a'; it must be a number"),
        ("batch_size=8:200", "has 96 training samples"),
        ("schedule=cosine,linaer", "linaer"),
    ],
)
def test_a_value_that_no_trial_could_have_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        planned(lambda: toy(), space=(text, "schedule=plateau") if "plateau" in text else (text,))


def test_a_searched_precision_that_the_device_lacks_is_refused():
    with pytest.raises(PrecisionError, match="fp16-mixed"):
        planned(lambda: toy(), space=("precision=fp32,fp16-mixed",), device="cpu")


def test_precisions_that_the_device_has_can_be_searched():
    plan = planned(lambda: toy(), space=("precision=fp32,tf32",) if torch.cuda.is_available() else ("precision=fp32",))
    assert plan.default["precision"] == "fp32"


def test_options_of_the_task_are_searched_only_where_something_builds_it():
    builder = find_task(f"{TOY}:build")
    plan = planned(builder, space=("task.width=4,8,16",))
    assert plan.default == {"task.width": 8}
    with pytest.raises(ConfigError) as caught:
        planned(lambda: toy(), space=("task.width=4,8",))
    assert "tune(build=build)" in caught.value.hint


def test_trial_0_leaves_out_a_default_that_is_not_in_the_space():
    plan = planned(lambda: toy(), space=("lr=0.1:1", "schedule=linear,constant", "batch_size=20,40"))
    assert plan.default == {"batch_size": 20}
    assert [text.split(",")[0] for text in plan.warnings] == [
        "trial 0 has the default lr",
        "trial 0 has the default schedule",
    ]


@pytest.mark.parametrize(
    ("defaults", "options", "validations"),
    [
        ({"steps": 300, "validate_every": 100}, {}, 3),
        ({"steps": 300, "validate_every": 100}, {"steps": 60}, 5),
        ({"steps": 300}, {}, 5),
        ({"steps": 1}, {}, 1),
        ({"epochs": 3}, {}, 5),
    ],
)
def test_trials_are_validated_often_enough_to_be_pruned(defaults, options, validations):
    assert planned(lambda: toy(defaults=defaults), **options).validations == validations


def test_a_task_without_validation_is_refused():
    with pytest.raises(TaskError, match="no val_data"):
        planned(lambda: toy(val_data=None))


def test_a_metric_that_validation_does_not_give_is_refused():
    with pytest.raises(ConfigError, match="val/acuracy"):
        planned(lambda: toy(), metric="val/acuracy")


def test_the_precision_of_all_trials_is_decided_once():
    plan = make_plan(lambda: toy(), {}, make_config({"device": "cpu", "threads": 1}))
    assert plan.config.precision in ("fp32", "bf16-mixed")
    assert plan.options["precision"] == plan.config.precision


def test_workers_share_the_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert make_plan(lambda: toy(), {}, make_config({"precision": "fp32", "workers": 2})).options["threads"] == 4


def test_the_batch_size_of_a_dataloader_is_the_default():
    data = torch.utils.data.TensorDataset(torch.zeros(96, 2), torch.zeros(96))
    loader = torch.utils.data.DataLoader(data, batch_size=12)
    plan = planned(lambda: toy(train_data=loader, defaults={"steps": 20, "lr": 1e-3}))
    assert "batch_size=log-int:3:48" in plan.config.space
    assert plan.default["batch_size"] == 12


def test_a_precision_has_one_name_however_it_is_spelled():
    plan = planned(lambda: toy(), space=("precision=32,tf32",) if torch.cuda.is_available() else ("precision=32",))
    assert plan.config.space[0].startswith("precision=fp32")
    assert plan.default == {"precision": "fp32"}


def test_a_tracker_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="wanbd"):
        planned(lambda: toy(), track=("wanbd",))
