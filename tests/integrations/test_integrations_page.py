"""docs/integrations.md names tests that exist, and no diff of it has more than five lines."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
STACKS = {"A loop with `torch.amp.GradScaler`": 1, "Lightning": 5, "Accelerate": 5, "Hugging Face Trainer": 5}
"""Sections, and how many named tests each has at least."""
LINES = 5


def sections():
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_stack_has_its_section():
    assert sections().keys() == STACKS.keys()


@pytest.mark.parametrize("stack", STACKS)
def test_a_section_has_a_diff_of_at_most_five_lines_and_names_its_tests(stack):
    text = sections()[stack]
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert diffs
    for diff in diffs:
        assert 1 <= sum(line.startswith("+") for line in diff.splitlines()) <= LINES
    assert len(re.findall(r"::test_", text)) >= STACKS[stack]


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_exists(file, test):
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
