"""Claims about the Task `text` and its corpus."""

import sysconfig
from math import log
from pathlib import Path

import pytest
import torch

from ampguard.errors import ConfigError, TaskError
from ampguard.tasks import corpus
from ampguard.tasks.text import Windows, build


@pytest.fixture(scope="module")
def tiny():
    return build()


def test_the_corpus_is_megabytes_of_real_source_and_the_same_each_time():
    first, second = corpus.stdlib_corpus(), corpus.stdlib_corpus()
    assert first == second
    assert 2_000_000 < first.info["corpus_bytes"] < 20_000_000
    assert first.info["corpus_bytes"] == len(first.train) + len(first.val)
    assert len(first.info["corpus_sha256"]) == 64
    assert 0.03 < len(first.val) / first.info["corpus_bytes"] < 0.12
    assert b"def namedtuple(" in first.train + first.val


def test_validation_is_like_training_and_no_part_of_it():
    parts = corpus.stdlib_corpus()
    assert abs(corpus.unigram_entropy(parts.val) - corpus.unigram_entropy(parts.train)) < 0.15
    middle = len(parts.val) // 2
    assert parts.val[middle : middle + 200] not in parts.train


def test_no_file_of_this_machine_is_in_the_corpus():
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [file.relative_to(root).as_posix() for file in corpus._sources(root)]
    assert names == sorted(names)
    assert not [name for name in names if "site-packages" in name or "_sysconfigdata" in name or "/test/" in name]
    assert {"argparse.py", "json/decoder.py"} <= set(names)


def test_an_interpreter_without_sources_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "only.py").write_text("x = 1\n")
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(TaskError, match="has only 6 bytes"):
        corpus.stdlib_corpus()


def test_unigram_entropy_of_known_distributions():
    assert corpus.unigram_entropy(b"aaaa") == 0.0
    assert corpus.unigram_entropy(bytes(range(256))) == pytest.approx(log(256), rel=1e-12)
    assert corpus.unigram_entropy(b"aaab") == pytest.approx(0.75 * log(4 / 3) + 0.25 * log(4), rel=1e-12)


def test_windows_predict_each_byte_once():
    windows = Windows(bytes(range(10)), 3)
    assert [windows[place].tolist() for place in range(len(windows))] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_validation_bytes_stand_for_all_of_them(tiny):
    bar, everything = tiny.info["unigram_entropy_val"], corpus.unigram_entropy(corpus.stdlib_corpus().val)
    assert abs(bar - everything) < 0.1
    targets = b"".join(bytes(tiny.val_data[place][1:].tolist()) for place in range(len(tiny.val_data)))
    assert bar == round(corpus.unigram_entropy(targets), 4)


def test_loss_is_the_sum_over_tokens_and_splits_exactly(tiny):
    torch.manual_seed(0)
    model, batch = tiny.model().double(), torch.stack([tiny.train_data[place] for place in range(4)])
    whole, parts = tiny.loss(model, batch), [tiny.loss(model, batch[:1]), tiny.loss(model, batch[1:])]
    assert whole.count == sum(part.count for part in parts) == 4 * 64
    # The logits are cast to float32: three sums of at most 256 terms, each rounded to 2**-24.
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=256 * 2**-24, atol=0.0)
    assert float(whole.total.detach()) / whole.count == pytest.approx(log(256), abs=0.2)  # nearly uniform at first


def test_evaluate_agrees_with_the_loss_and_counts_tokens(tiny):
    torch.manual_seed(0)
    model, batch = tiny.model(), torch.stack([tiny.val_data[place] for place in range(3)])
    metrics = tiny.evaluate(model, batch)
    assert torch.equal(metrics["loss"].total, tiny.loss(model, batch).total)
    assert metrics["accuracy"].count == metrics["loss"].count == 3 * 64
    assert tiny.count(batch) == {"samples": 3, "tokens": 3 * 64}


def test_the_loss_is_float32_under_autocast(tiny):
    batch = torch.stack([tiny.train_data[0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tiny.loss(tiny.model(), batch).total.dtype == torch.float32
    assert tiny.loss(tiny.model().bfloat16(), batch).total.dtype == torch.float32


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_size_is_the_model_and_the_training_that_suits_it(size):
    task = build(size=size)
    config = task.model().config
    assert (config.layers, config.width, config.context) == {"tiny": (2, 64, 64), "small": (6, 384, 256)}[size]
    assert set(task.defaults) >= {"lr", "steps", "batch_size", "warmup_steps", "schedule", "weight_decay"}


def test_options_reach_the_model():
    task = build(context=32, dropout=0.1)
    assert (task.model().config.context, task.model().config.dropout) == (32, 0.1)
    assert task.train_data[0].shape == (33,)


def test_bad_options_are_refused():
    with pytest.raises(TaskError, match=r"no size 'smal'\. Allowed: tiny, small, base\. Did you mean 'small'\?"):
        build(size="smal")
    with pytest.raises(ConfigError, match="context"):
        build(context=0)
    with pytest.raises(TaskError, match=r"only .* bytes"):
        build(context=10**9)
    with pytest.raises(ConfigError, match=r"dropout is 1\.0"):
        build(dropout=1.0)


def test_it_learns(tiny):
    torch.manual_seed(0)
    model = tiny.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = torch.stack([tiny.train_data[place] for place in range(8)])
    losses = []
    for _ in range(15):
        part = tiny.loss(model, batch)
        optimizer.zero_grad()
        (part.total / part.count).backward()
        optimizer.step()
        losses.append(part.total.item() / part.count)
    assert losses[-1] < 3.5 < 5.0 < losses[0]
