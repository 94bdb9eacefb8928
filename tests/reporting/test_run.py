import fcntl
import json
import logging
from pathlib import Path

import pytest

from ampguard.errors import RunFolderError
from ampguard.reporting.run import make_labels, read_runs


def test_a_run_is_read_from_its_folder(make_run):
    (run,) = read_runs([make_run()])
    assert (run.label, run.task, run.device, run.status) == ("run", "digits", "a CPU", "finished")
    assert run.precision == {"requested": "fp16", "granted": "fp16-mixed", "reason": "as requested"}
    assert [run.steps(name) for name in ("attempted", "applied", "skipped")] == [60, 53, 7]
    assert (run.wall_s, run.samples_per_s, run.peak_mib) == (12.5, 470.0, 120.0)
    assert run.final("val/loss") == pytest.approx(4 / 60) and run.lowest("val/loss") == (60, pytest.approx(4 / 60))
    assert run.notes == ()


def test_a_run_that_is_being_written_is_running_and_counted_by_its_rows(make_run):
    path = make_run(status="interrupted")
    with (path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (run,) = read_runs([path])
    assert run.status == "running"
    assert run.steps("attempted") == 60
    assert read_runs([path])[0].status == "interrupted"


def test_a_run_without_a_result_that_nobody_holds_is_unfinished(make_run):
    (run,) = read_runs([make_run(record=False)])
    assert run.status == "unfinished"
    assert [run.steps(name) for name in ("attempted", "applied", "skipped")] == [60, 53, 7]
    assert run.samples_per_s == 3200.0 and run.wall_s is None


def test_a_run_that_fell_back_says_what_it_began_with_and_ended_in(make_run):
    path = make_run()
    result = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**result, "precision": {"granted": "fp32"}}))
    assert read_runs([path])[0].granted == "fp16-mixed, then fp32"


def test_a_damaged_result_is_told_and_the_rows_count(make_run, caplog):
    path = make_run()
    (path / "run.json").write_text('{"schema": 1, "sta')
    with caplog.at_level(logging.WARNING, "ampguard.reporting"):
        (run,) = read_runs([path])
    assert run.status == "unfinished" and "run.json is damaged" in run.notes[0]
    assert "run.json is damaged" in caplog.text


@pytest.mark.parametrize("file", ["run.toml", "run.json"])
def test_a_newer_schema_is_an_error_that_says_so(make_run, file):
    path = make_run()
    text = (path / file).read_text()
    (path / file).write_text(text.replace("schema = 1", "schema = 9").replace('"schema": 1', '"schema": 9'))
    with pytest.raises(RunFolderError, match="schema 9; this version reads 1"):
        read_runs([path])


@pytest.mark.parametrize("what", ["missing", "file", "empty", "binary"])
def test_what_is_no_run_folder_is_an_error(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("hello")
    elif what in ("empty", "binary"):
        path.mkdir()
    if what == "binary":
        (path / "run.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunFolderError, match="damaged" if what == "binary" else "no run folder"):
        read_runs([path])


def test_a_run_toml_that_people_edited_does_not_break_the_report(make_run):
    path = make_run()
    (path / "run.toml").write_text('schema = 1\ntask = "digits"\nprecision = 16\nconfig = []\n')
    (run,) = read_runs([path])
    assert (run.task, run.precision["granted"], run.device, dict(run.config)) == ("unknown", "unknown", "unknown", {})


def test_the_same_run_given_twice_is_read_once(make_run, monkeypatch, tmp_path):
    path = make_run("a")
    monkeypatch.chdir(tmp_path)
    assert [run.label for run in read_runs([path, Path("a"), path / ".." / "a"])] == ["a"]


def test_runs_keep_the_order_in_which_they_are_given(make_run):
    paths = [make_run(name) for name in ("c", "a", "b")]
    assert [run.label for run in read_runs([*paths, paths[0]])] == ["c", "a", "b"]


def test_labels_take_as_many_parents_as_tell_them_apart():
    paths = [Path("/x/one/run"), Path("/x/two/run"), Path("/y/two/run"), Path("/z/other")]
    assert make_labels(paths) == ["one/run", "x/two/run", "y/two/run", "other"]


def test_a_damaged_ranges_json_is_told(make_run):
    path = make_run()
    (path / "ranges.json").write_text('{"schema": 1, "rows": [{"fqn": 3}, "x"]}')
    (run,) = read_runs([path])
    assert run.ranges is None
    assert "2 row(s) that cannot be read" in run.notes[0] and "no heat map" in run.notes[1]
