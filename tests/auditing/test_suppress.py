"""Comments that silence a rule. ERR001 (bare except) is the rule that is silenced."""

import pytest

from ampguard.auditing.findings import Severity

BAD = """
def load(path):
    try:
        return path.read_text()
    except:{comment}
        return ""
"""


@pytest.fixture
def codes(findings):
    """Return [(code, line)] of a text; ERR001 and the rules about comments are asked unless `select` says else."""

    def ask(text, *, select=("ERR001", "AUD"), **config):
        return [(f.code, f.line) for f in findings(text, select=select, **config)]

    return ask


def test_without_a_comment_the_finding_stands(codes):
    assert codes(BAD.format(comment="")) == [("ERR001", 5)]


@pytest.mark.parametrize(
    "comment",
    [
        "  # ampguard: ignore[ERR001]",
        "  #ampguard:ignore[err001]",
        "  # noqa: E722  # ampguard: ignore[ERR001] the file may be anything",
        "  # ampguard: ignore[bare-except]",
        "  # ampguard: ignore [ ERR001 ]",
    ],
)
def test_a_comment_on_the_line_silences_the_rule_it_names(codes, comment):
    assert codes(BAD.format(comment=comment)) == []


def test_a_comment_silences_no_other_rule(codes):
    comment = "  # ampguard: ignore[ERR002]"
    assert codes(BAD.format(comment=comment)) == [("ERR001", 5)]
    assert codes(BAD.format(comment=comment), select=("ERR001", "ERR002", "AUD")) == [("ERR001", 5), ("AUD001", 5)]


def test_a_comment_in_a_header_speaks_for_the_whole_header(codes):
    text = """
try:
    run()
except (  # ampguard: ignore[ERR002]
    Exception
):  # the finding is on the first line
    pass
"""
    assert codes(text, select=("ERR002", "AUD")) == []
    assert codes(text.replace("  # ampguard: ignore[ERR002]", ""), select=("ERR002",)) == [("ERR002", 4)]
    moved = text.replace("  # ampguard: ignore[ERR002]", "").replace("the finding", "ampguard: ignore[ERR002]")
    assert codes(moved, select=("ERR002", "AUD")) == []


def test_a_comment_in_the_body_does_not_speak_for_the_header(codes):
    text = BAD.format(comment="\n        # ampguard: ignore[ERR001]\n        x = 1")
    assert codes(text) == [("ERR001", 5), ("AUD001", 6)]


def test_text_in_a_string_is_no_comment(codes):
    text = 'HELP = "# ampguard: ignore[ERR001]"\n' + BAD.format(comment="")
    assert codes(text) == [("ERR001", 6)]
    inside = 'HELP = """\n# ampguard: ignore[ERR999]\n# ampguard: ignore\n"""\n'
    assert codes(inside) == []


def test_a_comment_without_codes_silences_nothing_and_is_reported(codes, findings):
    text = BAD.format(comment="  # ampguard: ignore")
    assert sorted(codes(text)) == [("AUD003", 5), ("ERR001", 5)]
    (bare,) = findings(text, select=("AUD",))
    assert bare.severity == Severity.LOW and "ignore[CODE]" in bare.fix
    assert codes("x = 1  # ampguard: ignore[]\n") == [("AUD003", 1)]


def test_an_unknown_code_is_reported_with_its_name(findings):
    (found,) = findings("x = 1  # ampguard: ignore[ERR999]\n", select=("AUD",))
    assert (found.code, found.line, found.column) == ("AUD002", 1, 8) and "'ERR999'" in found.message
    assert [f.code for f in findings("x = 1  # ampguard: ignore[ERR]\n", select=("AUD",))] == ["AUD002"]


def test_an_unused_name_is_reported_and_a_used_one_beside_it_is_not(findings):
    comment = "  # ampguard: ignore[ERR001, ERR002]"
    (found,) = findings(BAD.format(comment=comment), select=("ERR001", "ERR002", "AUD"))
    assert found.code == "AUD001" and "ERR002" in found.message and found.line == 5


def test_a_code_that_was_not_asked_is_not_unused(codes):
    text = "x = 1  # ampguard: ignore[ERR001]\n"
    assert codes(text) == [("AUD001", 1)]
    assert codes(text, select=("AUD",)) == []
    assert codes(text, ignore=("ERR001",)) == []
    assert codes(text, per_file={"train.py": ("ERR",)}) == []


def test_ignore_file_speaks_for_the_file_from_its_first_ten_lines(codes):
    assert codes("# ampguard: ignore-file[ERR001]\n" + BAD.format(comment="") * 3) == []
    late = "\n" * 10 + "# ampguard: ignore-file[ERR001]\n" + BAD.format(comment="")
    assert sorted(codes(late)) == [("AUD001", 11), ("ERR001", 16)]
    assert codes("# ampguard: ignore-file\n") == [("AUD003", 1)]
    assert codes("# ampguard: ignore-file[ERR001]\nx = 1\n") == [("AUD001", 1)]


def test_findings_about_comments_can_be_silenced_too(codes):
    assert codes("x = 1  # ampguard: ignore[ERR001, AUD001]\n") == []
    assert codes("# ampguard: ignore-file[AUD002]\nx = 1  # ampguard: ignore[ERR999]\n") == []
    assert codes("x = 1  # ampguard: ignore[AUD002]\n") == []


def test_analysing_twice_says_the_same(tmp_path):
    from ampguard.auditing.analyse import analyse, chosen_rules
    from ampguard.auditing.config import AuditConfig
    from ampguard.auditing.reading.project import Project

    path = tmp_path / "a.py"
    path.write_text(BAD.format(comment="  # ampguard: ignore[ERR001]"))
    config = AuditConfig()
    module = Project({"a.py": path}, config).module("a.py")
    only_unused = chosen_rules(AuditConfig(select=("AUD", "ERR001")))
    assert analyse(module, only_unused) == analyse(module, only_unused)
    assert analyse(module, only_unused).findings == ()
