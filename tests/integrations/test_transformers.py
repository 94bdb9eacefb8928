"""The guarded Trainer and the callback, beside the plain Trainer on the same runs.

Accelerate makes a loss scaler on GPUs only. Where the callback needs one on a CPU it is torch's own, put where the
Trainer's accelerator keeps its own.
"""

import copy

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ampguard.errors import CollapseError, ConfigError
from ampguard.integrations.transformers import GuardedTrainer, GuardTrainerCallback, GuardTrainerMixin

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = 4
QUIET = {"on_event": lambda event: None}
EMULATE = {"on_unsupported": "emulate", "init_scale": 2.0**10, **QUIET}
FIGURES = {"amp/enabled", "amp/applied_steps", "amp/skipped_steps", "amp/skip_streak"}


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its options in process-wide singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Overflowing(nn.Module):
    """A normalised line through zero; the batches with x = inf overflow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.line = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = self.line(self.norm(x))
        return {"loss": out.float().square().mean(), "out": out}


class Rows(Dataset):
    """Two overflowing batches of two rows, then healthy ones."""

    def __init__(self, skips: int = 2, steps: int = STEPS):
        self.x = torch.randn(2 * steps, 4, generator=torch.Generator().manual_seed(1))
        self.x[: 2 * skips] = float("inf")

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index]}


class InOrder:
    """Reads the rows in order, so that the test knows which step overflows."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class PlainInOrder(InOrder, Trainer):
    pass


class GuardedInOrder(InOrder, GuardTrainerMixin, Trainer):
    pass


def arguments(folder, **options) -> TrainingArguments:
    AcceleratorState._reset_state(reset_partial_state=True)
    defaults = {
        "use_cpu": True,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.1,
        "lr_scheduler_type": "linear",
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


def ordered(folder, *, skips: int = 2, guard=EMULATE, resume=None, **options) -> GuardedInOrder:
    given = arguments(folder, **options)
    trainer = GuardedInOrder(Overflowing(), given, train_dataset=Rows(skips), guard_options=guard)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a, b) -> bool:
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}], ids=["fp32", "bf16", "fp16"])
def test_skips_are_exact_and_hold_lr_and_batch_norm(tmp_path, precision, optim):
    trainer = ordered(tmp_path, optim=optim, **precision)
    record = trainer.guard.read()
    assert (record.applied_steps, record.skipped_steps, trainer.state.global_step) == (2, 2, 4)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.1 * (1 - 2 / STEPS))
    assert trainer.model.norm.num_batches_tracked == 2
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    assert (
        trainer.guard.decision.granted == {"": "fp32", "bf16": "bf16-mixed", "fp16": "fp16-mixed"}["".join(precision)]
    )
    assert record.loss_scale == (2.0**8 if "fp16" in precision else None)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_the_plain_trainer_applies_a_non_finite_step(tmp_path, precision):
    trainer = PlainInOrder(Overflowing(), arguments(tmp_path, **precision), train_dataset=Rows())
    trainer.train()
    assert not all(p.isfinite().all() for p in trainer.model.parameters()), "transformers has fixed this"


def test_every_log_has_the_figures(tmp_path):
    history = ordered(tmp_path, fp16=True).state.log_history
    assert all(row.keys() >= FIGURES for row in history)
    assert [row["amp/skipped_steps"] for row in history] == [1, 2, 2, 2, 2]
    assert [row["amp/loss_scale"] for row in history] == [1024.0, 512.0, 256.0, 256.0, 256.0]


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8, bos_token_id=0, eos_token_id=0)
    )


def texts(count: int = 6) -> list[dict[str, Tensor]]:
    """Samples of 8 tokens, of which the first ones are no labels: another number in each."""
    tokens = torch.randint(0, 16, (count, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row.clone()} for row in tokens]
    for index, row in enumerate(rows):
        row["labels"][: index + 1] = -100
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
        {"max_grad_norm": 0.0, "optim": "adamw_torch"},
        pytest.param({"bf16": True, "gradient_checkpointing": True}, marks=pytest.mark.bf16),
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_a_healthy_run_is_the_plain_trainers_bit_for_bit(tmp_path, options):
    runs = {}
    for kind in (Trainer, GuardedTrainer):
        # 6 samples in groups of 4: the last group is a short one.
        given = arguments(tmp_path, max_steps=-1, num_train_epochs=2, seed=0, **options)
        trainer = kind(gpt2(), given, train_dataset=texts())
        trainer.train()
        runs[kind] = weights(trainer.model), trainer.state.log_history
    (plain, plain_rows), (ours, rows) = runs.values()
    assert same(plain, ours)
    for before, after in zip(plain_rows, rows, strict=True):
        timeless = {key: value for key, value in before.items() if "per_second" not in key and "runtime" not in key}
        assert after.items() >= timeless.items()


def test_a_checkpoint_carries_the_guard(tmp_path):
    options = {"fp16": True, "save_strategy": "steps", "save_steps": 1}
    whole = ordered(tmp_path / "whole", **options)
    resumed = ordered(tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-2"), **options)
    assert same(weights(whole.model), weights(resumed.model))
    assert whole.guard.read() == resumed.guard.read()
    assert whole.lr_scheduler.get_last_lr() == resumed.lr_scheduler.get_last_lr()


def test_a_second_train_goes_on_counting(tmp_path):
    trainer = ordered(tmp_path)
    trainer.train()
    record = trainer.guard.read()
    assert (record.applied_steps, record.skipped_steps) == (4, 4)


def test_evaluate_alone_needs_no_guard(tmp_path):
    trainer = GuardedTrainer(gpt2(), arguments(tmp_path), eval_dataset=texts(), guard_options=QUIET)
    assert "eval_loss" in trainer.evaluate()
    with pytest.raises(ConfigError, match="no optimizer is prepared"):
        _ = trainer.guard


def test_fp16_on_a_cpu_falls_back_aloud(tmp_path, caplog):
    trainer = GuardedTrainer(gpt2(), arguments(tmp_path, fp16=True), train_dataset=texts())
    trainer.train()
    assert trainer.guard.decision.granted == "fp32"
    assert "This run uses fp32 instead" in caplog.text


def test_a_collapse_stops_the_trainer(tmp_path):
    with pytest.raises(CollapseError):
        ordered(tmp_path, skips=4, guard={**EMULATE, "max_skip_streak": 2, "check_every": 1})


class Reporter(TrainerCallback):
    """Stands for W&B or TensorBoard, which the Trainer puts before all callbacks of its user."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def called_back(folder, *, scaler=None, skips: int = 2, first: bool = False, **options) -> tuple[Trainer, Reporter]:
    reporter, callback = Reporter(), GuardTrainerCallback(**QUIET)
    trainer = PlainInOrder(
        Overflowing(), arguments(folder, **options), train_dataset=Rows(skips), callbacks=[reporter, callback]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.accelerator.scaler = scaler
    if first:
        callback.first_in(trainer)
    trainer.train()
    return trainer, reporter


def scaler(scale: float = 2.0**10, *, enabled: bool = True) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_the_callback_holds_lr_and_batch_norm_on_exact_skips(tmp_path, optim, scaled):
    trainer, _ = called_back(tmp_path, scaler=scaler() if scaled else None, optim=optim)
    last = trainer.state.log_history[-1]
    assert (last["amp/applied_steps"], last["amp/skipped_steps"]) == (2, 2)
    assert last.get("amp/loss_scale") == (2.0**8 if scaled else None)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.1 * (1 - 2 / STEPS))
    assert trainer.model.norm.num_batches_tracked == 2
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_callback_guards_a_compiled_model(tmp_path):
    torch.compiler.reset()
    trainer, _ = called_back(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    last = trainer.state.log_history[-1]
    assert (last["amp/applied_steps"], last["amp/skipped_steps"]) == (2, 2)
    assert trainer.model.norm.num_batches_tracked == 2


def test_a_healthy_run_with_the_callback_is_the_plain_trainers_bit_for_bit(tmp_path):
    plain = PlainInOrder(Overflowing(), arguments(tmp_path), train_dataset=Rows(0))
    plain.accelerator.scaler = scaler()
    plain.train()
    ours, _ = called_back(tmp_path, scaler=scaler(), skips=0)
    assert same(weights(plain.model), weights(ours.model))
    assert ours.accelerator.scaler.get_scale() == plain.accelerator.scaler.get_scale()


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
def test_the_callback_reports_the_scale_as_it_is(tmp_path, scale):
    trainer, _ = called_back(tmp_path, scaler=scaler(scale), skips=0)
    assert trainer.state.log_history[0]["amp/loss_scale"] == pytest.approx(scale)


def test_a_disabled_scaler_is_no_scale(tmp_path):
    trainer, _ = called_back(tmp_path, scaler=scaler(enabled=False))
    assert "amp/loss_scale" not in trainer.state.log_history[-1]
    assert trainer.state.log_history[-1]["amp/skipped_steps"] == 2


@pytest.mark.parametrize("first", [True, False])
def test_loggers_get_the_figures_if_the_callback_comes_first(tmp_path, first):
    trainer, reporter = called_back(tmp_path, first=first)
    assert all((row.keys() >= FIGURES) is first for row in reporter.rows)
    assert all(row.keys() >= FIGURES for row in trainer.state.log_history)


def test_the_callback_leaves_a_guarded_trainer_alone(tmp_path):
    callback = GuardTrainerCallback()
    trainer = GuardedInOrder(
        Overflowing(), arguments(tmp_path), train_dataset=Rows(), callbacks=[callback], guard_options=QUIET
    )
    trainer.train()
    assert trainer.state.log_history[-1]["amp/skipped_steps"] == 2


def test_an_optimizer_of_another_kind_is_refused():
    model = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="cannot guard a SGD"):
        GuardTrainerCallback().on_train_begin(
            None, None, None, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
        )


def test_a_trained_model_can_be_copied(tmp_path):
    trainer = ordered(tmp_path)
    twin = copy.deepcopy(trainer.model)
    assert same(weights(trainer.model), weights(twin))
