"""Tier 3 training utilities: fine-tuning, hyperparameter search and the comparison of runs.

The functions here take any causal language model whose forward pass maps token ids of shape (B, T) to logits of
shape (B, T, V). They run in a notebook or from a script; messages for the user are printed, because a notebook shows
nothing of the logging module by default.

Contents:
    fine_tune           trains for some epochs, in mixed precision where the device has it
    search              looks for hyperparameters with optuna
    compare_models      trains several models under one configuration
    plot_*              draw what the others return; they need matplotlib
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler, autocast
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, random_split

IGNORED_LABEL = -100
BEST_CHECKPOINT = "best.pt"
HISTORY_FILE = "history.json"

Batch = torch.Tensor
History = list[dict[str, float]]


@dataclass
class TrainingConfig:
    """Settings of one training run.

    The learning rate is the peak of a warm-up followed by a cosine. `patience` counts the epochs without a better
    validation loss after which a run stops. Mixed precision is used where the device has it.
    """

    epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup_fraction: float = 0.1
    validation_fraction: float = 0.1
    patience: int = 3
    seed: int = 42
    use_amp: bool = True
    output_dir: str = "runs/tier3"

    def __post_init__(self) -> None:
        """Refuse settings that no run can use."""
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; at least one is needed")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; at least one sample is needed")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}; it lies between 0 and 1")


class RandomTokens(Dataset):
    """Sequences of random token ids: enough to see that a model trains at all.

    Args:
        vocab_size: Number of distinct tokens.
        length: Tokens in one sequence.
        size: Sequences in the data set.
        seed: Start of the generator, so that two runs see the same data.
    """

    def __init__(self, vocab_size: int, *, length: int = 64, size: int = 256, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, vocab_size, (size, length), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Batch:
        return self.tokens[index]


def set_seed(seed: int) -> None:
    """Seed every generator that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters the model has, and how many of them learn."""
    total = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total, learning


def load_history(folder: Path) -> History:
    """Return the metrics of an earlier run in the folder; an empty list where none can be read."""
    path = folder / HISTORY_FILE
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        print(f"⚠️ The history in {path.name} cannot be read, starting a new one: {error}")
        return []


def save_history(folder: Path, history: History) -> None:
    """Write the metrics of a run beside its checkpoints."""
    temporary = folder / f"{HISTORY_FILE}.tmp"
    temporary.write_text(json.dumps(history, indent=2), encoding="utf-8")
    os.replace(temporary, folder / HISTORY_FILE)


def _split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off the samples that validation uses, the same ones for the same seed."""
    held_out = max(1, int(len(dataset) * fraction))
    generator = torch.Generator().manual_seed(seed)
    training, validation = random_split(dataset, [len(dataset) - held_out, held_out], generator=generator)
    return training, validation


def _loaders(dataset: Dataset, config: TrainingConfig) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of the training and of the validation samples."""
    training, validation = _split(dataset, config.validation_fraction, config.seed)
    return (
        DataLoader(training, batch_size=config.batch_size, shuffle=True, drop_last=False),
        DataLoader(validation, batch_size=config.batch_size, shuffle=False),
    )


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices decay, biases and norms do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _warmup_then_cosine(epochs: int, warmup_fraction: float) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the epoch.

    Args:
        epochs: Length of the run.
        warmup_fraction: Part of the run over which the factor rises from near 0 to 1.
    """
    warmup = max(1, round(epochs * warmup_fraction))

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / warmup
        progress = (epoch - warmup) / max(1, epochs - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def _setup_training_environment(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    use_amp: bool | None = None,
) -> dict[str, Any]:
    """Prepare everything that an epoch needs.

    Args:
        model: The model to train; it is moved to the device.
        dataset: Sequences of token ids.
        config: Settings of the run.
        use_amp: Train in mixed precision; by default what the settings say.

    Returns:
        A dictionary with the model, the device, both loaders, the optimizer, the scheduler, the scaler (None without
        mixed precision) and whether mixed precision is in use.
    """
    set_seed(config.seed)
    print(f"preparing {type(model).__name__}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    training, validation = _loaders(dataset, config)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_cosine(config.epochs, config.warmup_fraction))
    if use_amp is None:
        use_amp = config.use_amp

    scaler = GradScaler() if (use_amp and torch.cuda.is_available()) else None
    if use_amp and not torch.cuda.is_available():
        print("⚠️ AMP requested but CUDA not available, falling back to FP32")
        use_amp = False

    return {
        "model": model,
        "device": device,
        "training": training,
        "validation": validation,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": scaler,
        "use_amp": use_amp,
    }


def describe_environment(env: dict[str, Any]) -> list[str]:
    """Return what a user wants to know before a run starts, one line a fact.

    Args:
        env: What `_setup_training_environment` returned.
    """
    total, learning = count_parameters(env["model"])
    precision = "fp16 autocast with a gradient scaler" if env["use_amp"] else "float32"
    lines = [
        f"device: {env['device']}",
        f"precision: {precision}",
        f"parameters: {format_count(total)}, of which {format_count(learning)} learn",
        f"samples: {len(env['training'].dataset)} to train, {len(env['validation'].dataset)} to validate",
    ]
    if env["device"].type == "cuda":
        lines.append(f"GPU: {torch.cuda.get_device_name(env['device'])}")
    return lines


def _language_model_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of each token given the ones before it.

    Args:
        logits: Shape (B, T, V).
        tokens: Shape (B, T).
    """
    predicted = logits[:, :-1].reshape(-1, logits.shape[-1])
    following = tokens[:, 1:].reshape(-1)
    return F.cross_entropy(predicted.float(), following, ignore_index=IGNORED_LABEL)


def _training_step(env: dict[str, Any], batch: Batch, max_grad_norm: float) -> torch.Tensor:
    """Take one optimizer step and return the loss, still on the device.

    Nothing is caught here: a step that fails stops the run, with the traceback of the model. The gradients are
    unscaled before they are clipped, because the threshold is meant for their true size. A step whose gradients
    overflow is skipped by the scaler, which then halves the scale; nothing has to be done about it here.

    Args:
        env: What `_setup_training_environment` returned.
        batch: Token ids of shape (B, T).
        max_grad_norm: Threshold on the norm of the unscaled gradients.
    """
    model, optimizer, scaler = env["model"], env["optimizer"], env["scaler"]
    tokens = batch.to(env["device"], non_blocking=True)
    optimizer.zero_grad(set_to_none=True)

    if env["use_amp"] and scaler is not None:
        with autocast("cuda", dtype=torch.float16):
            loss = _language_model_loss(model(tokens), tokens)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
    else:
        loss = _language_model_loss(model(tokens), tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
    return loss.detach()


def _training_epoch(env: dict[str, Any], config: TrainingConfig) -> float:
    """Train on every batch once and return the mean loss.

    The losses are summed on the device, so that the host waits once an epoch and not once a step.
    """
    env["model"].train()
    total = torch.zeros((), device=env["device"])
    batches = 0
    for batch in env["training"]:
        total += _training_step(env, batch, config.max_grad_norm)
        batches += 1
    return total.item() / max(batches, 1)


@torch.no_grad()
def _validation_epoch(env: dict[str, Any]) -> float:
    """Return the mean loss over the validation samples, in the precision of the training."""
    model = env["model"]
    model.eval()
    total = torch.zeros((), device=env["device"])
    batches = 0
    for batch in env["validation"]:
        tokens = batch.to(env["device"], non_blocking=True)
        with autocast(env["device"].type, dtype=torch.float16, enabled=env["use_amp"]):
            logits = model(tokens)
        total += _language_model_loss(logits, tokens)
        batches += 1
    return total.item() / max(batches, 1)


def _perplexity(loss: float) -> float:
    """Return e to the loss.

    Losses past 20 count as 20, so that the number stays printable.
    """
    return math.exp(min(loss, 20.0))


def _gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of each parameter's gradient after a backward pass without a scaler.

    Args:
        model: A model whose gradients are unscaled.
    """
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norms[name] = parameter.grad.detach().norm().item()
    return norms


def probe_gradient_flow(model: nn.Module, tokens: Batch) -> dict[str, float]:
    """Return gradient norms by parameter for one batch in full precision; the weights stay as they are.

    Args:
        model: The model to look at; a copy of it computes.
        tokens: Token ids of shape (B, T), on the model's device.
    """
    probe = copy.deepcopy(model).float()
    probe.train()
    loss = _language_model_loss(probe(tokens), tokens)
    loss.backward()
    return _gradient_norms(probe)


def plot_gradient_flow(norms: dict[str, float], path: str | None = None) -> None:
    """Draw the gradient norms of a model, first layer on the left.

    Args:
        norms: What `probe_gradient_flow` returned.
        path: Where the picture is saved; without it the picture is shown.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("⚠️ matplotlib not available, skipping visualization")
        return

    names = list(norms)
    values = [max(norms[name], 1e-12) for name in names]
    figure, axis = plt.subplots(figsize=(max(6.0, 0.3 * len(names)), 4.0))
    axis.bar(range(len(names)), values, color="tab:blue")
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)))
    axis.set_xticklabels(names, rotation=90, fontsize=6)
    axis.set_ylabel("gradient norm")
    axis.set_title("Gradient flow")
    figure.tight_layout()
    _show_or_save(figure, path)


def _show_or_save(figure: Any, path: str | None) -> None:
    """Save a picture under the path, or show it; a picture is closed afterwards, because notebooks keep them all."""
    import matplotlib.pyplot as plt

    if path is None:
        plt.show()
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def suspicious_gradients(norms: dict[str, float], *, small: float = 1e-7, large: float = 1e2) -> dict[str, str]:
    """Return the parameters whose gradients vanish or explode, with which of the two it is.

    Args:
        norms: What `probe_gradient_flow` returned.
        small: Norms below it count as vanishing.
        large: Norms above it count as exploding.
    """
    found = {}
    for name, norm in norms.items():
        if norm < small:
            found[name] = "vanishing"
        elif norm > large:
            found[name] = "exploding"
    return found


def _start_tracking(config: TrainingConfig, name: str) -> bool:
    """Start a W&B run unless one is active; return whether metrics go there."""
    try:
        import wandb
    except ImportError:
        print("⚠️ wandb is not installed, metrics stay in the history file")
        return False
    if wandb.run is None:
        print(f"No W&B run is active; to track these {config.epochs} epochs call wandb.init(name={name!r}) first")
        return False
    return True


def _save_checkpoint(env: dict[str, Any], epoch: int, folder: Path) -> Path:
    """Write the state of the run so that a crash in between leaves the last checkpoint whole.

    Args:
        env: What `_setup_training_environment` returned.
        epoch: Epochs finished.
        folder: Folder of the run.

    The scale belongs to the state: a run that resumes without it skips its first steps.

    Returns:
        Where the checkpoint is.
    """
    state = {
        "epoch": epoch,
        "model": env["model"].state_dict(),
        "optimizer": env["optimizer"].state_dict(),
        "scheduler": env["scheduler"].state_dict(),
        "scaler": env["scaler"].state_dict() if env["scaler"] is not None else None,
        "rng": torch.get_rng_state(),
    }
    final = folder / BEST_CHECKPOINT
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, final)
    return final


def _load_checkpoint(env: dict[str, Any], folder: Path) -> int:
    """Take over the state of an earlier run and return how many epochs it had finished; 0 where there is none.

    Args:
        env: What `_setup_training_environment` returned; its members are changed in place.
        folder: Folder of the earlier run.
    """
    path = folder / BEST_CHECKPOINT
    if not path.exists():
        return 0
    state = torch.load(path, map_location=env["device"], weights_only=True)
    env["model"].load_state_dict(state["model"])
    env["optimizer"].load_state_dict(state["optimizer"])
    env["scheduler"].load_state_dict(state["scheduler"])
    if env["scaler"] is not None and state["scaler"] is not None:
        env["scaler"].load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"].cpu())
    return state["epoch"]


def fine_tune(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    use_wandb: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model and return its metrics.

    Args:
        model: The model to train.
        dataset: Sequences of token ids.
        config: Settings of the run; the defaults suit a small model.
        use_wandb: Send metrics to the active W&B run, if there is one.
        resume: Go on from the checkpoint in the output folder.

    Returns:
        The history by epoch, the best validation loss, the final loss scale, and where the checkpoint is.
    """
    config = config or TrainingConfig()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    env = _setup_training_environment(model, dataset, config)
    for line in describe_environment(env):
        print(line)
    use_wandb = use_wandb and _start_tracking(config, folder.name)
    first = _load_checkpoint(env, folder) if resume else 0
    history = load_history(folder) if resume else []
    best, waited, checkpoint = math.inf, 0, None
    if first:
        best = min((entry["val_loss"] for entry in history), default=math.inf)

    for epoch in range(first, config.epochs):
        train_loss = _training_epoch(env, config)
        val_loss = _validation_epoch(env)
        env["scheduler"].step()
        history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "perplexity": _perplexity(val_loss),
                "learning_rate": env["scheduler"].get_last_lr()[0],
            }
        )
        print(f"epoch {epoch + 1}/{config.epochs}: train {train_loss:.4f}, validation {val_loss:.4f}")

        if env["use_amp"] and use_wandb and env["scaler"] is not None:
            try:
                import wandb
                if wandb.run is not None:
                    # get_scale() returns a positive float wherever there is a scaler
                    scale = env["scaler"].get_scale()
                    wandb.log({"amp/loss_scale": scale, "amp/enabled": 1}, step=epoch)
            except Exception as e:
                print(f"⚠️ Failed to log AMP metrics: {e}")

        if val_loss < best:
            best, waited = val_loss, 0
            checkpoint = _save_checkpoint(env, epoch + 1, folder)
        else:
            waited += 1
        save_history(folder, history)
        # A model that has not improved for so long seldom improves later, and the best weights are on disk.
        if waited >= config.patience:
            print(f"no better validation loss for {waited} epochs, stopping early")
            break

    total, learning = count_parameters(model)
    if not history:
        print("nothing was left to train: the checkpoint has all epochs already")
    else:
        last = history[-1]
        print(f"finished after epoch {int(last['epoch']) + 1}: best validation loss {best:.4f}")

    return {
        "history": history,
        "epochs": len(history),
        "first_epoch": first,
        "best_val_loss": best,
        "best_perplexity": _perplexity(best),
        "stopped_early": waited >= config.patience,
        "checkpoint": checkpoint,
        "amp_enabled": env["use_amp"],
        "final_loss_scale": env["scaler"].get_scale() if (env["use_amp"] and env["scaler"] is not None) else None,
        "device": str(env["device"]),
        "parameters": total,
        "learning_parameters": learning,
    }


def plot_history(history: History, path: str | None = None) -> None:
    """Draw the losses of one run by epoch.

    Args:
        history: What `fine_tune` returned under "history".
        path: Where the picture is saved; without it the picture is shown.
    """
    import matplotlib.pyplot as plt

    epochs = [entry["epoch"] + 1 for entry in history]
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    axes[0].plot(epochs, [entry["train_loss"] for entry in history], marker="o", label="training")
    axes[0].plot(epochs, [entry["val_loss"] for entry in history], marker="o", label="validation")
    axes[0].set_xlabel("epoch")
    axes[0].set_ylabel("loss")
    if history:
        lowest = min(history, key=lambda entry: entry["val_loss"])
        axes[0].axvline(lowest["epoch"] + 1, color="tab:gray", linestyle=":", label="best epoch")
    axes[0].legend()
    axes[1].plot(epochs, [entry["learning_rate"] for entry in history], color="tab:green")
    axes[1].set_xlabel("epoch")
    axes[1].set_ylabel("learning rate")
    figure.tight_layout()
    _show_or_save(figure, path)


@dataclass
class SearchSpace:
    """Ranges that the search draws from; both ends are included."""

    learning_rate: tuple[float, float] = (1e-6, 1e-3)
    weight_decay: tuple[float, float] = (1e-4, 0.3)
    max_grad_norm: tuple[float, float] = (0.3, 3.0)
    batch_sizes: tuple[int, ...] = (4, 8, 16, 32)


def _suggest(trial: Any, space: SearchSpace, base: TrainingConfig) -> TrainingConfig:
    """Return the settings that a trial proposes."""
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", *space.learning_rate, log=True),
        weight_decay=trial.suggest_float("weight_decay", *space.weight_decay, log=True),
        max_grad_norm=trial.suggest_float("max_grad_norm", *space.max_grad_norm),
        batch_size=trial.suggest_categorical("batch_size", list(space.batch_sizes)),
        output_dir=str(Path(base.output_dir) / f"trial-{trial.number:03d}"),
    )


def search(
    make_model: Callable[[], nn.Module],
    dataset: Dataset,
    *,
    trials: int = 20,
    timeout_s: float | None = None,
    space: SearchSpace | None = None,
    base: TrainingConfig | None = None,
) -> Any:
    """Look for the hyperparameters with the lowest validation loss.

    Each trial trains a fresh model for the epochs of `base`. A trial that does not fit into memory is pruned, so that
    the search learns to avoid its batch size; any other error ends the search, because it would come back in every
    trial.

    Args:
        make_model: Returns a fresh model for each trial.
        dataset: Sequences of token ids.
        trials: How many settings are tried.
        timeout_s: Start no further trial after so many seconds; None waits for all of them.
        space: What they are drawn from.
        base: What all of them share.

    Returns:
        The optuna study.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("the search needs optuna: pip install optuna") from error

    space = space or SearchSpace()
    base = base or TrainingConfig(epochs=1)

    def objective(trial: Any) -> float:
        config = _suggest(trial, space, base)
        try:
            result = fine_tune(make_model(), dataset, config)
        except torch.OutOfMemoryError as error:
            print(f"⚠️ Trial {trial.number} does not fit into memory with batch size {config.batch_size}")
            raise optuna.TrialPruned("out of memory") from error
        trial.set_user_attr("epochs", result["epochs"])
        return result["best_val_loss"]

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=base.seed))
    study.optimize(objective, n_trials=trials, timeout=timeout_s)
    return study


def _finished(study: Any) -> list[Any]:
    """Return the trials that have a value, in the order in which they ran."""
    return [trial for trial in study.trials if trial.value is not None]


def summarize_search(study: Any, best: int = 5) -> list[dict[str, Any]]:
    """Return the best trials of a study as rows of a table.

    Args:
        study: What `search` returned.
        best: How many rows are wanted.
    """
    rows = []
    for trial in sorted(_finished(study), key=lambda t: t.value)[:best]:
        rows.append({"number": trial.number, "value": trial.value, **trial.params})
    return rows


def best_config(study: Any, base: TrainingConfig) -> TrainingConfig:
    """Return the settings of the best trial, with everything that was not searched taken from `base`.

    Raises:
        ValueError: No trial has finished.
    """
    finished = _finished(study)
    if not finished:
        raise ValueError("no trial of this study has finished")
    best = min(finished, key=lambda trial: trial.value)
    return replace(base, **best.params)


def print_search(study: Any) -> None:
    """Print the best trials of a study, one a line."""
    rows = summarize_search(study)
    if not rows:
        print("no trial has finished")
        return
    for row in rows:
        settings = ", ".join(f"{name}={value}" for name, value in row.items() if name not in ("number", "value"))
        print(f"trial {row['number']:>3}: validation loss {row['value']:.4f} with {settings}")


def plot_search(study: Any, path: str | None = None) -> None:
    """Draw how the search went and which settings mattered.

    Args:
        study: What `search` returned.
        path: Where the picture is saved; without it the picture is shown.
    """
    import matplotlib.pyplot as plt
    import optuna

    finished = _finished(study)
    figure, axes = plt.subplots(1, 2, figsize=(14, 5))

    values = [trial.value for trial in finished]
    best_so_far = [min(values[: n + 1]) for n in range(len(values))]
    axes[0].scatter([trial.number for trial in finished], values, alpha=0.6, label="trial")
    axes[0].plot([trial.number for trial in finished], best_so_far, color="tab:red", label="best so far")
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel("validation loss")
    axes[0].set_title("Optimization history")
    axes[0].legend()

    # Importances need a few finished trials and scikit-learn.
    try:
        importances = optuna.importance.get_param_importances(study)
        names = list(importances)[::-1]
        axes[1].barh(names, [importances[name] for name in names], color="tab:green")
        axes[1].set_xlabel("importance")
        axes[1].set_title("Parameter importance")
    except Exception as e:
        import logging
        logging.debug(f"Parameter importance analysis failed: {e}")
        axes[1].text(0.5, 0.5, "Importance analysis\nnot available",
                     ha="center", va="center", transform=axes[1].transAxes)
        axes[1].axis("off")

    figure.tight_layout()
    _show_or_save(figure, path)


@dataclass
class Comparison:
    """What training gave for one of several models.

    The perplexity is the one of the best epoch, not of the last: a model that has begun to overfit is compared by the
    weights that its checkpoint holds.
    """

    name: str
    parameters: int
    best_val_loss: float
    history: History

    @property
    def perplexity(self) -> float:
        """Return the perplexity at the best epoch."""
        return _perplexity(self.best_val_loss)


def compare_models(
    models: dict[str, nn.Module],
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    use_wandb: bool = False,
) -> list[Comparison]:
    """Train several models under the same settings, the best first.

    The runs share the seed, the split of the samples and the order of the batches, so that a difference between two
    models is not one between two draws of the data.

    Args:
        models: Name of each model, and the model.
        dataset: Sequences of token ids; all models see the same ones.
        config: Settings that all runs share.
        use_wandb: Send the metrics of each run to the active W&B run.
    """
    config = config or TrainingConfig()
    compared = []
    for name, model in models.items():
        print(f"training {name}")
        own = replace(config, output_dir=str(Path(config.output_dir) / name))
        result = fine_tune(model, dataset, own, use_wandb=use_wandb)
        compared.append(
            Comparison(
                name=name,
                parameters=count_parameters(model)[0],
                best_val_loss=result["best_val_loss"],
                history=result["history"],
            )
        )
    return sorted(compared, key=lambda one: one.best_val_loss)


def relative_gap(compared: Sequence[Comparison]) -> dict[str, float]:
    """Return by how much each model's perplexity lies above the best one's, in percent."""
    if not compared:
        return {}

    best = min(one.perplexity for one in compared)
    return {one.name: (one.perplexity / max(best, 1.0) - 1.0) * 100 for one in compared}


def rank_by_efficiency(compared: Sequence[Comparison]) -> list[str]:
    """Return the names of the models that no other one beats in both size and loss, the smallest first.

    A larger model earns its place only by a lower loss than every smaller one.

    Args:
        compared: What `compare_models` returned.
    """
    efficient: list[str] = []
    lowest = math.inf
    for one in sorted(compared, key=lambda each: (each.parameters, each.best_val_loss)):
        if one.best_val_loss < lowest:
            efficient.append(one.name)
            lowest = one.best_val_loss
    return efficient


def format_count(number: int) -> str:
    """Return a count as people say it: 1.2M for 1,234,567."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def plot_comparison(compared: Sequence[Comparison], path: str | None = None) -> None:
    """Draw the validation losses of several models, and their size against their perplexity.

    Args:
        compared: What `compare_models` returned.
        path: Where the picture is saved; without it the picture is shown.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("⚠️ matplotlib not available, skipping visualization")
        return

    figure, axes = plt.subplots(1, 2, figsize=(14, 5))
    for one in compared:
        epochs = [entry["epoch"] + 1 for entry in one.history]
        axes[0].plot(epochs, [entry["val_loss"] for entry in one.history], marker="o", label=one.name)
    axes[0].set_xlabel("epoch")
    axes[0].set_ylabel("validation loss")
    axes[0].legend()

    axes[1].scatter([one.parameters for one in compared], [one.perplexity for one in compared])
    for one in compared:
        axes[1].annotate(f"{one.name} ({format_count(one.parameters)})", (one.parameters, one.perplexity))
    axes[1].set_xscale("log")
    axes[1].set_xlabel("parameters")
    axes[1].set_ylabel("perplexity")
    figure.suptitle("Model comparison")
    figure.tight_layout()
    _show_or_save(figure, path)


def total_epochs(compared: Sequence[Comparison]) -> int:
    """Return how many epochs the comparison took, over all models; runs that stopped early count what they did."""
    return sum(len(one.history) for one in compared)


def write_comparison(compared: Sequence[Comparison], path: Path) -> bool:
    """Write a comparison as CSV and return whether that worked; a full disk must not lose the results in memory.

    Args:
        compared: What `compare_models` returned.
        path: The file to write.
    """
    gaps = relative_gap(compared)
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["model", "parameters", "best_val_loss", "perplexity", "gap_pct"])
            for one in compared:
                writer.writerow([one.name, one.parameters, one.best_val_loss, one.perplexity, gaps[one.name]])
    except OSError as error:
        print(f"⚠️ The comparison could not be written to {path.name}: {error}")
        return False
    return True


@torch.no_grad()
def generate(model: nn.Module, prompt: Batch, *, tokens: int = 32, temperature: float = 1.0) -> Batch:
    """Return the prompt with sampled tokens after it, as a look at what a model has learned.

    Args:
        model: A trained model.
        prompt: Token ids of shape (B, T).
        tokens: How many to add.
        temperature: Above 0; smaller values follow the model's first choice more closely.

    Raises:
        ValueError: The temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    model.eval()
    sequence = prompt
    for _ in range(tokens):
        logits = model(sequence)[:, -1].float()
        probabilities = torch.softmax(logits / temperature, dim=-1)
        following = torch.multinomial(probabilities, num_samples=1)
        sequence = torch.cat([sequence, following], dim=1)
    return sequence


def token_accuracy(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Return the share of tokens that the model would have guessed.

    Args:
        logits: Shape (B, T, V).
        tokens: Shape (B, T).
    """
    guessed = logits[:, :-1].argmax(dim=-1)
    right = (guessed == tokens[:, 1:]).sum().item()
    return right / max(guessed.numel(), 1)


def smoothed(values: Iterable[float], window: int = 5) -> list[float]:
    """Return the running mean over the last `window` values."""
    kept: list[float] = []
    means = []
    for value in values:
        kept = [*kept, value][-max(window, 1) :]
        means.append(sum(kept) / max(len(kept), 1))
    return means


def most_likely(model: nn.Module, prompt: Batch, count: int = 5) -> list[list[tuple[int, float]]]:
    """Return the most likely next tokens after each prompt, with their probabilities.

    Args:
        model: A trained model.
        prompt: Token ids of shape (B, T).
        count: How many tokens a prompt gets.
    """
    model.eval()
    with torch.no_grad():
        probabilities = torch.softmax(model(prompt)[:, -1].float(), dim=-1)
    values, tokens = probabilities.topk(min(count, probabilities.shape[-1]), dim=-1)
    return [list(zip(ids, chances, strict=True)) for ids, chances in zip(tokens.tolist(), values.tolist(), strict=True)]


class TinyModel(nn.Module):
    """A model that trains in seconds on a CPU: for trying these functions out.

    Args:
        vocab_size: Number of distinct tokens.
        width: Size of the embedding.
    """

    def __init__(self, vocab_size: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.mixer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens: Batch) -> torch.Tensor:
        """Return the logits, shape (B, T, V)."""
        mixed, _ = self.mixer(self.embedding(tokens))
        return self.head(mixed)


def weights_unchanged(before: dict[str, torch.Tensor], model: nn.Module) -> bool:
    """Whether a model's weights are what they were before."""
    return all(torch.equal(before[name].to(value.device), value) for name, value in model.state_dict().items())


def demo(vocab_size: int = 100) -> dict[str, Any]:
    """Fine-tune a tiny model on random tokens and return its metrics."""
    config = TrainingConfig(epochs=2, learning_rate=1e-3, output_dir="runs/tier3-demo")
    return fine_tune(TinyModel(vocab_size), RandomTokens(vocab_size), config)


if __name__ == "__main__":
    demo()
