"""The pages under docs/rules/ are those of the rules: `make rule-pages` writes them."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("rule_pages", ROOT / "dev" / "rule_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(script):
    assert script.differences() == [], "run: make rule-pages"


def test_the_example_report_is_up_to_date(script):
    assert script.EXAMPLE.read_text(encoding="utf-8") == script.example(), "run: make rule-pages"


def test_pages_are_written_once_and_stale_ones_go(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "FOLDER", tmp_path / "rules")
    assert set(script.write()) == set(script.pages())
    (tmp_path / "rules" / "ERR999-gone.md").write_text("# gone")
    (tmp_path / "rules" / "README.md").write_text("changed by hand")
    assert script.differences() == ["ERR999-gone.md", "README.md"]
    assert script.write() == ["ERR999-gone.md", "README.md"] and script.differences() == []


def test_examples_are_marked_so_that_the_documentation_test_does_not_run_them(script):
    for name, text in script.pages().items():
        assert text.count("```python\n") == text.count(f"{script.NO_RUN}\n```python\n"), name
        assert text.endswith("\n") and not text.endswith("\n\n")
