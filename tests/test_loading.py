"""The model of a run, opened again."""

from pathlib import Path

import pytest
import torch

import ampguard
from ampguard.errors import CheckpointError, ConfigError, RunFolderError
from ampguard.tasks import find_task

TOY = Path(__file__).parent / "training" / "toy_task.py"


@pytest.fixture
def toy():
    return find_task(f"{TOY}:build")


def trained(task, out, **options):
    origin = {"target": f"{TOY}:build", "options": {}}
    options = {"precision": "fp32", "steps": 6, "validate_every": 2, **options}
    return ampguard.train(task, origin=origin, out=out, **options)


def val_loss(task, model):
    x, y = task.val_data.tensors
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(x), y).item()


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_loaded_model_gives_the_loss_that_the_run_reported(toy, tmp_path, ema):
    record = trained(toy(), tmp_path / "run", ema=ema)
    model = ampguard.load_model(tmp_path / "run", which="latest")
    assert not model.training
    assert val_loss(toy(), model) == pytest.approx(record.final["val/loss"], rel=1e-6)


def test_without_the_average_the_raw_weights_come(toy, tmp_path):
    trained(toy(), tmp_path / "run", ema=0.9)
    averaged = ampguard.load_model(tmp_path / "run").state_dict()
    raw = ampguard.load_model(tmp_path / "run", averaged=False).state_dict()
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    trained(toy(), tmp_path / "plain")
    with pytest.raises(ConfigError, match="kept no average"):
        ampguard.load_model(tmp_path / "plain", averaged=True)


def test_bf16_weights_stay_bf16(toy, tmp_path):
    trained(toy(), tmp_path / "run", precision="bf16-true", on_unsupported="emulate")
    assert ampguard.load_model(tmp_path / "run")[0].weight.dtype == torch.bfloat16


def test_loading_draws_no_random_number(toy, tmp_path):
    trained(toy(), tmp_path / "run")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ampguard.load_model(tmp_path / "run")
    assert torch.rand(1) == expected


def test_a_task_given_in_python_has_to_be_given_again(toy, tmp_path):
    ampguard.train(toy(), out=tmp_path / "run", steps=2, precision="fp32")
    with pytest.raises(ConfigError, match="given in Python"):
        ampguard.load_model(tmp_path / "run")
    assert ampguard.load_model(tmp_path / "run", task=toy()) is not None


def test_what_is_not_there_is_named(toy, tmp_path):
    with pytest.raises(RunFolderError, match=r"no run.toml"):
        ampguard.load_model(tmp_path)
    trained(toy(), tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        ampguard.load_model(tmp_path / "run", which=5)
    with pytest.raises(ConfigError, match="which is 'newest'"):
        ampguard.load_model(tmp_path / "run", which="newest")
    with pytest.raises(CheckpointError, match="another model"):
        ampguard.load_model(tmp_path / "run", task=toy(width=4))


def test_a_record_prints_itself(toy, tmp_path):
    text = str(trained(toy(), tmp_path / "run"))
    assert text.splitlines()[0].startswith("run         toy: finished on")
    assert "6 attempted, 6 applied, 0 skipped" in text and "val/loss" in text and str(tmp_path / "run") in text


@pytest.mark.parametrize(("precision", "override"), [("bf16-true", "1=fp32"), ("fp32", "0=bf16-true")])
def test_a_run_of_two_storage_dtypes_is_opened_as_it_was(toy, tmp_path, precision, override):
    options = {"precision": precision, "override": (override,), "on_unsupported": "emulate"}
    trained(toy(), tmp_path / "run", **options)
    model = ampguard.load_model(tmp_path / "run")
    dtypes = {module.weight.dtype for module in (model[0], model[1])}
    assert dtypes == {torch.float32, torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-true"):
        assert model(toy().train_data.tensors[0]).isfinite().all()
