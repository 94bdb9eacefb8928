import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ampguard.errors import AmpguardError
from ampguard.testing import FACTS, ROWS, SKIP, SUMMARY, ReadBack, TrackerContract
from ampguard.tracking.trackio import TrackioTracker


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """The package with a folder of its own: it reads TRACKIO_DIR once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            patch.delitem(sys.modules, name)
        import trackio

        yield trackio
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_network(trackio, monkeypatch):
    """Any connection is a failure of the test."""

    def refuse(self, address):
        pytest.fail(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def rows_of(path, run):
    """Read (step, metrics) and the config of a run from its project's database, below trackio."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_id = ? ORDER BY step, id", (run,))
        configs = database.execute("SELECT config FROM configs WHERE run_id = ?", (run,))
        return [(step, json.loads(metrics)) for step, metrics in rows], [json.loads(config) for (config,) in configs]


def sent(trackio, project, run):
    return sent_to(trackio.sqlite_storage.SQLiteStorage.get_project_db_path(project), run)


def sent_to(path, run):
    rows, configs = rows_of(path, run)
    points, texts, summary = {}, [], {}
    for step, metrics in rows:
        for name, value in metrics.items():
            if name.startswith("summary/"):
                summary[name] = value
            elif isinstance(value, str):
                texts.append(value)
            else:
                points.setdefault(name, []).append((step, value))
    facts = json.dumps(configs)
    return ReadBack(runs=1, points=points, facts=facts, tags=[facts], summary=json.dumps(summary), texts=texts)


class TestContract(TrackerContract):
    @pytest.fixture(autouse=True)
    def place(self, trackio):
        self.trackio, self.found = trackio, {}

    def make(self, run_dir):
        tracker = Watched(run_dir)
        tracker.found = self.found
        return tracker

    def read_back(self, run_dir):
        runs = self.found[run_dir]
        (project, run), *_ = runs
        return ReadBack(**{**vars(sent(self.trackio, project, run)), "runs": len(runs)})


class Watched(TrackioTracker):
    """Notes which runs were begun for a folder: the database of a project is shared by the tests."""

    def start(self, facts, previous):
        ids = super().start(facts, previous)
        self.found.setdefault(self.run_dir, {})[ids["project"], ids["run"]] = True
        return ids


def test_a_row_that_is_written_twice_stands_once(tmp_path, trackio):
    tracker = TrackioTracker(tmp_path)
    ids = tracker.start(FACTS, {})
    for _ in range(3):
        tracker.log(ROWS[0])
        tracker.event(SKIP)
    tracker.event({**SKIP, "step": 18})
    found = sent(trackio, ids["project"], ids["run"]).points
    assert found["train/loss"] == [(10, 0.1 + 0.2)]
    assert found["event/skip"] == [(17, 1), (18, 1)]


def test_a_database_that_cannot_be_written_is_an_error_and_the_row_follows(tmp_path, trackio):
    tracker = TrackioTracker(tmp_path)
    ids = tracker.start({**FACTS, "task": {"name": "broken"}}, {})
    tracker.log(ROWS[0])
    path = Path(ids["path"])
    kept = path.read_bytes()
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        tracker.log(ROWS[1])
    path.write_bytes(kept)
    tracker.log(ROWS[1])
    assert [step for step, _ in sent(trackio, ids["project"], ids["run"]).points["train/loss"]] == [10, 20]


def test_trackios_own_reader_shows_the_run(tmp_path, trackio):
    tracker = TrackioTracker(tmp_path)
    tracker.start({**FACTS, "task": {"name": "shown"}, "name": "läuft"}, {})
    tracker.log(ROWS[0])
    (run,) = trackio.Api().runs("shown")
    assert run.name == "läuft"
    assert run.config["precision"]["granted"] == "bf16-mixed"


@pytest.fixture
def users_run(trackio, monkeypatch):
    monkeypatch.setattr(trackio.run.Run, "_get_username", lambda self: None)  # it would ask the network
    run = trackio.init("theirs", auto_log_cpu=False, auto_log_gpu=False)
    yield run
    run.finish()
    trackio.context_vars.current_run.set(None)


def test_a_users_run_gets_the_rows_and_is_not_finished(tmp_path, trackio, users_run):
    tracker = TrackioTracker(tmp_path)
    assert tracker.start(FACTS, {}) == {}
    assert tracker.held() is None
    for row in ROWS:
        tracker.log(row)
    tracker.event(SKIP)
    tracker.finish(SUMMARY)
    trackio.log({"mine": 1.0})
    users_run.finish()
    found = sent(trackio, "theirs", users_run.id)
    assert found.points["train/loss"] == [(row["step"], row["train/loss"]) for row in ROWS]
    assert found.points["event/skip"] == [(17, 1)]
    assert [value for _, value in found.points["mine"]] == [1.0]
    assert "ampguard" in found.facts


def test_a_users_run_that_was_finished_meanwhile_is_an_outage_that_says_so(tmp_path, users_run):
    tracker = TrackioTracker(tmp_path)
    tracker.start(FACTS, {})
    users_run.finish()
    with pytest.raises(AmpguardError, match="was finished meanwhile"):
        tracker.log(ROWS[0])


def test_a_name_that_trackio_keeps_for_itself_is_replaced(tmp_path):
    tracker = TrackioTracker(tmp_path)
    assert tracker.start({**FACTS, "task": {"name": "registry-x"}}, {})["project"] == "ampguard"


def test_rows_lie_where_trackio_is_told_to_keep_them(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ampguard.tracking.trackio import TrackioTracker\n"
        "tracker = TrackioTracker(Path(sys.argv[1])); tracker.start({'task': {'name': 't'}, 'name': 'n'}, {})\n"
        "tracker.log({'step': 1, 'a': 0.5})"
    )
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "here")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, check=True)
    assert done.stdout == b""
    assert (tmp_path / "here" / "t.db").is_file()


def test_a_run_goes_on_in_its_project_under_a_new_name(tmp_path, trackio):
    first = TrackioTracker(tmp_path)
    ids = first.start(FACTS, {})
    first.log(ROWS[0])
    first.finish({**SUMMARY, "status": "preempted"})
    second = TrackioTracker(tmp_path)
    again = second.start({**FACTS, "task": {"name": "renamed"}, "name": "renamed"}, ids)
    assert again == ids
