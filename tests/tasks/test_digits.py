"""Claims about the Task `digits`."""

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn", reason="the Task digits needs scikit-learn")

from ampguard.errors import MissingExtraError
from ampguard.tasks.digits import build


@pytest.fixture(scope="module")
def digits():
    return build()


def test_a_fifth_of_each_class_is_for_validation_always_the_same(digits):
    (train, labels), (val, val_labels) = digits.train_data.tensors, digits.val_data.tensors
    assert (len(train), len(val)) == (1437, 360)
    share = val_labels.bincount(minlength=10) / (labels.bincount(minlength=10) + val_labels.bincount(minlength=10))
    assert ((share - 0.2).abs() < 0.005).all()
    again = build()
    assert torch.equal(again.val_data.tensors[0], val)
    assert torch.equal(again.train_data.tensors[1], labels)


def test_images_lie_between_0_and_1_and_no_validation_row_is_in_training(digits):
    train, val = digits.train_data.tensors[0], digits.val_data.tensors[0]
    assert train.shape[1:] == (1, 8, 8)
    assert (train.dtype, train.min().item(), train.max().item()) == (torch.float32, 0.0, 1.0)
    assert torch.cat([train, val]).unique(dim=0).shape[0] == 1797


def test_the_model_has_batchnorm_state_and_no_dropout(digits):
    model = digits.model()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 3
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout)]
    before = [buffer.clone() for buffer in model.buffers()]
    digits.loss(model, digits.train_data[:8])
    assert all(not torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True))


def test_each_model_is_fresh_and_drawn_from_the_global_generator(digits):
    torch.manual_seed(0)
    first = digits.model()
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), digits.model().parameters(), strict=True))
    assert digits.model() is not first


def test_evaluate_adds_up_over_any_batches(digits):
    torch.manual_seed(0)
    model = digits.model().eval()
    whole = digits.evaluate(model, digits.val_data[:30])
    parts = [digits.evaluate(model, digits.val_data[start:stop]) for start, stop in ((0, 7), (7, 30))]
    assert sum(part["accuracy"].total for part in parts) == whole["accuracy"].total
    assert sum(part["loss"].count for part in parts) == whole["loss"].count == 30
    mean = digits.loss(model, digits.val_data[:30])
    # Sums of 30 float32 terms.
    torch.testing.assert_close(whole["loss"].total / 30, mean, rtol=30 * 2**-24, atol=0.0)


def test_a_short_training_reads_most_digits(digits):
    torch.manual_seed(0)
    model = digits.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        start = step % 20 * 64
        optimizer.zero_grad()
        digits.loss(model, digits.train_data[start : start + 64]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = digits.evaluate(model.eval(), digits.val_data[:])["accuracy"]
    assert accuracy.total / accuracy.count > 0.8


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*ampguard\[demo\]"):
        build()


def test_importing_it_does_not_import_scikit_learn():
    code = "import sys, ampguard.tasks.digits; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
