import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ampguard.records import Event
from ampguard.tracking import RunLog, _run_log, read_rows


def steps(path):
    return [row["step"] for row in read_rows(path)]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_rows_and_events_are_read_back_as_they_were(tmp_path):
    tracker = RunLog(tmp_path)
    tracker.log({"step": 1, "train/loss": 0.1 + 0.2, "amp/applied_steps": 1})
    tracker.event(Event(kind="skip", step=1, message="overflow", data={"norm": math.inf, "in": [1, None]}).as_dict())
    tracker.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 0.1 + 0.2, "amp/applied_steps": 1}]
    assert read_rows(tmp_path / "events.jsonl") == [
        {"event": "skip", "step": 1, "message": "overflow", "norm": "inf", "in": [1, None]}
    ]


def test_every_line_is_strict_json(tmp_path):
    tracker = RunLog(tmp_path)
    tracker.event({"event": "nonfinite", "step": 1, "message": "é\n", "x": {"y": (math.nan, tmp_path)}})
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["x"] == {"y": ["nan", str(tmp_path)]}


def test_a_row_is_on_its_way_before_log_returns(tmp_path):
    """A kill -9 right after `log` loses nothing."""
    code = (
        "import os, signal, sys; from pathlib import Path; from ampguard.tracking import RunLog\n"
        "RunLog(Path(sys.argv[1])).log({'step': 1, 'a': 1.0}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


def test_a_new_process_goes_on_after_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a"')
    RunLog(tmp_path).log({"step": 3, "a": 1.0})
    assert steps(path) == [1, 3]


def test_truncation_drops_later_rows_of_both_files(tmp_path):
    tracker = RunLog(tmp_path)
    for step in range(1, 6):
        tracker.log({"step": step, "a": 1.0})
        tracker.event({"event": "skip", "step": step, "message": ""})
    tracker.truncate_after(3)
    tracker.log({"step": 4, "a": 2.0})
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert steps(tmp_path / "events.jsonl") == [1, 2, 3]


def test_a_deleted_folder_is_one_warning_and_rows_follow_in_order(tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = RunLog(folder)
    tracker.log({"step": 1, "a": 1.0})
    shutil.rmtree(folder)
    for step in range(2, 6):
        tracker.log({"step": step, "a": 1.0})
    tracker.sync()
    assert tracker.waiting == 4
    assert len(warnings(caplog)) == 1
    folder.mkdir()
    tracker.log({"step": 6, "a": 1.0})
    assert steps(folder / "metrics.jsonl") == [2, 3, 4, 5, 6]
    assert tracker.waiting == 0
    assert "can be written again; rows lost meanwhile: 0" in warnings(caplog)[1]


def test_each_outage_warns_once(tmp_path, caplog):
    folder = tmp_path / "run"
    tracker = RunLog(folder)
    for _ in range(2):
        tracker.log({"step": 1, "a": 1.0})
        tracker.log({"step": 2, "a": 1.0})
        folder.mkdir()
        tracker.log({"step": 3, "a": 1.0})
        shutil.rmtree(folder)
    assert [("cannot be written" in text) for text in warnings(caplog)] == [True, False, True, False]


def test_waiting_rows_are_bounded_and_the_loss_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(_run_log, "MAX_WAITING", 3)
    folder = tmp_path / "run"
    tracker = RunLog(folder)
    for step in range(1, 6):
        tracker.log({"step": step, "a": 1.0})
    assert tracker.waiting == 3
    folder.mkdir()
    tracker.sync()
    assert steps(folder / "metrics.jsonl") == [3, 4, 5]
    assert warnings(caplog)[1].endswith("rows lost meanwhile: 2.")


def test_close_without_a_disk_tells_what_is_lost(tmp_path, caplog):
    tracker = RunLog(tmp_path / "gone")
    tracker.log({"step": 1, "a": 1.0})
    tracker.event({"event": "skip", "step": 1, "message": ""})
    tracker.close()
    assert warnings(caplog)[-1] == "2 row(s) could not be written and are lost with this process."


def test_sync_makes_file_and_folder_durable(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def record(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr("os.fsync", record)
    tracker = RunLog(tmp_path)
    tracker.sync()
    assert list(tmp_path.iterdir()) == []
    tracker.log({"step": 1, "a": 1.0})
    assert synced == []
    tracker.sync()
    assert synced == [tmp_path / "metrics.jsonl", tmp_path]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ampguard.tracking import RunLog

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tracker = RunLog(Path(sys.argv[1]))
row = {"step": 1, "train/loss": 0.1234567890123}
limit(int(sys.argv[2]))
for step in range(1, 21):
    tracker.log(row | {"step": step})
assert tracker.waiting > 0
limit(resource.RLIM_INFINITY)
for step in range(21, 31):
    tracker.log(row | {"step": step})
assert tracker.waiting == 0
"""


@pytest.mark.parametrize("size", [0, 1, 100, 333])
def test_a_full_disk_tears_no_row_and_loses_none(tmp_path, size):
    """The limit falls inside a row, so that the system takes a part of it."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(size)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(1, 31))
