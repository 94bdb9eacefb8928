"""`ampguard report`: what it writes, what it prints, and its exit codes; also where torch is not installed."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ampguard.cli import report as command

FOLDERS = runpy.run_path(str(Path(__file__).parents[1] / "reporting" / "run_folders.py"))


@pytest.fixture
def make_run(tmp_path):
    return lambda name="run", **how: FOLDERS["make_run"](tmp_path / name, **how)


def test_a_run_gets_its_report_in_its_own_folder(cli, make_run):
    path = make_run()
    code, out, err = cli("report", path)
    assert (code, out, err) == (0, f"{path}/report.html\n", "")
    assert (path / "report.html").read_text().startswith("<!doctype html>")


def test_several_runs_get_theirs_in_the_current_folder(cli, make_run):
    code, out, _ = cli("report", make_run("a"), make_run("b"))
    assert (code, out) == (0, "report.html\n")
    assert "2 runs" in Path("report.html").read_text()


def test_out_names_the_file(cli, make_run, tmp_path):
    target = tmp_path / "実験.html"
    assert cli("report", make_run(), "--out", target)[:2] == (0, f"{target}\n")
    assert target.exists()


def test_text_shows_figures_and_curves(cli, make_run):
    code, out, _ = cli("report", make_run("a"), make_run("b", precision="fp32"), "--format", "text")
    assert code == 0
    for said in ("val/loss", "0.06667", "█", "skip", "7 from step 1 to 7", "fp16-mixed", "granted fp32"):
        assert said in out, said
    assert not Path("report.html").exists()


def test_text_takes_no_name_for_markup(cli, make_run):
    path = make_run("[red]x[bold]", events=[{"event": "[bold", "step": 1, "message": "m"}])
    code, out, _ = cli("report", path, "--format", "text")
    assert code == 0 and "[red]x[bold]" in out and "[bold" in out


def test_json_is_one_object_with_the_plain_numbers(cli, make_run):
    code, out, _ = cli("report", make_run(), "--format", "json")
    (run,) = json.loads(out)["runs"]
    assert code == 0
    assert (run["status"], run["steps"]["skipped"], run["final"]["val/loss"]) == ("finished", 7, pytest.approx(4 / 60))


def test_a_torn_file_is_told_on_stderr_and_the_report_is_written(cli, make_run):
    path = make_run()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "tra')
    code, out, err = cli("report", path)
    assert code == 0 and out
    assert "ends within a line" in err and "to step 60" in err
    assert cli("report", path, "--quiet")[2] == ""


@pytest.mark.parametrize("format", ["html", "json"])
def test_a_newer_schema_is_exit_2_and_says_so(cli, make_run, format):
    code, out, err = cli("report", make_run(schema=2), "--format", format)
    assert code == 2 and "has schema 2; this version reads 1" in err
    if format == "json":
        assert json.loads(out)["error"]["kind"] == "run_folder"


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ((), "at least one run folder"),
        (("nowhere",), "no run folder"),
        (("nowhere", "--out", "x.json", "--format", "json"), "which goes to stdout"),
    ],
)
def test_wrong_usage_is_exit_2(cli, tokens, said):
    code, _, err = cli("report", *tokens)
    assert code == 2 and said in err


def test_a_file_that_is_no_report_is_left_alone(cli, make_run, tmp_path):
    other = tmp_path / "notes.html"
    other.write_text("mine")
    code, _, err = cli("report", make_run(), "--out", other)
    assert code == 2 and "no report of ampguard" in err and other.read_text() == "mine"


def test_the_command_works_where_torch_is_not_installed(make_run):
    path = make_run()
    script = (
        "import sys\nfor name in ('torch', 'numpy', 'matplotlib', 'filelock', 'tomli_w'): sys.modules[name] = None\n"
        "from ampguard.cli.main import run\n"
        f"for how in ('html', 'text', 'json'): assert run(['report', {str(path)!r}, '--format', how]) == 0"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (path / "report.html").exists()


def test_help_explains_every_option(cli):
    code, out, _ = cli("report", "--help")
    assert code == 0 and "--out" in out and "html, text, json" in out
    assert command.report.__doc__.splitlines()[0] in out
