"""Task.from_hf: real, tiny models built offline; trained with ampguard's own loop."""

import json
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.optim import SGD
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import ampguard
from ampguard import LossSum, Task
from ampguard.errors import MissingExtraError, TaskError
from ampguard.training.data import split

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

VOCABULARY, LENGTH = 16, 8
SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its options in process-wide singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def gpt2() -> GPT2LMHeadModel:
    shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": LENGTH}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**shape, **still, bos_token_id=0, eos_token_id=0))


def bert(kind=BertForSequenceClassification, **config):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return kind(BertConfig(vocab_size=VOCABULARY, **SIZES, **still, **config))


def texts(count: int = 6) -> list[dict]:
    """Samples whose first tokens are no labels: another number in each."""
    rows = torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    samples = [{"input_ids": row, "labels": row.clone()} for row in rows]
    for index, sample in enumerate(samples):
        sample["labels"][: index + 1] = -100
    return samples


def reviews(count: int = 6) -> list[dict]:
    return [{"input_ids": row["input_ids"], "label": index % 2} for index, row in enumerate(texts(count))]


def arguments(folder, **options) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], **options)


def gradients(task: Task, model: nn.Module, batch, micro: int) -> list[torch.Tensor]:
    """Return the gradients of a step in micro-batches, by the guard's accumulation."""
    guard = ampguard.Guard(model, SGD(model.parameters(), lr=0.0), precision="fp32")
    for part in split(batch, micro):
        with guard.autocast():
            loss = task.loss(model, part)
        guard.backward(loss)
    guard.step()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        (gpt2, texts),
        (lambda: bert(BertForMaskedLM), texts),
        (bert, reviews),
        (lambda: bert(num_labels=1), lambda: [{**row, "label": float(row["label"])} for row in reviews()]),
    ],
    ids=["causal", "masked", "classes", "regression"],
)
def test_micro_batches_add_up_to_the_models_own_mean(model, samples):
    task = Task.from_hf(model, samples())
    built = task.model()
    batch = task.collate([task.train_data[index] for index in range(6)])
    loss = built(**batch).loss
    loss.backward()
    whole = [p.grad.clone() for p in built.parameters() if p.grad is not None]
    built.zero_grad()
    for ours, right in zip(gradients(task, built, batch, 2), whole, strict=True):
        # Sums of some dozens of float32 terms in another order.
        torch.testing.assert_close(ours, right, rtol=2.0**-16, atol=2.0**-20)
    measured = task.evaluate(built, batch)["loss"]
    assert (measured.total / measured.count).item() == pytest.approx(loss.item())


def test_an_encoder_decoder_counts_every_label():
    config = T5Config(
        vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    task = Task.from_hf(lambda: T5ForConditionalGeneration(config), texts())
    batch = task.collate([{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in texts(2)])
    assert task.loss(task.model(), batch).count == 2 * LENGTH


def test_a_batch_without_labels_counts_nothing():
    task = Task.from_hf(gpt2(), texts())
    batch = task.collate(texts(2))
    batch["labels"][:] = -100
    loss = task.loss(task.model(), batch)
    assert (loss.total.item(), loss.count.item()) == (0.0, 0)
    loss.total.backward()


def test_a_loss_of_another_kind_is_a_mean():
    class Odd(nn.Module):
        def forward(self, x, labels):
            return {"loss": (x - labels).abs().max() + 0 * self.weight, "out": x}

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

    task = Task.from_hf(Odd(), [{"x": 1.0, "labels": 0.5}])
    assert not isinstance(task.loss(task.model(), task.collate([task.train_data[0]])), LossSum)
    assert task.name == "odd"


def test_accuracy_is_the_next_tokens_for_a_causal_model():
    task = Task.from_hf(gpt2(), texts())
    model, batch = task.model(), task.collate(texts())
    guessed = model(**batch).logits[:, :-1].argmax(-1)
    right = (guessed == batch["labels"][:, 1:]).sum().item()
    metrics = task.evaluate(model, batch)
    assert metrics["accuracy"].total == right
    assert metrics["accuracy"].count == (batch["labels"][:, 1:] != -100).sum()
    assert metrics["loss"].count == metrics["accuracy"].count


@pytest.mark.parametrize("give", ["instance", "function"])
def test_each_model_is_another(give):
    source = gpt2()
    task = Task.from_hf(source if give == "instance" else gpt2, texts())
    first, second = task.model(), task.model()
    assert first is not second is not source
    if give == "instance":
        assert all(map(torch.equal, first.parameters(), source.parameters()))


def test_a_model_without_loss_is_named_with_the_remedy():
    without_head = Task.from_hf(bert(BertModel), reviews())
    with pytest.raises(TaskError, match=r"BertModel returned no loss, only last_hidden_state.*AutoModelForCausalLM"):
        without_head.loss(without_head.model(), without_head.collate([without_head.train_data[0]]))
    without_labels = Task.from_hf(gpt2(), [{"input_ids": row["input_ids"]} for row in texts()])
    with pytest.raises(TaskError, match=r"the batch has input_ids\. Let the samples have `labels`"):
        without_labels.loss(without_labels.model(), without_labels.collate([without_labels.train_data[0]]))


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (gpt2, None, "there is no training data"),
        (gpt2, {"test": []}, "has the parts test.*Allowed: train, validation"),
        ("gpt2", texts(), "the model is a str"),
        (lambda: 1, texts(), "the model is a int"),
    ],
)
def test_what_makes_no_task_is_refused(model, dataset, message):
    with pytest.raises(TaskError, match=message):
        Task.from_hf(model, dataset)


def test_parts_of_a_dataset_are_found():
    task = Task.from_hf(gpt2(), {"train": texts(6), "validation": texts(2)})
    assert (len(task.train_data), len(task.val_data)) == (6, 2)


class Columns(Dataset):
    """As `datasets.Dataset` looks: named columns, rows as dicts, many rows at once."""

    column_names = ("input_ids", "labels", "text", "size")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {**texts()[index], "text": "a text", "size": LENGTH}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_columns_that_the_model_does_not_take_are_dropped(tmp_path):
    task = Task.from_hf(gpt2(), Columns())
    assert task.collate([task.train_data[0]]).keys() == {"input_ids", "labels"}
    record = ampguard.train(task, steps=1, batch_size=2, out=tmp_path / "run")
    assert record.steps.applied == 1


def test_a_tokenizer_pads_as_in_a_trainer():
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    samples = [{"input_ids": [1], "label": 0}, {"input_ids": [1, 1, 1], "label": 1}]
    task = Task.from_hf(bert(), samples, processing_class=tokenizer)
    batch = task.collate(samples)
    assert batch["input_ids"].shape == (2, 3)
    assert batch["attention_mask"].sum() == 4
    assert task.count(batch) == {"samples": 2, "tokens": 6}


def test_training_arguments_become_defaults_optimizer_and_schedule(tmp_path):
    given = arguments(
        tmp_path,
        learning_rate=0.01,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=2.5,
        weight_decay=0.1,
        warmup_steps=2,
        lr_scheduler_type="linear",
        max_grad_norm=0.5,
        seed=7,
        bf16=True,
        gradient_checkpointing=True,
        adam_beta2=0.95,
    )
    task = Task.from_hf(gpt2(), texts(6), given)
    assert task.defaults == {
        "lr": 0.01,
        "steps": 5,
        "batch_size": 4,
        "micro_batch_size": 2,
        "val_batch_size": 8,
        "max_grad_norm": 0.5,
        "seed": 7,
        "precision": "bf16-mixed",
        "activation_checkpointing": True,
    }
    model = task.model()
    optimizer = task.optimizer(model, 0.02)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"], decayed["lr"]) == (0.1, 0.0, 0.02)
    assert decayed["betas"] == (0.9, 0.95)
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    schedule = task.schedule(optimizer)
    lrs = []
    for _ in range(5):
        lrs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert lrs == pytest.approx([0.0, 0.01, 0.02, 0.02 * 2 / 3, 0.02 / 3])


def test_a_dataset_without_length_needs_max_steps(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(texts())

    with pytest.raises(TaskError, match="Set max_steps"):
        Task.from_hf(gpt2(), Stream(), arguments(tmp_path))
    assert Task.from_hf(gpt2(), Stream(), arguments(tmp_path, max_steps=3)).defaults["steps"] == 3


def test_an_optimizer_that_is_none_of_torchs_is_refused(tmp_path):
    trainer = Trainer(gpt2(), arguments(tmp_path), train_dataset=texts(), optimizer_cls_and_kwargs=(dict, {}))
    task = Task.from_hf(trainer)
    with pytest.raises(TaskError, match="Use optim='adamw_torch_fused'"):
        task.optimizer(task.model(), 0.1)


def test_a_run_is_the_trainers_step_for_step(tmp_path):
    """Same weights, same batch in every step, same optimizer and schedule: the Trainer's losses and ours."""
    torch.manual_seed(0)
    model = gpt2()
    options = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.05, "logging_steps": 1}
    task = Task.from_hf(model, texts(4), arguments(tmp_path / "hf", **options))
    ours = ampguard.train(task, precision="fp32", log_every=1, out=tmp_path / "run")
    trainer = Trainer(model, arguments(tmp_path / "hf", save_strategy="no", **options), train_dataset=texts(4))
    trainer.train()
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    # The four samples are one batch in another order: its sums of some hundred float32 terms round otherwise.
    assert [row["train/loss"] for row in rows] == pytest.approx(theirs, rel=2.0**-14)
    assert ours.steps.applied == 4


class Halved(Trainer):
    """A Trainer with a loss of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return (loss / 2, outputs) if return_outputs else loss / 2


def test_a_trainer_becomes_a_task_with_its_own_loss(tmp_path):
    given = arguments(tmp_path, max_steps=3, per_device_train_batch_size=2)
    trainer = Halved(gpt2(), given, train_dataset=texts(6), eval_dataset=texts(2), data_collator=default_data_collator)
    task = Task.from_hf(trainer)
    model = task.model()
    batch = task.collate(texts(4))
    assert model is not trainer.model
    loss = task.loss(model, batch)
    assert not isinstance(loss, LossSum)
    assert loss.item() == pytest.approx(model(**batch).loss.item() / 2)
    assert (task.defaults["steps"], len(task.val_data)) == (3, 2)
    record = ampguard.train(task, out=tmp_path / "run")
    assert record.steps.applied == 3
    assert record.final["val/loss"] > 0


def test_a_loss_function_of_the_users_is_told_the_number_of_labels(tmp_path):
    def summed(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits[:, :-1].flatten(0, 1).float()
        return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch

    given = arguments(tmp_path, max_steps=2, per_device_train_batch_size=2)
    trainer = Trainer(
        gpt2(), given, train_dataset=texts(6), compute_loss_func=summed, data_collator=default_data_collator
    )
    task = Task.from_hf(trainer)
    loss = task.loss(task.model(), task.collate(texts(4)))
    assert loss.isfinite() and loss > 0
    assert ampguard.train(task, out=tmp_path / "run").steps.applied == 2


def test_a_trainers_label_smoothing_is_kept_and_exact(tmp_path):
    model = gpt2()
    # A model that is sure of something, so that smoothing tells.
    model.lm_head.weight.data *= 50
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.2), train_dataset=texts())
    task = Task.from_hf(trainer)
    batch, built = task.collate(texts()), task.model()
    smooth = trainer.compute_loss(built, dict(batch))
    assert smooth.item() != pytest.approx(built(**batch).loss.item(), rel=1e-3)
    smooth.backward()
    whole = [p.grad.clone() for p in built.parameters()]
    built.zero_grad()
    for ours, right in zip(gradients(task, built, batch, 2), whole, strict=True):
        # Sums of some dozens of float32 terms in another order.
        torch.testing.assert_close(ours, right, rtol=2.0**-16, atol=2.0**-16)


def test_a_trainers_model_init_and_collator_are_used(tmp_path):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    trainer = Trainer(
        model_init=gpt2,
        args=arguments(tmp_path, max_steps=1),
        train_dataset=[{"input_ids": [1, 1]}, {"input_ids": [1, 1, 1]}],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    task = Task.from_hf(trainer)
    batch = task.collate([task.train_data[0], task.train_data[1]])
    assert task.loss(task.model(), batch).count == 3
    assert not torch.equal(next(task.model().parameters()), next(task.model().parameters()))


def test_a_trainer_that_has_trained_is_taken_and_one_with_a_made_optimizer_is_not(tmp_path):
    given = arguments(tmp_path, max_steps=1, save_strategy="no")
    trainer = Trainer(gpt2(), given, train_dataset=texts())
    trainer.train()
    assert Task.from_hf(trainer).defaults["steps"] == 1
    model = gpt2()
    made = Trainer(model, given, train_dataset=texts(), optimizers=(SGD(model.parameters(), lr=0.1), None))
    with pytest.raises(TaskError, match="was given an optimizer"):
        Task.from_hf(made)


class Absent:
    """A finder that finds one package absent."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
def test_a_missing_package_is_named_with_the_command(monkeypatch, package):
    model = gpt2()
    gone = ("ampguard.integrations.", f"{package}.")
    for name in [name for name in sys.modules if name == package or name.startswith(gone)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"'{package}', which is not installed.*ampguard\[hf\]"):
        Task.from_hf(model, texts())


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
def test_a_hugging_face_model_trains_in_half_precision(tmp_path, precision):
    record = ampguard.train(
        Task.from_hf(gpt2(), {"train": texts(6), "validation": texts(2)}),
        precision=precision,
        on_unsupported="emulate",
        steps=2,
        batch_size=4,
        micro_batch_size=2,
        init_scale=2.0**8,
        out=tmp_path / "run",
    )
    assert record.steps.applied == 2
    assert record.final.keys() >= {"val/loss", "val/accuracy"}
