import pytest
from rich.console import Console

from ampguard.auditing.findings import Severity
from ampguard.auditing.report.explain import explained, index, page, print_list, print_page, summary_of
from ampguard.auditing.report.text import print_text
from ampguard.auditing.rules import all_rules, rule_named
from ampguard.auditing.run import audit
from ampguard.errors import ConfigError

BARE = "def draw():\n    try:\n        run()\n    except:\n        x = 1\n"
SILENT = "try:\n    import matplotlib\nexcept ImportError:\n    pass\n"


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Return what audits files (name -> text) and prints the report: its lines."""
    monkeypatch.chdir(tmp_path)

    def tell(files, *, width=80, options=None, **how):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return shown(lambda console: print_text(audit(".", **(options or {})), console, **how), width)

    return tell


def shown(tell, width=80):
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        tell(console)
    return captured.get().splitlines()


def test_a_finding_is_one_line_that_starts_with_its_place(said):
    lines = said({"b.py": BARE, "a.py": BARE}, width=20, options={"select": ["ERR001"]})
    assert lines[0].startswith("a.py:4:5 medium ERR001 ") and lines[0].endswith("[bare-except]")
    assert lines[1].startswith("b.py:4:5 medium ERR001 ") and lines[2] == ""


def test_the_last_lines_tell_decision_score_counts_and_reasons(said):
    lines = said({"a.py": BARE})
    (decision,) = [line for line in lines if line.startswith("WARN ")]
    assert decision == "WARN  score 94 (A)  1 medium in 1 file"
    assert any(line.startswith("  warns: Wrong error propagation: 1 finding (ERR001): a.py:4") for line in lines)


def test_the_very_last_line_is_the_next_command(said):
    assert said({"a.py": BARE})[-1] == "next: ampguard audit --explain ERR001"
    low = said({"a.py": SILENT}, paths=["src dir", "x"])[-1]
    assert low == "next: ampguard audit 'src dir' x --format markdown --output audit.md"
    assert said({"a.py": "x = 1\n"})[-1].startswith("next: ampguard audit . --format markdown")
    assert said({"a.py": "x = 1\n"}, paths=["-"])[-1] == "next: ampguard audit --explain list"


def test_nothing_found_is_said_in_one_line(said):
    assert said({"a.py": "x = 1\n"})[0] == "PASS  score 100 (A+)  no findings in 1 file"


def test_what_could_not_be_read_is_listed(said):
    lines = said({"a.py": "x = 1\n", "b.py": "def f(:\n"})
    assert lines[0].startswith("b.py: unreadable syntax error at line 1")
    assert "no findings in 1 file, 1 unreadable" in lines[2]
    many = said({f"u{n}.py": "def f(:\n" for n in range(30)})
    assert "and 11 more that could not be read" in many


def test_source_shows_the_lines_impact_and_fix(said):
    text = "\n".join(said({"a.py": BARE}, source=True, width=100))
    assert "4     except:" in text and "5         x = 1" in text
    assert "impact: Ctrl-C" in text and "fix:    Name the" in text


def test_source_of_a_long_finding_is_cut_and_a_vanished_file_is_no_error(said, tmp_path):
    long = BARE + "        y = 2\n" * 40
    report_lines = said({"a.py": long}, source=True, options={"select": ["ERR001"]})
    assert "15         y = 2" in "\n".join(report_lines) and "16         y = 2" not in "\n".join(report_lines)
    report = audit(".", select=["ERR001"])
    (tmp_path / "a.py").unlink()
    assert shown(lambda console: print_text(report, console, source=True))[0].startswith("a.py:4:5")


def test_statistics_count_findings_and_files_per_rule(said):
    lines = said({"a.py": BARE + BARE, "b.py": BARE, "c.py": SILENT}, statistics=True, options={"select": ["ERR"]})
    assert lines[0].split() == ["findings", "files", "worst", "code", "name"]
    assert lines[1].split() == ["3", "2", "medium", "ERR001", "bare-except"]
    assert lines[2].split() == ["1", "1", "low", "ERR003", "silent-import-error"]
    assert lines[-1].startswith("next: ")


def test_markup_in_names_and_messages_is_text(said):
    lines = said({"[red]x.py": BARE})
    assert lines[0].startswith("[red]x.py:4:5")


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_page_is_whole_and_printable(rule):
    text = page(rule)
    assert text.startswith(f"# {rule.code}: {rule.name}\n\n{summary_of(rule).removesuffix(' (preview)')}\n")
    assert "\n## What it does\n" in text and f"Severity: {rule.severity}." in text
    assert [line for line in text.splitlines() if line.startswith("    #")] == []
    assert rule.code in "\n".join(shown(lambda console: print_page(rule, console)))


def test_the_list_has_every_rule_on_a_line_of_its_own():
    lines = shown(print_list)
    assert [line.split()[0] for line in lines if line[:3].isupper() and line[3:6].isdigit()] == [
        rule.code for family in dict.fromkeys(type(r).__module__.split(".")[-2] for r in in_family_order())
        for rule in all_rules() if type(rule).__module__.split(".")[-2] == family
    ]  # fmt: skip
    assert all(f"[{rule.code}]({rule.code}-{rule.name}.md)" in index() for rule in all_rules())


def in_family_order():
    from ampguard.auditing.rules import FAMILIES, family_of

    return sorted(all_rules(), key=lambda rule: list(FAMILIES).index(family_of(rule)))


def test_explain_takes_codes_and_names_and_helps_with_others():
    assert explained("err001") is explained("bare-except") is rule_named("ERR001")
    assert explained("ALL") is None and explained("list") is None
    with pytest.raises(ConfigError, match="Did you mean 'bare-except'"):
        explained("bare-exept")
    with pytest.raises(ConfigError, match="--explain list"):
        explained("XYZ123")


def test_severities_have_a_style():
    from ampguard.auditing.report.text import STYLES

    assert set(STYLES) == set(Severity)
