import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

BARE = "def draw():\n    try:\n        run()\n    except:\n        x = 1\n"
SWALLOWED = "def fit(loss):\n    try:\n        loss.backward()\n    except Exception:\n        pass\n"


@pytest.fixture
def files(tmp_path):
    """Return what writes files into the folder in which the command runs."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)

    return write


@pytest.mark.parametrize(
    ("text", "fail_on", "code"),
    [
        ("x = 1\n", None, 0),
        ("x = 1\n", "warn", 0),
        (BARE, None, 1),
        (BARE, "warn", 1),
        (BARE, "block", 0),
        (BARE, "never", 0),
        (SWALLOWED, "block", 1),
        (SWALLOWED, "never", 0),
    ],
)
def test_the_exit_code_is_1_from_fail_on_up(cli, files, text, fail_on, code):
    files(a=text)
    assert cli("audit", "a.py", *(["--fail-on", fail_on] if fail_on else []))[0] == code


def test_by_default_the_current_folder_is_audited_as_text(cli, files):
    files(a=BARE, b="x = 1\n")
    code, out, err = cli("audit")
    lines = out.splitlines()
    assert code == 1 and err == ""
    assert lines[0].startswith("a.py:4:5 medium ERR001") and lines[-1] == "next: ampguard audit --explain ERR001"


def test_json_is_one_object_alone_on_stdout(cli, files):
    files(a=BARE, bad="def f(:\n")
    code, out, err = cli("audit", ".", "--format", "json")
    record = json.loads(out)
    assert code == 1 and out.count("\n") == 1 and err == ""
    assert (record["decision"], record["files"], record["unreadable"][0]["path"]) == ("WARN", 1, "bad.py")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("nowhere.py",), "there is no file or folder 'nowhere.py'"),
        (("b.py",), "Did you mean 'a.py'"),
        (("a.py", "--select", "XYZ"), "select names no rule: 'XYZ'"),
        (("a.py", "--select", "bare-exept"), "Did you mean ERR001"),
        (("a.py", "--ignore", "X1"), "ignore names no rule"),
        (("a.py", "--severity", "ERR001=hihg"), "Did you mean 'high'"),
        (("a.py", "--severity", "ERR001"), "KEY=VALUE"),
        (("a.py", "--severity", "ERR001=low,high"), "one severity"),
        (("a.py", "--per-file", "tests="), "KEY=VALUE"),
        (("a.py", "--per-file", "tests=XYZ"), "per-file names no rule"),
        (("a.py", "--fail-on", "wran"), "warn"),
        (("a.py", "--workers", "-1"), "workers is -1"),
        (("a.py", "--workers", "two"), "two"),
        (("a.py", "--selekt", "ERR"), "--select"),
        (("a.py", "--explain", "ERR999"), "there is no rule 'ERR999'"),
        (("a.py", "--output", "no/such/folder.md"), "cannot be written to no/such/folder.md"),
        (("empty",), "no Python file in 'empty'"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(cli, files, tmp_path, tokens, words):
    files(a=BARE)
    (tmp_path / "empty").mkdir()
    code, out, err = cli("audit", *tokens, "--format", "json")
    assert code == 2 and words in err and "Traceback" not in err
    assert json.loads(out)["status"] == "error"


def test_nothing_that_could_be_read_is_exit_2_with_the_report(cli, files):
    files(a="def f(:\n")
    code, out, _ = cli("audit", "a.py", "--format", "json", "--fail-on", "never")
    assert code == 2 and json.loads(out)["unreadable"][0]["reason"].startswith("syntax error at line 1")
    files(b="x = 1\n")
    assert cli("audit", ".", "--fail-on", "never")[0] == 0


def test_select_and_ignore_repeat_and_split_at_commas(cli, files):
    files(a=BARE + SWALLOWED.replace("loss.backward()", "x()"))

    def codes(*tokens):
        return [f["code"] for f in json.loads(cli("audit", "a.py", "--format", "json", *tokens)[1])["findings"]]

    assert (
        codes("--select", "ERR001,ERR002") == codes("--select", "ERR001", "--select", "err002") == ["ERR001", "ERR002"]
    )
    assert codes("--select", "ERR", "--ignore", "swallowed-exception") == ["ERR001"]
    assert codes("--select", "AUD") == []


def test_flags_for_files_and_severities(cli, files):
    files(a=BARE, b=BARE)

    def findings(*tokens):
        return json.loads(cli("audit", "--format", "json", *tokens)[1])["findings"]

    assert [f["path"] for f in findings("--exclude", "b.py")] == ["a.py"]
    assert [f["path"] for f in findings("--per-file", "a.py=ERR,AUD")] == ["b.py"]
    assert {f["severity"] for f in findings("--severity", "ERR=low")} == {"low"}
    files(a="try:\n    commit_all()\nexcept Exception:\n    pass\n")
    assert [f["severity"] for f in findings("a.py", "--critical-operations", "commit_all")] == ["critical"]


def test_pyproject_is_read_and_no_config_leaves_it(cli, files, tmp_path):
    files(a=BARE)
    (tmp_path / "pyproject.toml").write_text('[tool.ampguard.audit]\nselect = ["AUD"]\n')
    assert cli("audit")[0] == 0
    assert cli("audit", "--no-config")[0] == 1
    assert cli("audit", "--select", "ERR")[0] == 1
    (tmp_path / "pyproject.toml").write_text('[tool.ampguard.audit]\nselekt = ["AUD"]\n')
    code, _, err = cli("audit")
    assert code == 2 and "pyproject.toml, [tool.ampguard.audit]: there is no option 'selekt'" in err


def test_stdin_is_read_for_a_dash(cli, files, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BARE.encode())))
    code, out, _ = cli("audit", "-", "--stdin-filename", "src/train.py")
    assert code == 1 and out.startswith("src/train.py:4:5 medium ERR001")


def test_output_goes_to_a_file_in_the_format_of_its_name(cli, files, tmp_path):
    files(a=BARE)
    code, out, err = cli("audit", "--output", "audit.json")
    assert (code, out) == (1, "") and "written to audit.json" in err
    assert json.loads((tmp_path / "audit.json").read_text())["decision"] == "WARN"
    cli("audit", "--output", "audit.txt", "--quiet")
    assert (tmp_path / "audit.txt").read_text().startswith("a.py:4:5 medium ERR001")
    cli("audit", "--output", "audit.md")
    assert (tmp_path / "audit.md").read_text().startswith("# ")


def test_markdown_on_stdout(cli, files):
    files(a=BARE)
    code, out, err = cli("audit", "--format", "markdown")
    assert code == 1 and out.startswith("# ") and "ERR001" in out and err == ""


def test_statistics_and_source(cli, files):
    files(a=BARE * 2)
    assert cli("audit", "--statistics")[1].splitlines()[1].split()[:4] == ["2", "1", "medium", "ERR001"]
    assert "4     except:" in cli("audit", "--show-source")[1] and "impact:" in cli("audit", "-v")[1]


def test_quiet_leaves_the_findings_alone(cli, files):
    files(a=BARE)
    code, out, err = cli("audit", "--quiet")
    assert code == 1 and err == "" and len(out.splitlines()) == 1


def test_explain_prints_the_page_the_list_and_json(cli):
    code, out, _ = cli("audit", "--explain", "bare-except")
    assert code == 0 and "ERR001: bare-except" in out and "Why is this bad" in out
    assert "bare-except" in cli("audit", "--explain", "list")[1]
    record = json.loads(cli("audit", "--explain", "err001", "--format", "json")[1])
    assert (record["schema"], record["code"], record["family"]) == (1, "ERR001", "errors") and "## Example" in record[
        "page"
    ]
    every = json.loads(cli("audit", "--explain", "ALL", "--format", "json")[1])["rules"]
    assert "ERR001" in [rule["code"] for rule in every] and every[0]["summary"]


def test_help_names_the_flags(cli):
    code, out, _ = cli("audit", "--help")
    assert code == 0
    for flag in (
        "--select",
        "--ignore",
        "--exclude",
        "--per-file",
        "--fail-on",
        "--explain",
        "--no-config",
        "--statistics",
    ):
        assert flag in out


def test_progress_is_shown_on_a_terminal_and_nowhere_else(cli, files, monkeypatch):
    from rich.console import Console

    from ampguard.cli import audit

    files(**{f"f{n}": BARE for n in range(3)})
    page = io.StringIO()
    monkeypatch.setattr(audit, "stderr", lambda: Console(file=page, force_terminal=True, width=80))
    cli("audit")
    assert "reading" in page.getvalue() and "3/3" in page.getvalue()
    page.truncate(0)
    cli("audit", "--quiet")
    assert "reading" not in page.getvalue()


def command(*tokens, cwd, **options):
    run = [sys.executable, "-m", "ampguard", "audit", *tokens]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True, check=False, **options)


def test_the_command_runs_in_processes_of_its_own_without_torch(files, tmp_path):
    files(**{f"f{n}": BARE for n in range(50)})
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    done = command("--format", "json", "--workers", "2", "--exclude", "torch.py", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "", done.stderr
    assert len(json.loads(done.stdout)["findings"]) == 50
    assert command("--format", "json", "--workers", "1", "--exclude", "torch.py", cwd=tmp_path).stdout == done.stdout


def test_audited_code_is_never_executed(files, tmp_path):
    files(a="import pathlib\npathlib.Path('ran').write_text('yes')\n", sitecustomize="raise SystemExit\n")
    command(".", cwd=tmp_path)
    assert not Path(tmp_path, "ran").exists()


def test_a_reader_that_goes_away_is_no_error(files, tmp_path):
    files(**{f"f{n}": BARE * 20 for n in range(30)})
    line = f"{sys.executable} -m ampguard audit | head -n 1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("f0.py:4:5") and "Traceback" not in done.stderr
