"""The MLflow tracker: metrics, parameters and tags of an MLflow run, by way of a client that names the run each time.

An active run at construction (`mlflow.active_run()` of the caller's thread, or MLFLOW_RUN_ID) is the user's: it is
used, and neither its status nor its end is touched. Otherwise a run of our own begins: in the tracking store that
MLflow is set to (`set_tracking_uri`, MLFLOW_TRACKING_URI), else in `mlflow.db` beside the run folder, which all runs
there share; in the experiment that MLflow is set to (`set_experiment`, MLFLOW_EXPERIMENT_NAME), else in the Task's.

A row is one `log_batch`. A row that is handed over again bears the time that it bore first: MLflow's stores then take
it for the same point.

MLflow's client retries a server that is gone for minutes (its limits are environment variables of the whole process,
which stay as they are). So each call first opens a connection to the server, for at most 5 s: an outage shows at once.

Not here: artifacts. MLflow has no place for a text at a step: the last message of each kind of event is a tag.
"""

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ampguard.tracking._base import Row, Tracker
from ampguard.tracking._extra import import_extra

CONNECT_TIMEOUT_S: Final = 5.0
"""Seconds after which a server that cannot be reached is an outage."""

MAX_KEY: Final = 250
"""Characters of a metric's, parameter's or tag's name, and of a run's, that MLflow's stores take."""

MAX_VALUE: Final = 5000
"""Characters of a parameter's or tag's value: under 6000 and 8000 of MLflow 3, and what older servers take of a tag."""

GROUP: Final = "ampguard.group"
"""Tag of a run that stands for a group of others, its children."""

STATUS: Final = {"finished": "FINISHED", "stopped_early": "FINISHED", "interrupted": "KILLED", "preempted": "KILLED"}
"""MLflow's word for the status of a run; what is not named FAILED."""


class MlflowTracker(Tracker):
    """Sends rows to the MLflow run that is active, or to one of its own."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self._mlflow = import_extra("mlflow")
        active = self._mlflow.active_run()
        self._theirs: str | None = active.info.run_id if active else os.environ.get("MLFLOW_RUN_ID")
        self._run = self._theirs or ""
        known = self._theirs or self._mlflow.is_tracking_uri_set()
        beside = f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"
        self._uri: str = self._mlflow.get_tracking_uri() if known else beside
        if self._uri.startswith("sqlite:"):
            # Seconds of imports, which would take the interpreter from the training loop if `start` made them.
            import_module("mlflow.store.tracking.sqlalchemy_store")
        self._store: Any = None
        self._last: tuple[Mapping[str, Any], int] = ({}, 0)

    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:
        """Take the user's run, or begin one, or go on with the one in `previous`.

        Raises:
            OSError: The server cannot be reached.
            Exception: Whatever MLflow raises.
        """
        self._run = self._run or previous.get("run") or self._begin(facts)
        client, entities = self._client(), self._mlflow.entities
        run = client.get_run(self._run)
        if self._theirs is None and run.info.status != "RUNNING":
            client.update_run(self._run, status="RUNNING")
        described = {key: value for key, value in facts.items() if key not in ("name", "tags", "group")}
        # A parameter is written once: what a resumed run was started with stands.
        fresh = [entities.Param(key, value) for key, value in _flat(described) if key not in run.data.params]
        tags = [entities.RunTag("tags", ", ".join(facts.get("tags", ()))[:MAX_VALUE])]
        client.log_batch(self._run, params=fresh, tags=tags, synchronous=True)
        where = _without_secrets(self._uri)
        if where.startswith("http"):
            where += f"/#/experiments/{run.info.experiment_id}/runs/{self._run}"
        return {"run": self._run, "url": where}

    def _begin(self, facts: Mapping[str, Any]) -> str:
        client, tags = self._client(), {"mlflow.source.name": "ampguard"}
        experiment = self._experiment(client, facts["task"]["name"])
        if "group" in facts:
            tags["mlflow.parentRunId"] = self._parent(client, experiment, str(facts["group"])[:MAX_KEY])
        run = client.create_run(experiment, run_name=str(facts["name"])[:MAX_KEY], tags=tags)
        return str(run.info.run_id)

    def _parent(self, client: Any, experiment: str, group: str) -> str:
        """Return the id of the run that stands for a group, made by whoever comes first."""
        found = self._parents(client, experiment, group)
        if not found:
            tags = {"mlflow.source.name": "ampguard", GROUP: _plain(group)}
            made = client.create_run(experiment, run_name=group, tags=tags).info.run_id
            client.update_run(made, status="FINISHED")
            # Another process may have made one at the same time: the first one counts, for both.
            found = self._parents(client, experiment, group)
            if found[0] != made:
                client.delete_run(made)
        return found[0]

    def _parents(self, client: Any, experiment: str, group: str) -> list[str]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        runs = client.search_runs([experiment], f"tags.`{GROUP}` = '{_plain(group)}'", order_by=order)
        return [str(run.info.run_id) for run in runs]

    def _experiment(self, client: Any, task: str) -> str:
        """Return the id of the experiment that MLflow is set to, else of the one named after the Task."""
        # `set_experiment` and the environment both stand in this variable.
        if chosen := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return chosen
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or task[:MAX_KEY] or "ampguard"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = (self.run_dir.resolve().parent / "mlartifacts").as_uri() if self._uri.startswith("sqlite:") else None
        return str(client.create_experiment(name, artifact_location=local))

    def held(self) -> int | None:
        """Return the last step whose row the run holds; None for a run of the user's."""
        if self._theirs is not None:
            return None
        latest = self._client().get_run(self._run).data.to_proto().metrics
        return max((int(metric.step) for metric in latest if not metric.key.startswith("event/")), default=0)

    def _log(self, row: Row) -> None:
        metrics = {key: value for key, value in row.items() if key != "step"}
        self._send(row, metrics, {})

    def event(self, row: Mapping[str, Any]) -> None:
        """Send one event: 1 as the metric `event/<kind>` at its step; its message is the tag of that name."""
        name = f"event/{row['event']}"
        self._send(row, {name: 1}, {name: f"step {row['step']}: {row.get('message', '')}"[:MAX_VALUE]})

    def _send(self, row: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Send the metrics of a row or an event in one batch, at the time at which it was handed over first."""
        if self._last[0] != row:
            self._last = (dict(row), int(time.time() * 1000))
        entities = self._mlflow.entities
        self._client().log_batch(
            self._run,
            metrics=[entities.Metric(_name(key), value, self._last[1], row["step"]) for key, value in metrics.items()],
            tags=[entities.RunTag(key, value) for key, value in tags.items()],
            synchronous=True,
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary as tags `summary.*` and end a run of our own.

        Args:
            summary: The record of the run, plain JSON values.
        """
        tags = [self._mlflow.entities.RunTag(f"summary.{key}"[:MAX_KEY], value) for key, value in _flat(summary)]
        self._client().log_batch(self._run, tags=tags, synchronous=True)
        if self._theirs is None:
            self._end(STATUS.get(summary.get("status", ""), "FAILED"))

    def _end(self, status: str) -> None:
        """Set the run's status and end; by the client's store, for its `set_terminated` prints on stdout."""
        self._client()._tracking_client.store.update_run_info(
            self._run,
            run_status=self._mlflow.entities.RunStatus.from_string(status),
            end_time=int(time.time() * 1000),
            run_name=None,
        )

    def _client(self) -> Any:
        """Return the client, after a look whether its server can be reached.

        Raises:
            OSError: It cannot.
        """
        _reach(self._uri)
        if self._store is None:
            self._store = self._mlflow.MlflowClient(tracking_uri=self._uri)
        return self._store


def _reach(uri: str) -> None:
    """Open and close a connection to the server of `uri`; do nothing for a file, or where a proxy is in between."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested `values` as ("config.lr", "0.1"), names and values as MLflow takes them."""
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield re.sub(r"[^/\w.\- :]", "_", name)[:MAX_KEY], str(value)[:MAX_VALUE]


def _plain(group: str) -> str:
    """Return a group's name without what ends a text in MLflow's queries."""
    return re.sub(r"[^\w.\- ]", "_", group)


def _name(key: str) -> str:
    """Return a metric's name as MLflow takes it: a path in its plain form, without an empty part."""
    return re.sub(r"/+", "/", key).strip("/")[:MAX_KEY] or "_"


def _without_secrets(uri: str) -> str:
    """Return `uri` without a user's name and password."""
    return re.sub(r"//[^/@]*@", "//", uri)
