"""The examples run as they stand, and each is a short diff of the script that its docstring names first."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
BY_FEATURE = sorted((EXAMPLES / "by_feature").glob("*.py"))
PAIRS = sorted(path.parent for path in EXAMPLES.rglob("before.py"))
SHORT = 30
"""Lines that a feature may change of its base: more would no longer show what the feature is."""
TAKEOVER = 5
"""Lines that may change when a finished script is taken over."""
ACCURATE = 0.95


def run(script: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def changed(before: str, after: str) -> int:
    """Return how many lines that are not blank change: at each place the larger of those taken away and added."""
    old, new = ([line for line in text.splitlines() if line.strip()] for text in (before, after))
    places = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return sum(max(b - a, d - c) for tag, a, b, c, d in places if tag != "equal")


def accuracy(text: str) -> float:
    return float(re.search(r"accuracy (\d\.\d+)", text)[1])


@pytest.mark.parametrize("script", BY_FEATURE, ids=lambda path: path.stem)
def test_an_example_runs_and_learns(script, tmp_path):
    text = run(script, tmp_path)
    if script.stem == "gan":
        assert text.count("145 applied, 0 skipped") == 2
    else:
        assert accuracy(text) > ACCURATE


@pytest.mark.parametrize("script", [path for path in BY_FEATURE if path.stem != "base"], ids=lambda path: path.stem)
def test_an_example_is_a_short_diff_of_its_base(script):
    text = script.read_text()
    base = re.match(r'"""(\w+\.py) ', text)
    assert base, "the docstring begins with the script that it is a diff of"
    assert changed((script.parent / base[1]).read_text(), text) <= SHORT


def test_the_saved_example_goes_on_where_it_stood(tmp_path):
    script = EXAMPLES / "by_feature" / "resume.py"
    first = tmp_path / "first.py"
    first.write_text(script.read_text().replace("EPOCHS = 5", "EPOCHS = 2"))
    assert "58 applied" in run(first, tmp_path, "digits.pt")
    assert "145 applied" in run(script, tmp_path, "digits.pt")


@pytest.mark.parametrize("pair", PAIRS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_taking_a_script_over_changes_at_most_five_lines_and_it_still_learns(pair, tmp_path):
    before, after = pair / "before.py", pair / "after.py"
    assert 1 <= changed(before.read_text(), after.read_text()) <= TAKEOVER
    # Before, a script may fail by the very fault that taking it over cures (a fused momentum that reads garbage).
    run(before, tmp_path)
    assert accuracy(run(after, tmp_path)) > ACCURATE
