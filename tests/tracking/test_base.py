import math
import subprocess
import sys

import pytest

from ampguard.errors import InputError
from ampguard.tracking import NullTracker, Tracker


class Kept(NullTracker):
    """A tracker that keeps in memory what the contract lets through."""

    def __init__(self):
        self.rows = []

    def _log(self, row):
        self.rows.append(dict(row))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_is_left_out_and_named(value):
    tracker = Kept()
    assert tracker.log({"step": 3, "train/loss": value, "train/lr": 0.1}) == ("train/loss",)
    assert tracker.rows == [{"step": 3, "train/lr": 0.1}]


def test_a_row_without_a_finite_metric_is_not_delivered():
    tracker = Kept()
    assert tracker.log({"step": 3, "train/loss": math.nan}) == ("train/loss",)
    assert tracker.rows == []


@pytest.mark.parametrize("key", ["train/Loss", "mfu(%)", "val loss", "", "train/loss\n", "é"])
def test_a_key_outside_the_alphabet_is_refused_with_a_better_name(key):
    with pytest.raises(InputError, match=r"\[a-z0-9_/\]\. Rename it"):
        Kept().log({"step": 1, key: 1.0})


@pytest.mark.parametrize("value", [None, "1.0", True, [1.0]])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match=r"'train/loss' is a .* not a number"):
        Kept().log({"step": 1, "train/loss": value})


@pytest.mark.parametrize("row", [{}, {"train/loss": 1.0}, {"step": 1.5}, {"step": True}])
def test_a_row_without_an_integer_step_is_refused(row):
    with pytest.raises(InputError, match="not an integer"):
        Kept().log(row)


def test_the_contract_cannot_be_instantiated():
    with pytest.raises(TypeError, match="abstract"):
        Tracker()


def test_the_step_comes_first():
    tracker = Kept()
    tracker.log({"train/loss": 1.0, "step": 3})
    assert list(tracker.rows[0]) == ["step", "train/loss"]


def test_the_room_imports_neither_torch_nor_a_third_party():
    code = (
        "import sys; before = set(sys.modules); import ampguard.tracking;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ampguard"]
