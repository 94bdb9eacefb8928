"""The Markdown page: every section, nothing that the report does not hold, and no way out for hostile text."""

import re
from pathlib import Path

import pytest

from ampguard import audit
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import Edit, FileFacts, FileResult, Finding, GoodPractice, Severity, Unreadable
from ampguard.auditing.outcome import AuditReport, ComplianceRow, Criterion
from ampguard.auditing.reading.source import Source
from ampguard.auditing.report import escape
from ampguard.auditing.report.markdown import render_markdown

SEED = Path(__file__).parent / "seed"
SECTIONS = [
    "Executive summary",
    "Files",
    "Error propagation along the critical paths",
    "Pattern issues",
    "Criteria of the decision",
    "Recommendations",
    "Error scenarios that tests exercise",
    "Production impact",
    "Final verdict",
    "Compliance",
    "What a static reading cannot know",
]


def finding(**changes):
    given = {
        "code": "ERR001",
        "name": "bare-except",
        "severity": Severity.MEDIUM,
        "likelihood": "likely",
        "path": "train.py",
        "line": 2,
        "column": 1,
        "end_line": 3,
        "message": "`step` is caught",
        "impact": "Ctrl-C is lost.",
        "risk": "Low.",
        "fix": "Name the exception.",
    }
    return Finding(**{**given, **changes})


def report(text="try:\n    step()\nexcept:\n    pass\n", *, path="train.py", findings=(), practices=(), **changes):
    facts = FileFacts(path=path, lines=text.count("\n"), role="library")
    given = {
        "version": "1.0",
        "decision": "WARN",
        "score": 94,
        "grade": "A",
        "files": (FileResult(facts=facts, findings=tuple(findings), practices=tuple(practices)),),
        "texts": {path: Source(path, text)},
    }
    return AuditReport(**{**given, **changes})


@pytest.fixture
def seed(monkeypatch):
    def read(state):
        monkeypatch.chdir(SEED / state)
        return audit(".", config=AuditConfig())

    return read


def outside_code(page):
    """Return the page's lines that do not stand in a block of code."""
    kept, fence = [], 0
    for line in page.split("\n"):
        ticks = re.match(r" {0,3}(`{3,})([^`]*)$", line)
        if not fence and ticks:
            fence = len(ticks[1])
        elif fence and ticks and len(ticks[1]) >= fence and not ticks[2].strip():
            fence = 0
        elif not fence:
            kept.append(line)
    assert not fence, "a block of code is open at the end"
    return kept


def without_spans(line):
    """Return a line without its code spans, as a renderer pairs the backticks."""
    return re.sub(r"(?<!\\)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", line)


@pytest.mark.parametrize("state", ["before", "after"])
def test_every_section_is_there_in_order(seed, state):
    headings = [line.removeprefix("## ") for line in outside_code(render_markdown(seed(state))) if line[:3] == "## "]
    assert headings == SECTIONS


def test_the_seeds_page_says_what_the_seed_says(seed):
    page = render_markdown(seed("before"))
    assert "# Audit of training code: WARN, " in page
    assert "9 try blocks; 6 handlers tell what they caught (log, print, warn or raise), 3 do not" in page
    assert "724 >     except:" in page
    assert re.search(r"- +speedup = fp32_time / fp16_time\n\+ +speedup = fp32_time / max\(fp16_time, ", page)
    assert "203 |     scaler = GradScaler() if (use_amp and torch.cuda.is_available()) else None" in page
    assert "`_training_step` (backward, scaler step, scaler update, optimizer step): no handler inside" in page
    assert "then moved into place at line 442" in page
    assert "| Denominators of zero | **missing** | none found |" in page
    assert "**Estimated impact: LOW**" in page


def test_all_issues_are_numbered_once_the_worst_first(seed):
    found = seed("before")
    page = render_markdown(found)
    numbers = [int(n) for n in re.findall(r"^\*\*Issue (\d+):", page, re.M)]
    assert sorted(numbers) == list(range(1, 1 + sum(f.severity > 0 for f in found.findings)))
    assert re.search(r"\*\*Issue 1: .*line 724", page)


def test_every_finding_and_criterion_is_on_the_page(seed):
    found = seed("before")
    page = render_markdown(found)
    for one in found.findings:
        assert f"{one.code} {one.name}" in page
    for criterion in found.criteria:
        assert f"| {escape.cell(criterion.name)} |" in page
    for row in found.compliance:
        assert f"| {escape.cell(row.criterion)} | {row.status} |" in page


def test_tables_have_as_many_cells_as_their_heads(seed):
    for state in ("before", "after"):
        table = 0
        for line in outside_code(render_markdown(seed(state))):
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert cells == table or not (cells and table), line
            table = cells


def test_a_page_is_the_same_twice(seed):
    found = seed("before")
    assert render_markdown(found) == render_markdown(found)


def test_an_empty_audit_has_a_page():
    page = render_markdown(AuditReport(version="1.0", decision="PASS", score=100, grade="A+", files=()))
    assert "No fault of low severity or more was found." in page
    assert "Nothing has to be mended." in page
    assert "There are no findings." in page


def test_excerpt_and_diff():
    edit = Edit(first_line=3, last_line=3, lines=("except OSError as error:", "    print(error)"))
    page = render_markdown(report(findings=[finding(line=3, end_line=4, edit=edit)]))
    assert "```text\n1 | try:\n2 |     step()\n3 > except:\n4 >     pass\n```" in page
    assert "\n-except:\n+except OSError as error:\n+    print(error)\n" in page


def test_an_insertion_is_a_diff():
    edit = Edit(first_line=2, last_line=1, lines=("    check()",))
    assert "\n try:\n+    check()\n     step()\n" in render_markdown(report(findings=[finding(edit=edit)]))


@pytest.mark.parametrize("now", ["", "x = 1\n", None])
def test_a_file_that_changed_or_is_gone_is_not_quoted(tmp_path, now):
    path = tmp_path / "train.py"
    if now is not None:
        path.write_text(now, encoding="utf-8")
    edit = Edit(first_line=3, last_line=3, lines=("except OSError:",))
    told = report(findings=[finding(edit=edit)], practices=[practice()], texts={"train.py": path})
    page = render_markdown(told)
    assert "The file has changed since it was read, or is gone: it is not quoted here." in page
    assert "```" not in page


def test_lines_past_the_end_are_left_out():
    edit = Edit(first_line=90, last_line=91, lines=("pass",))
    page = render_markdown(report(findings=[finding(line=80, end_line=95, edit=edit)]))
    assert "```" not in page


def practice(**changes):
    given = {"name": "tracker-isolation", "path": "train.py", "line": 1, "end_line": 2, "message": "done well"}
    return GoodPractice(**{**given, **changes})


def test_a_long_place_is_shortened():
    text = "".join(f"x{n} = {n}\n" for n in range(60))
    page = render_markdown(report(text, practices=[practice(end_line=50)]))
    assert " 6 | x5 = 5" not in page
    assert "6 | x5 = 5\n    ... to line 50\n```" in page


HOSTILE = [
    "</details><script>alert(1)</script>",
    "a | b || c",
    "``` ends",
    "` odd",
    "`` `x` ``",
    "[text](javascript:alert(1))",
    "![image](http://x)",
    "# heading",
    "- item",
    "1. item",
    "**bold** _under_ ~~gone~~",
    "line\nbreak\r\n## Heading",
    "\u202ereversed",
    "trailing \\",
    "`code | with a pipe`",
    "{{ 7 * 7 }} {% raw %}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_does_not_leave_its_place(text):
    path = f"a{text.replace(chr(10), ' ').replace(chr(13), ' ')}.py"
    code = f"try:\n    step('''{text}''')\nexcept:\n```\n````\n"
    lines = code.count("\n")
    edit = Edit(first_line=lines, last_line=lines - 1, lines=("`````",))
    told = report(
        code,
        path=path,
        findings=[
            finding(path=path, message=text, impact=text, fix=text, risk=text, scope=text, edit=edit),
            finding(path=path, message=text, severity=Severity.INFO, code="XXX001", name="unknown-rule"),
        ],
        practices=[practice(path=path, message=text)],
        unreadable=(Unreadable(path=path, reason=text),),
        criteria=(Criterion(level="warn", name=text, result="triggered", evidence=text),),
        compliance=(ComplianceRow(criterion=text, status="FAIL", notes=text),),
    )
    page = render_markdown(told)
    lines = outside_code(page)
    assert [line[3:] for line in lines if line.startswith("## ")] == [
        "Executive summary",
        "Files that could not be read",
        *SECTIONS[1:],
    ]
    for line in lines:
        plain = without_spans(line)
        assert "<" not in plain.replace("&lt;", ""), line
        assert not re.search(r"(?<!\\)\]\(", plain.replace("[Recommendations](#recommendations)", "")), line
        assert not re.search(r"(?<!\\)`", plain), line
        assert "\u202e" not in line
    table = 0
    for line in lines:
        cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("|") else 0
        assert cells == table or not (cells and table), line
        table = cells
    assert "49" not in page


@pytest.mark.parametrize(
    ("given", "escaped"),
    [
        ("`a` and `b_c`", "`a` and `b_c`"),
        ("plain_name in env['scaler']", "plain_name in env['scaler']"),
        ("unscale_ comes", "unscale\\_ comes"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("an ` odd one", "an \\` odd one"),
        ("x = [1](2)", "x = [1\\](2)"),
        ("1. first", "1\\. first"),
        ("0.1.0 and 1.", "0.1.0 and 1."),
        ("- item", "\\- item"),
    ],
)
def test_prose(given, escaped):
    assert escape.prose(given) == escaped


@pytest.mark.parametrize("text", ["a", "`a`", "a`b", "``", " ", "", "a``b`c"])
def test_code_spans_hold_their_text(text):
    span = escape.code(text)
    ticks = re.match("`+", span)[0]
    assert span.endswith(ticks) and not re.search(f"(?<!`){ticks}(?!`)", span[len(ticks) : -len(ticks)])


def test_many_issues_stay_readable():
    findings = [finding(line=n, end_line=n) for n in range(1, 400)]
    page = render_markdown(report("x\n" * 400, findings=findings))
    assert page.count("**Issue ") == 150
    assert "225 more in the JSON report" in page
