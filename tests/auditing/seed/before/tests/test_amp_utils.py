"""Tests of mixed precision: the callback that reports the loss scale, the training step, and the way back to float32.

Everything runs on a CPU. Where a GPU would be needed the scaler is a double that has torch's interface, so that the
order of its calls can be seen.
"""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.amp import autocast

from utils.amp_callback import AmpMetricsCallback
from utils.tier3_training_utilities import (
    RandomTokens,
    TinyModel,
    TrainingConfig,
    _load_checkpoint,
    _perplexity,
    _save_checkpoint,
    _setup_training_environment,
    _training_step,
    fine_tune,
    load_history,
    save_history,
    suspicious_gradients,
)

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
VOCAB_SIZE = 100


class SimpleModel(nn.Module):
    """An embedding and a head, with the model's interface."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


class RecordingScaler:
    """A scaler that writes down in which order it is called."""

    def __init__(self, scale: float = 65536.0) -> None:
        self.value = scale
        self.calls: list[str] = []

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        self.calls.append("scale")
        return loss * self.value

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.calls.append("unscale_")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad /= self.value

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.calls.append("step")
        optimizer.step()

    def update(self) -> None:
        self.calls.append("update")

    def get_scale(self) -> float:
        return self.value

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["scale"]


class MockPlugin:
    """What a trainer keeps its scaler in."""

    def __init__(self, loss_scale: float | None) -> None:
        self.scaler = RecordingScaler(loss_scale) if loss_scale is not None else None


class MockTrainer:
    """The parts of a trainer that the callback reads."""

    def __init__(self, loss_scale: float | None = 65536.0, precision: str = "16-mixed") -> None:
        self.precision_plugin = MockPlugin(loss_scale)
        self.precision = precision
        self.current_epoch = 0


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """Settings of a run that takes a second."""
    return TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-3, output_dir=str(tmp_path / "run"))


@pytest.fixture
def dataset() -> RandomTokens:
    """Twenty sequences of eight tokens."""
    return RandomTokens(VOCAB_SIZE, length=8, size=20)


@pytest.fixture
def callback() -> AmpMetricsCallback:
    """The callback as a trainer makes it."""
    return AmpMetricsCallback(prefix="amp")


class TestSettings:
    """Settings that cannot be meant are refused before anything is built."""

    def test_negative_epochs_are_refused(self):
        with pytest.raises(ValueError, match="epochs is -1"):
            TrainingConfig(epochs=-1)

    def test_an_empty_batch_is_refused(self):
        with pytest.raises(ValueError, match="batch_size is 0"):
            TrainingConfig(batch_size=0)

    @pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5])
    def test_a_validation_fraction_lies_between_0_and_1(self, fraction):
        with pytest.raises(ValueError, match="validation_fraction"):
            TrainingConfig(validation_fraction=fraction)


class TestHistory:
    """The history survives a damaged file."""

    def test_a_history_comes_back(self, tmp_path):
        save_history(tmp_path, [{"epoch": 0, "train_loss": 1.5}])
        assert load_history(tmp_path) == [{"epoch": 0, "train_loss": 1.5}]

    def test_a_folder_without_a_history_has_none(self, tmp_path):
        assert load_history(tmp_path) == []

    def test_a_damaged_history_is_told_and_left_behind(self, tmp_path, capsys):
        (tmp_path / "history.json").write_text("{", encoding="utf-8")
        assert load_history(tmp_path) == []
        assert "cannot be read" in capsys.readouterr().out


class TestTrainingStep:
    """One step changes the weights, and calls the scaler in the order that torch asks for."""

    @staticmethod
    def step(config: TrainingConfig, dataset: RandomTokens, scaler: RecordingScaler | None) -> torch.Tensor:
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        env["scaler"], env["use_amp"] = scaler, scaler is not None
        return _training_step(env, dataset.tokens[:4], config.max_grad_norm)

    def test_gradients_are_unscaled_before_the_step(self, config, dataset):
        scaler = RecordingScaler()
        self.step(config, dataset, scaler)
        assert scaler.calls == ["scale", "unscale_", "step", "update"]

    def test_the_loss_is_not_scaled(self, config, dataset):
        assert self.step(config, dataset, RecordingScaler()).item() < 10.0

    def test_a_step_without_a_scaler(self, config, dataset):
        loss = self.step(config, dataset, None)
        assert loss.dtype == torch.float32
        assert not loss.requires_grad

    def test_a_failing_model_stops_the_step(self, config, dataset):
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        with (
            mock.patch.object(env["model"], "forward", side_effect=RuntimeError("shape mismatch")),
            pytest.raises(RuntimeError, match="shape mismatch"),
        ):
            _training_step(env, dataset.tokens[:4], config.max_grad_norm)

    def test_weights_move(self, config, dataset):
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        before = [parameter.detach().clone() for parameter in env["model"].parameters()]
        _training_step(env, dataset.tokens[:4], config.max_grad_norm)
        after = list(env["model"].parameters())
        assert any(not torch.equal(one, two) for one, two in zip(before, after, strict=True))

    def test_an_env_is_complete(self, config, dataset):
        assert {"model", "optimizer", "scaler"} <= set(_setup_training_environment(TinyModel(9), dataset, config))


class TestLossScale:
    """The callback reads the scale wherever the trainer keeps it."""

    def test_get_loss_scale(self, callback):
        assert callback._get_loss_scale(MockTrainer(loss_scale=1024.0)) == 1024.0

    def test_get_loss_scale_scaler_none(self, callback):
        trainer = MockTrainer(loss_scale=None)
        assert callback._get_loss_scale(trainer) is None

    def test_get_loss_scale_extreme_values(self, callback):
        # A scale that has collapsed
        trainer_zero = MockTrainer(loss_scale=0.0)
        assert callback._get_loss_scale(trainer_zero) == 0.0

        # A scale that has grown for a long time
        trainer_large = MockTrainer(loss_scale=1e10)
        assert callback._get_loss_scale(trainer_large) == 1e10

    def test_the_default_scale(self, callback):
        assert callback._get_loss_scale(MockTrainer()) == 65536.0


class TestTracking:
    """What goes to W&B, and what happens when nothing can go there."""

    def test_log_with_wandb_run_none(self, callback):
        with mock.patch("wandb.run", None), mock.patch("wandb.log") as log:
            callback.on_train_epoch_end(MockTrainer(), None)
        log.assert_not_called()

    def test_log_with_an_active_run(self, callback):
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log") as log:
            callback.on_train_epoch_end(MockTrainer(loss_scale=2048.0), None)
        assert log.call_args.args[0]["amp/loss_scale"] == 2048.0

    def test_a_failing_wandb_does_not_stop_the_epoch(self, callback, capsys):
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log", side_effect=ConnectionError("gone")):
            callback.on_train_epoch_end(MockTrainer(), None)
        told = capsys.readouterr().out
        assert "gone" in told

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_every_precision_is_reported(self, callback, precision):
        metrics = callback.metrics(MockTrainer(precision=precision))
        assert metrics["amp/enabled"] == (precision != "32-true")

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_metrics_are_finite_numbers(self, callback, precision):
        metrics = callback.metrics(MockTrainer(precision=precision))
        assert all(math.isfinite(value) for value in metrics.values())

    def test_a_trainer_without_a_scaler_reports_no_scale(self, callback):
        metrics = callback.metrics(MockTrainer(loss_scale=None, precision="bf16-mixed"))
        assert "amp/loss_scale" not in metrics

    def test_names_carry_the_prefix(self):
        metrics = AmpMetricsCallback(prefix="precision").metrics(MockTrainer())
        assert set(metrics) == {"precision/enabled", "precision/loss_scale"}

    def test_the_epoch_is_the_step(self, callback):
        trainer = MockTrainer()
        trainer.current_epoch = 7
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log") as log:
            callback.on_train_epoch_end(trainer, None)
        assert log.call_args.kwargs["step"] == 7

    def test_one_row_an_epoch(self, callback):
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log") as log:
            for _ in range(3):
                callback.on_train_epoch_end(MockTrainer(), None)
        assert log.call_count == 3

    def test_other_settings_do_not_reach_the_tracker(self, callback):
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log") as log:
            callback.on_train_epoch_end(MockTrainer(), None)
        assert all(name.startswith("amp/") for name in log.call_args.args[0])

    def test_the_trainer_is_left_as_it_is(self, callback):
        trainer = MockTrainer(loss_scale=512.0)
        callback.metrics(trainer)
        assert trainer.precision_plugin.scaler.value == 512.0
        assert trainer.current_epoch == 0

    def test_a_prefix_is_needed(self):
        with pytest.raises(ValueError, match="prefix"):
            AmpMetricsCallback(prefix="")

    def test_nothing_is_logged_in_float32(self, callback):
        trainer = MockTrainer(loss_scale=None, precision="32-true")
        with mock.patch("wandb.run", mock.Mock()), mock.patch("wandb.log") as log:
            callback.on_train_epoch_end(trainer, None)
        assert log.call_args.args[0] == {"amp/enabled": 0}


class TestFallback:
    """Without a GPU training goes on in float32, and says so."""

    def test_amp_cpu_fallback(self):
        model = SimpleModel(vocab_size=VOCAB_SIZE).cpu()
        model.eval()
        tokens = torch.randint(0, VOCAB_SIZE, (2, 8))

        # Autocast for a device that is not there leaves the operations alone
        with torch.no_grad(), autocast("cuda", enabled=torch.cuda.is_available()):
            output = model(tokens)

        # Neither a crash nor another dtype
        assert output.shape == (2, 8, VOCAB_SIZE)
        assert output.dtype == torch.float32
        assert output.device.type == "cpu"
        assert torch.isfinite(output).all()

    def test_fallback_is_told(self, config, dataset, capsys):
        with mock.patch("torch.cuda.is_available", return_value=False):
            env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=True)
        assert env["scaler"] is None
        assert env["use_amp"] is False
        assert "falling back to FP32" in capsys.readouterr().out

    def test_a_run_without_a_gpu_has_no_final_scale(self, config, dataset):
        with mock.patch("torch.cuda.is_available", return_value=False):
            result = fine_tune(TinyModel(VOCAB_SIZE), dataset, config)
        assert result["final_loss_scale"] is None
        assert math.isfinite(result["best_val_loss"])


class TestCheckpoint:
    """A run goes on where it stopped."""

    def test_a_saved_state_comes_back(self, config, dataset, tmp_path):
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        _save_checkpoint(env, 3, tmp_path)
        other = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        assert _load_checkpoint(other, tmp_path) == 3
        for one, two in zip(env["model"].parameters(), other["model"].parameters(), strict=True):
            assert torch.equal(one, two)

    def test_a_missing_checkpoint_starts_afresh(self, config, dataset, tmp_path):
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        assert _load_checkpoint(env, tmp_path) == 0

    def test_no_temporary_file_is_left(self, config, dataset, tmp_path):
        env = _setup_training_environment(TinyModel(VOCAB_SIZE), dataset, config, use_amp=False)
        _save_checkpoint(env, 1, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


class TestGradients:
    """Which gradients are called suspicious."""

    @pytest.mark.parametrize(("norm", "kind"), [(1e-9, "vanishing"), (1e3, "exploding")])
    def test_extremes_are_named(self, norm, kind):
        assert suspicious_gradients({"head.weight": norm}) == {"head.weight": kind}

    def test_ordinary_norms_are_not(self):
        assert suspicious_gradients({"head.weight": 0.5}) == {}

    def test_perplexity_stays_printable(self):
        assert _perplexity(1000.0) == pytest.approx(math.exp(20.0))


class TestRun:
    """A whole run on the CPU: short, and with everything that a long one has."""

    def test_a_run_has_one_entry_an_epoch(self, config, dataset):
        result = fine_tune(TinyModel(VOCAB_SIZE), dataset, config)
        assert [entry["epoch"] for entry in result["history"]] == [0]

    def test_the_checkpoint_of_the_best_epoch_is_there(self, config, dataset):
        result = fine_tune(TinyModel(VOCAB_SIZE), dataset, config)
        assert result["stopped_early"] is False
        assert result["checkpoint"].exists()

    def test_a_second_run_resumes(self, config, dataset):
        fine_tune(TinyModel(VOCAB_SIZE), dataset, config)
        longer = TrainingConfig(**{**vars(config), "epochs": 2})
        result = fine_tune(TinyModel(VOCAB_SIZE), dataset, longer, resume=True)
        assert result["first_epoch"] == 1
        assert [entry["epoch"] for entry in result["history"]] == [0, 1]

    def test_two_runs_with_one_seed_agree(self, config, dataset):
        torch.manual_seed(0)
        model = TinyModel(VOCAB_SIZE)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        first = fine_tune(model, dataset, config)
        model.load_state_dict(state)
        assert fine_tune(model, dataset, config)["best_val_loss"] == pytest.approx(first["best_val_loss"])
