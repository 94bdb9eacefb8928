"""The table of docs/peers.md names tests that exist, for every fact."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^\| (M\d+) \|.*\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", PAGE, re.MULTILINE)


def defined(path: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_fact_has_a_row():
    assert {fact for fact, _, _ in NAMED} == {f"M{number}" for number in range(1, 12)}


def test_every_named_test_exists():
    assert [(file, test) for _, file, test in NAMED if test not in defined(ROOT / file)] == []


def test_every_test_about_a_peer_is_named():
    files = [*(ROOT / "tests" / "peers").glob("test_*.py"), ROOT / "tests" / "parity" / "test_torch_facts.py"]
    named = {test for _, _, test in NAMED}
    assert [test for file in files for test in defined(file) if test not in named] == []
