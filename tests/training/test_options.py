"""Options that change how a model runs, or what a Task that says little gets."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from ampguard.errors import CollapseError, ConfigError, TaskError
from ampguard.task import Task
from ampguard.tasks import find_task
from ampguard.training import train


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 2)
        self.enabled = False

    def gradient_checkpointing_enable(self):
        self.enabled = True

    def forward(self, x):
        recompute = torch.utils.checkpoint.checkpoint
        return self.out(recompute(self.body, x, use_reentrant=False) if self.enabled else self.body(x))


def task(model=Recomputing, **more):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    more = {"train_data": TensorDataset(x, (x[:, 0] > 0).long()), **more}
    return Task(
        name="little",
        model=model,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        **more,
    )


def run(task, out, **options):
    return train(task, out=out, **{"precision": "fp32", "log_every": 1, "steps": 4, **options})


def losses(left):
    return [row["train/loss"] for row in left.rows]


def test_recomputed_activations_give_the_same_losses_and_are_refused_where_the_model_has_none(tmp_path, read, toy):
    run(task(), tmp_path / "plain")
    run(task(), tmp_path / "recomputed", activation_checkpointing=True)
    assert losses(read(tmp_path / "plain")) == losses(read(tmp_path / "recomputed"))
    with pytest.raises(ConfigError, match="Sequential, the model of Task 'toy', does not offer it") as caught:
        run(toy(), tmp_path / "refused", activation_checkpointing=True)
    assert "gradient_checkpointing_enable" in caught.value.hint


def test_the_gpt_recomputes_its_blocks_to_the_same_losses(tmp_path, read):
    text = find_task("text")(context=16)
    options = {"batch_size": 4, "steps": 2, "val_batch_size": 256}
    run(text, tmp_path / "plain", **options)
    run(text, tmp_path / "recomputed", activation_checkpointing=True, **options)
    assert losses(read(tmp_path / "plain")) == losses(read(tmp_path / "recomputed"))


def test_a_task_without_defaults_trains_on_what_its_data_says(tmp_path, read):
    loader = DataLoader(task().train_data, batch_size=10)
    run(task(train_data=loader), tmp_path / "loader")
    assert read(tmp_path / "loader").facts["config"]["batch_size"] == 10
    run(task(), tmp_path / "dataset")
    assert read(tmp_path / "dataset").facts["config"]["batch_size"] == 32
    few = TensorDataset(*(tensor[:5] for tensor in task().train_data.tensors))
    run(task(train_data=few), tmp_path / "few")
    assert read(tmp_path / "few").facts["config"]["batch_size"] == 5


def test_the_tasks_own_schedule_counts_applied_steps_and_a_named_one_goes_before_it(tmp_path, read):
    own = task(schedule=lambda optimizer: LambdaLR(optimizer, lambda n: 1 / (1 + n)))
    run(own, tmp_path / "own", lr=0.1)
    assert [row["train/lr"] for row in read(tmp_path / "own").rows] == [0.1, 0.1 / 2, 0.1 * (1 / 3), 0.1 / 4]
    run(own, tmp_path / "named", lr=0.1, schedule="constant", warmup_steps=0)
    assert [row["train/lr"] for row in read(tmp_path / "named").rows] == [0.1] * 4


@pytest.mark.parametrize("given", [{"body.0": "fp32"}, ("body.0=fp32",), "body.0=fp32"])
def test_an_override_reaches_the_model_and_is_written_down(tmp_path, read, given):
    seen = []

    class Probed(Recomputing):
        def __init__(self):
            super().__init__()
            self.body[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))

    run(task(Probed), tmp_path / "run", precision="bf16-mixed", on_unsupported="emulate", override=given)
    assert set(seen) == {torch.float32}
    assert read(tmp_path / "run").facts["config"]["override"] == ["body.0=fp32"]


def test_an_override_that_matches_nothing_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"body\.9"):
        run(task(), tmp_path / "run", override=["body.9=fp32"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_number(toy, tmp_path, read, workers):
    run(toy(), tmp_path / "none", workers=0)
    run(toy(), tmp_path / "some", workers=workers)
    assert read(tmp_path / "none").numbers() == read(tmp_path / "some").numbers()


def test_beside_a_resumed_run_only_what_changes_no_number_may_be_given(toy, tmp_path):
    run(toy(interrupt_at=3), tmp_path / "run", steps=20)
    with pytest.raises(ConfigError, match="steps is given beside resume"):
        train(toy(), resume=tmp_path / "run", steps=30)
    assert train(toy(), resume=tmp_path / "run", steps=20, workers=1).status == "finished"


def test_a_model_without_anything_to_learn_is_refused_before_it_is_timed(tmp_path):
    with pytest.raises(TaskError, match="the model, a ReLU, has no trainable parameter"):
        run(task(nn.ReLU), tmp_path / "run", precision="auto")
    assert not (tmp_path / "run").exists()


def test_deterministic_holds_for_its_run_only(tmp_path):
    run(task(), tmp_path / "run", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("again", [{"body.0": "fp32"}, ("body.0=fp32",), "body.0=fp32"])
def test_the_same_override_may_be_said_again_beside_a_resumed_run(tmp_path, again):
    run(task(), tmp_path / "run", override="body.0=fp32")
    assert train(task(), resume=tmp_path / "run", override=again).status == "finished"


def test_going_on_with_other_options_is_said(toy, tmp_path, caplog):
    run(toy(interrupt_at=3), tmp_path / "run", steps=8)
    run(toy(), tmp_path / "run", steps=8, lr=0.5, resume="auto", workers=0)
    (line,) = (record.getMessage() for record in caplog.records if "other options" in record.getMessage())
    assert "lr 0.01 -> 0.5." in line and "workers" not in line


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("steps", "abc", "an integer"),
        ("steps", 3.5, "an integer"),
        ("early_stop", True, "an integer"),
        ("lr", "1e-2", "a number"),
        ("lr", True, "a number"),
        ("compile", "yes", "true or false"),
        ("monitor", 3, "a text"),
        ("seed", "a", "an integer"),
    ],
)
def test_a_value_of_another_kind_is_named_wherever_it_comes_from(tmp_path, option, value, meant):
    with pytest.raises(ConfigError, match=rf"{option} is .*; it must be {meant}"):
        run(task(), tmp_path / "run", **{option: value})
    with pytest.raises(ConfigError, match=rf"{option} is .*; it must be {meant}"):
        train(task(defaults={option: value}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", [3, [1]])
def test_an_override_that_is_no_text_is_named(tmp_path, override):
    with pytest.raises(ConfigError, match="a text or a list of texts is meant"):
        run(task(), tmp_path / "run", override=override)


def test_a_model_that_is_built_already_and_a_task_that_is_not_are_named(tmp_path):
    with pytest.raises(TaskError, match="model is a Linear, not a function that makes one"):
        task(nn.Linear(4, 2))
    with pytest.raises(TaskError, match="train got a function, not a Task"):
        train(task, out=tmp_path / "run")


def test_a_metric_that_is_no_sum_is_named(tmp_path):
    wrong = task(val_data=task().train_data, evaluate=lambda model, batch: {"acc": 0.5})
    with pytest.raises(TaskError, match="evaluate returned a float for 'acc', not a Sum"):
        run(wrong, tmp_path / "run")


def test_a_short_run_that_never_moved_has_failed(toy, tmp_path):
    still = task(train_data=TensorDataset(torch.full((40, 6), float("nan")), torch.zeros(40).long()))
    with pytest.raises(CollapseError, match="none of 4 steps was applied"):
        run(still, tmp_path / "run")
