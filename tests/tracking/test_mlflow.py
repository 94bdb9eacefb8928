import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from urllib.error import URLError
from urllib.request import urlopen

import mlflow
import pytest
from mlflow import MlflowClient

from ampguard.testing import FACTS, ROWS, SKIP, SUMMARY, ReadBack, TrackerContract
from ampguard.tracking.mlflow import MlflowTracker

# MLflow's own models, read by the newest SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real `mlflow server` over SQLite on the loopback, which can be stopped and started again."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=env, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def answers(self):
        try:
            return urlopen(f"{self.uri}/health", timeout=5).status == 200
        except (URLError, ConnectionError, TimeoutError):
            return False

    def stop(self):
        os.killpg(self.process.pid, 15)
        self.process.wait(60)
        self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def at_the_server(server, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)


def points_of(database, run):
    """Read the points of a run from the server's database, below MLflow."""
    points = {}
    with closing(sqlite3.connect(database)) as found:
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY step"
        for key, step, value in found.execute(query, (run,)):
            points.setdefault(key, []).append((step, value))
    return points


def sent(client, database, run_id):
    data = client.get_run(run_id).data
    return ReadBack(
        runs=1,
        points=points_of(database, run_id),
        facts=str(data.params),
        tags=[data.tags.get("tags", "")],
        summary=str({key: value for key, value in data.tags.items() if key.startswith("summary.")}),
        texts=[value for key, value in data.tags.items() if key.startswith("event/")],
    )


class TestContract(TrackerContract):
    @pytest.fixture(autouse=True)
    def place(self, server, monkeypatch):
        self.server, self.patch = server, monkeypatch
        self.experiments = {}

    def make(self, run_dir):
        """Each run folder has an experiment of its own, as its runs are counted there."""
        client = MlflowClient(self.server.uri)
        if run_dir not in self.experiments:
            self.experiments[run_dir] = client.create_experiment(str(run_dir)[-200:])
        self.patch.setenv("MLFLOW_EXPERIMENT_ID", self.experiments[run_dir])
        return MlflowTracker(run_dir)

    def read_back(self, run_dir):
        client = MlflowClient(self.server.uri)
        found = client.search_runs([self.experiments[run_dir]])
        read = sent(client, self.server.folder / "server.db", found[0].info.run_id)
        return ReadBack(**{**vars(read), "runs": len(found)})


def begun(run_dir, facts=FACTS):
    tracker = MlflowTracker(run_dir)
    return tracker, tracker.start(facts, {})["run"]


def test_a_row_that_is_handed_over_again_stands_once(tmp_path, server):
    tracker, run = begun(tmp_path)
    for _ in range(3):
        tracker.log(ROWS[0])
        time.sleep(0.002)
    assert points_of(server.folder / "server.db", run)["train/loss"] == [(10, 0.1 + 0.2)]


def test_the_status_of_the_run_is_mlflows(tmp_path, server):
    client = MlflowClient(server.uri)
    for status, expected in (("finished", "FINISHED"), ("preempted", "KILLED"), ("failed", "FAILED")):
        tracker, run = begun(tmp_path)
        assert client.get_run(run).info.status == "RUNNING"
        tracker.finish({**SUMMARY, "status": status})
        found = client.get_run(run).info
        assert (found.status, found.end_time > found.start_time) == (expected, True)


def test_the_experiment_is_the_tasks_or_the_one_that_mlflow_is_set_to(tmp_path, server, monkeypatch):
    client = MlflowClient(server.uri)
    _, run = begun(tmp_path, {**FACTS, "task": {"name": "tâche"}})
    assert client.get_experiment(client.get_run(run).info.experiment_id).name == "tâche"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    _, run = begun(tmp_path)
    assert client.get_experiment(client.get_run(run).info.experiment_id).name == "mine"


def test_parameters_of_the_first_start_stand_when_a_resumed_run_differs(tmp_path, server):
    tracker, run = begun(tmp_path)
    tracker.finish({**SUMMARY, "status": "preempted"})
    again = MlflowTracker(tmp_path)
    again.start({**FACTS, "device": "another", "config": {"new": 1}}, {"run": run})
    found = MlflowClient(server.uri).get_run(run)
    assert found.info.status == "RUNNING"
    assert (found.data.params["device"], found.data.params["config.new"]) == ("CPU", "1")


def test_an_active_run_of_the_users_gets_the_rows_and_is_not_ended(tmp_path, server):
    client = MlflowClient(server.uri)
    with mlflow.start_run(run_name="mine") as mine:  # ampguard: ignore[TRK002] a test fails with it
        mlflow.log_param("lr", 3)
        tracker = MlflowTracker(tmp_path)
        before = len(client.search_runs([mine.info.experiment_id]))
        tracker.start(FACTS, {})
        assert tracker.held() is None
        for row in ROWS:
            tracker.log(row)
        tracker.event(SKIP)
        tracker.finish(SUMMARY)
        assert mlflow.active_run().info.run_id == mine.info.run_id
        assert client.get_run(mine.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("mine", 1.0)
    assert len(client.search_runs([mine.info.experiment_id])) == before
    points = points_of(server.folder / "server.db", mine.info.run_id)
    assert points["train/loss"] == [(row["step"], row["train/loss"]) for row in ROWS]
    assert points["event/skip"] == [(17, 1.0)]
    assert client.get_run(mine.info.run_id).data.params["lr"] == "3"


def test_the_run_that_the_environment_names_is_the_users(tmp_path, server, monkeypatch):
    client = MlflowClient(server.uri)
    mine = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    tracker, run = begun(tmp_path)
    tracker.log(ROWS[0])
    tracker.finish(SUMMARY)
    assert run == mine
    assert client.get_run(mine).info.status == "RUNNING"


def test_without_a_store_of_the_users_runs_share_a_file_beside_them(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run_dir = tmp_path / "läufe" / "a b"
    run_dir.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    tracker, run = begun(run_dir)
    for row in ROWS:
        tracker.log(row)
    tracker.finish(SUMMARY)
    assert points_of(run_dir.parent / "mlflow.db", run)["train/loss"][0] == (10, 0.1 + 0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["läufe"]


def test_an_outage_is_an_error_within_seconds_and_leaves_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    tracker = MlflowTracker(tmp_path)
    before = dict(os.environ)
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        tracker.start(FACTS, {})
    # Nothing listens, so that it is known at once; MLflow's own client retries for minutes.
    assert time.monotonic() - start < 30
    assert dict(os.environ) == before


def test_what_was_handed_over_before_an_outage_stands_and_the_rest_follows(tmp_path, server):
    tracker, run = begun(tmp_path)
    tracker.log(ROWS[0])
    server.stop()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            tracker.log(ROWS[1])
    server.start()
    assert tracker.held() == 10
    tracker.log(ROWS[1])
    tracker.log(ROWS[2])
    points = points_of(server.folder / "server.db", run)
    assert [step for step, _ in points["train/loss"]] == [10, 20, 30]


def test_ids_that_are_kept_hold_no_password(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//me:secret@"))
    tracker = MlflowTracker(tmp_path)
    assert "secret" not in str(tracker.start(FACTS, {}))
