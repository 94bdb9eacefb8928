"""Every rule: its page is whole, its bad example is reported, its good example is clean of it, its fixtures exact.

A fixture under `fixtures/` is a real-looking file whose faulty lines end in `# expect: CODE` (several: CODE, CODE).
Only the rules of the families that a fixture names in its first line (`# rules: AMP, NON`) are asked.
"""

import re
from pathlib import Path

import pytest

from ampguard.auditing.findings import Severity
from ampguard.auditing.rules import all_rules

FIXTURES = sorted((Path(__file__).parent / "fixtures").rglob("*.py"))
HEADINGS = ("What it does", "Why is this bad", "Example", "Use instead", "Fix safety", "References")
RULES = pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)


def example(rule, heading):
    """Return the Python code block under one heading of a rule's page."""
    text = rule.__class__.__doc__ or ""
    found = re.search(rf"## {heading}\n.*?```python\n(.*?)```", text, re.S)
    assert found, f"{rule.code} has no example under {heading!r}"
    return found[1]


@RULES
def test_a_rules_page_has_every_heading(rule):
    page = rule.__class__.__doc__ or ""
    assert [line for line in HEADINGS if f"## {line}\n" not in page] == []
    assert rule.code[:3].isalpha() and rule.code[3:].isdigit()
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert isinstance(rule.severity, Severity) and rule.impact and rule.risk and rule.fix


@RULES
def test_the_bad_example_is_reported(rule, findings):
    # A comment is unused only where the rule that it names was asked.
    asked = [rule.code, "ERR001"] if rule.code == "AUD001" else [rule.code]
    assert rule.code in {f.code for f in findings(example(rule, "Example"), select=asked)}


@RULES
def test_the_good_example_is_clean(rule, findings):
    assert findings(example(rule, "Use instead"), select=[rule.code]) == []


def expected(text):
    """Return {(line, code)} of a fixture's `# expect:` marks."""
    marks = (
        (n, m[1]) for n, line in enumerate(text.split("\n"), 1) if (m := re.search(r"# expect: ([A-Z0-9, ]+)", line))
    )
    return {(n, code.strip()) for n, codes in marks for code in codes.split(",")}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.stem)
def test_a_fixture_is_reported_line_for_line(path, findings):
    text = path.read_text(encoding="utf-8")
    families = re.match(r"# rules: ([A-Z0-9, ]+)\n", text)
    assert families, f"{path.name}: the first line names the families, as `# rules: AMP`"
    select = [family.strip() for family in families[1].split(",")]
    assert {(f.line, f.code) for f in findings(text, select=select)} == expected(text)
