"""The trackio tracker: rows, events and config in trackio's local database, one project a Task.

An active run (`trackio.init` in the thread that makes the tracker) is the user's: rows go to it by its own `log`, and
it is not finished. Otherwise rows are written to the project's SQLite file by trackio's storage, in the calling
thread. `trackio.init` is not called for a run of our own: its run prints on stdout, asks Hugging Face for a user's
name, and drops rows that its thread cannot write with no more than a printed line; here that is an error, and the row
is handed over again.

Every row bears an identity made of its run, step and keys, so that a row that is written twice stands once.

The database lies where trackio keeps it: TRACKIO_DIR, else `trackio` in the Hugging Face cache. Nothing here uses a
network; `trackio sync` sends a project to a Space later.

Not here: TRACKIO_SPACE_ID, TRACKIO_SERVER_URL and TRACKIO_STORAGE_MODE, which hold for a run that the user begins.
"""

import json
import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ampguard.errors import AmpguardError
from ampguard.tracking._base import Row, Tracker
from ampguard.tracking._extra import import_extra

MAX_PROJECT: Final = 100
"""Characters of a project's name, which is also a file's."""


class TrackioTracker(Tracker):
    """Writes rows into trackio's database, or hands them to the trackio run that is active."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        import_extra("trackio")
        from trackio.context_vars import current_run
        from trackio.sqlite_storage import SQLiteStorage

        self._storage: Any = SQLiteStorage
        self._theirs: Any = current_run.get()
        self._project = self._run = self._name = ""
        self._config: dict[str, Any] = {}

    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:
        """Take the user's run, or begin one, or go on with the one in `previous`.

        The config is written with the first row: trackio knows no run without one.

        Raises:
            OSError: The database cannot be written.
            sqlite3.Error: The database cannot be written.
        """
        described = json.loads(json.dumps(dict(facts), default=str))
        if self._theirs is not None:
            self._theirs.config["ampguard"] = described
            return {}
        self._project = previous.get("project") or self._valid_project(facts["task"]["name"])
        self._run = previous.get("run") or self._run or uuid.uuid4().hex
        self._name = str(facts["name"])
        # The package's own names: its dashboard groups runs by the second.
        self._config = {**described, "_Created": datetime.now(UTC).isoformat(), "_Group": facts.get("group")}
        path = self._storage.init_db(self._project)
        return {"run": self._run, "project": self._project, "path": str(path)}

    def _valid_project(self, task: str) -> str:
        """Return the project for a Task: its name, or "ampguard" where trackio keeps that name for itself."""
        name = task[:MAX_PROJECT] or "ampguard"
        try:
            self._storage.validate_project_name(name)
        except ValueError:
            return "ampguard"
        return name

    def held(self) -> int | None:
        """Return the last step whose row stands in the database; None for a run of the user's."""
        if self._theirs is not None:
            return None
        uri = f"{self._storage.get_project_db_path(self._project).as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            query = "SELECT MAX(step) FROM metrics WHERE run_id = ? AND log_id LIKE 'row-%'"
            (step,) = database.execute(query, (self._run,)).fetchone()
        return step or 0

    def _log(self, row: Row) -> None:
        metrics = {key: value for key, value in row.items() if key != "step"}
        self._send("row", int(row["step"]), metrics, identity=sorted(metrics))

    def event(self, row: Mapping[str, Any]) -> None:
        """Write one event: 1 as `event/<kind>` at its step, and its message as text beside it."""
        name, message = f"event/{row['event']}", str(row.get("message", ""))
        self._send("event", row["step"], {name: 1, f"{name}_message": message}, identity=[name, message])

    def _send(self, kind: str, step: int, metrics: Mapping[str, Any], *, identity: list[str]) -> None:
        if self._theirs is not None:
            self._hand_over(step, metrics)
            return
        name = json.dumps([self._run, step, identity])
        self._storage.bulk_log(
            project=self._project,
            run=self._name,
            run_id=self._run,
            metrics_list=[dict(metrics)],
            steps=[step],
            config=self._config,
            log_ids=[f"{kind}-{uuid.uuid5(uuid.NAMESPACE_OID, name).hex}"],
        )
        # What is empty is not written again.
        self._config = {}

    def _hand_over(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give a row to the user's run, which writes it from a thread of its own.

        Raises:
            AmpguardError: The user finished that run.
        """
        if self._theirs._stop_flag.is_set():
            raise AmpguardError(
                f"the trackio run {self._theirs.name!r}, which was active before training, was finished meanwhile.",
                hint="Finish it after training, or replay the rows later: ampguard track RUN --to trackio.",
            )
        self._theirs.log(dict(metrics), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary into the last row of a run of our own, as `summary/status` and the rest of it.

        Args:
            summary: The record of the run, plain JSON values.
        """
        flat = {f"summary/{key}": value for key, value in summary.items()}
        step = (self.held() or 0) if self._theirs is None else summary.get("steps", {}).get("attempted", 0)
        if flat:
            self._send("summary", step, flat, identity=[])
