"""The page that a run leaves: also of a failed one, never when not wanted, and never at the run's cost."""

import logging
from dataclasses import replace

import pytest

from ampguard.errors import ConfigError, RunFolderError, TaskError, UserCodeError
from ampguard.training import report, train


def test_a_run_leaves_its_report(toy, tmp_path):
    train(toy(), steps=5, log_every=1, out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "finished" in page and "5 values" in page


def test_a_failed_run_leaves_its_report_and_its_error(toy, tmp_path):
    with pytest.raises(UserCodeError, match="the user's own mistake"):
        train(toy(raise_at=8), steps=20, precision="fp32", log_every=1, out=tmp_path / "run")
    assert "failed" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_whose_input_shows_wrong_on_its_way_leaves_its_report(toy, tmp_path):
    task = replace(toy(), evaluate=lambda model, batch: {"loss": 0.5})
    with pytest.raises(TaskError, match="a float for 'loss'"):
        train(task, steps=5, precision="fp32", log_every=1, out=tmp_path / "run")
    assert "failed" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_wants_none_leaves_none(toy, tmp_path):
    train(toy(), steps=2, out=tmp_path / "run", report=False)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_resumed_run_writes_it_anew(toy, tmp_path):
    train(toy(), steps=4, log_every=1, out=tmp_path / "run", max_time="1s", report=False)
    train(toy(), resume=tmp_path / "run", report=True)
    assert "4 values" in (tmp_path / "run" / "report.html").read_text()


def test_a_report_that_cannot_be_written_costs_one_warning_and_not_the_run(toy, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").mkdir()
    with caplog.at_level(logging.WARNING, "ampguard"):
        record = train(toy(), steps=3, out=tmp_path / "run", resume="auto")
    assert record.status == "finished"
    (said,) = [message for message in caplog.messages if "report could not" in message]
    assert "could not be written" in said and "ampguard report" in said


def test_whatever_a_page_does_wrong_is_a_warning(toy, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda paths: 1 // 0)
    with caplog.at_level(logging.WARNING, "ampguard"):
        assert train(toy(), steps=3, out=tmp_path / "run").status == "finished"
    assert "ZeroDivisionError" in caplog.text


def test_a_refused_input_writes_into_no_folder(toy, tmp_path):
    train(toy(), steps=2, out=tmp_path / "run", report=False)
    with pytest.raises(RunFolderError):
        train(toy(), steps=2, out=tmp_path / "run")
    with pytest.raises(ConfigError):
        train(toy(), resume=tmp_path / "run", steps=9)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_run_that_was_asked_to_stop_does_not_read_a_huge_file(toy, tmp_path, caplog, monkeypatch):
    path = tmp_path / "run"
    train(toy(), steps=2, out=path, report=False)
    result = (path / "run.json").read_text()
    (path / "run.json").write_text(result.replace('"finished"', '"preempted"'))
    monkeypatch.setattr(report, "HURRIED_BYTES", 10)
    with caplog.at_level(logging.WARNING, "ampguard"):
        report.leave_report(path)
    assert not (path / "report.html").exists() and "asked to stop" in caplog.text
    (path / "run.json").write_text(result)
    report.leave_report(path)
    assert (path / "report.html").exists()
