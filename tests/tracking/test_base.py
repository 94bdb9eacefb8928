import math
import subprocess
import sys
from pathlib import Path

import pytest

from ampguard.errors import ConfigError, InputError
from ampguard.tracking import NullTracker, Tracker, make_tracker, tracker_names
from ampguard.tracking.jsonl import JsonlTracker


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


def test_members_are_found_by_their_place(tmp_path):
    assert "jsonl" in tracker_names()
    assert not any(name.startswith("_") for name in tracker_names())
    assert isinstance(make_tracker("jsonl", tmp_path), JsonlTracker)


def test_an_unknown_tracker_lists_the_names_and_the_close_one():
    with pytest.raises(ConfigError, match="Did you mean 'jsonl'") as caught:
        make_tracker("json", Path())
    assert caught.value.allowed == tracker_names()


def test_the_room_imports_neither_torch_nor_a_third_party():
    code = (
        "import sys; before = set(sys.modules); import ampguard.tracking.jsonl;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ampguard"]
