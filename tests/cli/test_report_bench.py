"""`ampguard report BENCH`: the page of a bench, its text and its numbers."""

import json
import runpy
from pathlib import Path

import pytest

from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.report import Memory

TASK = f"{Path(__file__).parents[1] / 'benchmarking' / 'bench_task.py'}:build"
BENCHES = runpy.run_path(str(Path(__file__).parents[1] / "reporting" / "bench_folders.py"))


@pytest.fixture
def bench(tmp_path):
    return BENCHES["make_bench"](tmp_path / "b")


def test_a_bench_gets_its_page_in_its_folder(cli, bench):
    assert cli("report", bench) == (0, f"{bench}/report.html\n", "")
    assert "ampguard bench" in (bench / "report.html").read_text(encoding="utf-8")


def test_out_names_the_file(cli, bench, tmp_path):
    assert cli("report", bench / "bench.json", "--out", tmp_path / "x.html")[:2] == (0, f"{tmp_path / 'x.html'}\n")


def test_text_tells_figures_reasons_and_the_verdict(cli, bench):
    code, out, _ = cli("report", bench, "--format", "text")
    assert code == 0
    for said in ("1.80x", "largest micro-batch", "it needs a GPU of compute", "CI 1.78-1.82): use it."):
        assert said in out, said
    assert not (bench / "report.html").exists()


def test_text_takes_no_name_for_markup(cli, tmp_path):
    trial = BENCHES["trial"]("[bold", [1.0], parity=None)
    path = BENCHES["make_bench"](tmp_path / "m", trials=[trial], task="[red]x[/wrong]", warnings=["[/no]"], trained=())
    code, out, _ = cli("report", path, "--format", "text")
    assert code == 0 and "[red]x[/wrong]" in out and "[bold" in out and "[/no]" in out


def test_json_is_one_object(cli, bench):
    code, out, _ = cli("report", bench, "--format", "json")
    assert code == 0 and json.loads(out)["trained"]["fp32"]["seeds"] == [0, 1, 2, 3, 4]


def test_a_bench_beside_a_run_is_exit_2(cli, bench, tmp_path):
    code, _, err = cli("report", bench, tmp_path / "other")
    assert code == 2 and "a bench has a page of its own" in err


def test_a_damaged_bench_is_exit_2(cli, bench):
    (bench / "bench.json").write_text("{")
    code, _, err = cli("report", bench)
    assert code == 2 and "is damaged" in err


def test_a_bench_names_its_page_at_the_end(cli, monkeypatch):
    found = Footprint(peak=10.0, parts=Memory())
    monkeypatch.setattr("ampguard.benchmarking.memory.footprint", lambda job, *, timeout_s: found)
    tokens = ("--precisions", "fp32", "--blocks", "10", "--budget", "1h", "--device", "cpu", "--out", "b")
    code, out, err = cli("bench", TASK, *tokens)
    assert code == 0, err
    assert "to look at: b/report.html" in out
    assert "Nothing was compared with fp32" in Path("b/report.html").read_text(encoding="utf-8")
