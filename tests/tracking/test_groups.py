"""Runs that belong together, such as the trials of a search, stand together in each tracker."""

import socket

import pytest
from mlflow import MlflowClient

from ampguard.testing import FACTS, SUMMARY
from ampguard.tracking import described
from ampguard.tracking.mlflow import GROUP, MlflowTracker
from ampguard.tracking.wandb import WandbTracker

# MLflow's own models, read by the newest SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

STUDY = "tune-digits 'quoted'"


def trial(number):
    return {**FACTS, "name": f"{number:04d}", "group": STUDY}


def test_a_tracker_is_told_the_group_of_a_run_that_has_one(tmp_path):
    facts = {key: value for key, value in FACTS.items() if key not in ("name", "tags")}
    assert "group" not in described(tmp_path, facts)
    grouped = {**facts, "config": {"group": STUDY}}
    assert described(tmp_path, grouped)["group"] == STUDY


def test_mlflow_has_one_parent_for_all_trials(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    found = []
    for number in range(2):
        tracker = MlflowTracker(tmp_path / "trials" / f"{number:04d}")
        (tmp_path / "trials").mkdir(exist_ok=True)
        found.append(tracker.start(trial(number), {}))
        tracker.finish(SUMMARY)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'trials' / 'mlflow.db'}")
    runs = [client.get_run(one["run"]) for one in found]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    stands = client.get_run(parent)
    assert (stands.info.run_name, stands.info.status) == (STUDY, "FINISHED")
    assert stands.data.tags[GROUP] == "tune-digits _quoted_"
    assert len(client.search_runs([runs[0].info.experiment_id])) == 3


def test_wandb_groups_the_trials(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    tracker = WandbTracker(tmp_path / "0000")
    (tmp_path / "0000").mkdir()
    tracker.start(trial(0), {})
    try:
        assert tracker._run.group == STUDY
    finally:
        tracker.finish(SUMMARY)
        import wandb

        wandb.teardown()


def test_no_group_is_sent_where_there_is_none(tmp_path, monkeypatch):
    def refuse(self, address):
        pytest.fail(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tracker = MlflowTracker(tmp_path / "0000")
    found = tracker.start({**FACTS, "name": "0000"}, {})
    tracker.finish(SUMMARY)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "mlflow.parentRunId" not in client.get_run(found["run"]).data.tags
