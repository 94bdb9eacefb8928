"""A loop that trains something else does not pass for an equal one. The peers' own agreement stands in each record."""

from dataclasses import replace

import numpy as np
import pytest

from agreement import agreement
from subjects import mlp
from worker import trained

SUBJECT = replace(mlp(), agreement_steps=3)


def rows(precision, other_subject=SUBJECT, loop="tuned", other_precision=None):
    """Return what the plain loop makes of the subject, and another loop of the same or a changed one."""
    return {
        ("plain", precision): trained(SUBJECT, ("plain", precision)),
        (loop, precision): trained(other_subject, (loop, other_precision or precision)),
    }


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16-mixed", marks=pytest.mark.bf16)])
@pytest.mark.parametrize("loop", ["tuned", "ours", "train"])
def test_the_loops_agree(precision, loop):
    assert agreement(SUBJECT, precision, rows(precision, loop=loop))["agree"]


@pytest.mark.parametrize(
    "change",
    [{"lr": SUBJECT.lr * 1.02}, {"agreement_steps": 2}, {"batches": SUBJECT.batches[1:]}],
    ids=["LR", "steps", "batches"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_another_training_is_seen(precision, change):
    assert not agreement(SUBJECT, precision, rows(precision, replace(SUBJECT, **change)))["agree"]


def test_another_precision_is_seen():
    found = agreement(SUBJECT, "bf16-mixed", rows("bf16-mixed", other_precision="fp32"))
    assert found["dtype"] == {"plain": "bfloat16", "tuned": "float32"}
    assert not found["agree"]


def test_non_finite_weights_do_not_agree():
    found = rows("fp32")
    found["tuned", "fp32"] = replace(
        found["tuned", "fp32"], weights=np.full_like(found["tuned", "fp32"].weights, np.nan)
    )
    assert not agreement(SUBJECT, "fp32", found)["agree"]
