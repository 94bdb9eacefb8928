"""The Weights & Biases tracker: rows, events, config and summary in a W&B run.

An active run (`wandb.run`) at construction is the user's: it is used, never finished, and what describes our run stands
under "ampguard" in its config and summary. Otherwise a run of our own begins, with `reinit="create_new"`, so that
`wandb.run` and `wandb.log` stay the user's.

Every metric is plotted over our own step metric `amp/step` (`define_metric` for each name, as it first appears). No row
carries W&B's own `step`: W&B drops a row whose `step` is behind its counter, and events come later than rows of
higher steps. The price: each of our rows moves that counter on by one, which the user's own `step=` in the same run
must not fall behind; a step metric of theirs is safe.

The package writes each row to a file before it sends it, and retries by itself: a network that fails is no outage
here, a run that was finished behind our back is. Without credentials `start` says so; nothing ever asks for them.

Not here: `wandb.watch`, whose hooks raise inside backward.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ampguard.errors import AmpguardError
from ampguard.tracking._base import Row, Tracker
from ampguard.tracking._extra import import_extra

STEP: Final = "amp/step"
"""The metric that all others are plotted over: the attempted step."""

FINISH_TIMEOUT_S: Final = 30.0
"""Seconds that W&B may upload at the end, and when the process exits; without a limit an outage would keep it alive."""

MAX_NAME: Final = 128
"""Characters of a run's or project's name that W&B keeps."""

MAX_TAG: Final = 64
"""Characters of a tag that W&B takes."""


class WandbTracker(Tracker):
    """Sends rows to the W&B run that is active, or to one of its own."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self._wandb = import_extra("wandb")
        self._theirs = self._wandb.run
        self._run = self._theirs
        self._defined: set[str] = set()

    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:
        """Take the user's run, or begin one, or go on with the one in `previous`.

        Raises:
            AmpguardError: W&B has no credentials here, or the user's run was finished.
            Exception: Whatever W&B raises.
        """
        described = {key: value for key, value in facts.items() if key not in ("name", "tags", "group")}
        if self._run is None:
            self._run = self._begin(facts, previous)
        run = self._alive()
        run.define_metric(STEP, hidden=True)
        run.config.update(described if self._theirs is None else {"ampguard": described}, allow_val_change=True)
        if self._theirs is not None:
            run.tags = tuple(dict.fromkeys([*(run.tags or ()), *_tags(facts)]))
            return {}
        where = {"path": run.settings.sync_dir} if run.offline else {"url": run.url}
        found = {"run": run.id, "project": run.project, "entity": run.entity, **where}
        return {key: value for key, value in found.items() if value}

    def _begin(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Any:
        """Begin a run of our own; it leaves `wandb.run` alone, prints nothing and asks nothing."""
        self._check_credentials()
        own_folder = None if os.environ.get("WANDB_DIR") else str(self.run_dir)
        return self._wandb.init(
            id=previous.get("run"),
            resume="allow" if previous else None,
            project=previous.get("project") or os.environ.get("WANDB_PROJECT") or _project(facts["task"]["name"]),
            entity=previous.get("entity"),
            name=str(facts["name"])[:MAX_NAME],
            group=str(facts["group"])[:MAX_NAME] if "group" in facts else None,
            tags=_tags(facts),
            dir=own_folder,
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True, console="off", finish_timeout=FINISH_TIMEOUT_S, finish_timeout_raises=True
            ),
        )

    def _check_credentials(self) -> None:
        """Refuse a run that W&B would ask credentials for: a thread that waits for stdin waits forever."""
        mode = self._wandb.setup().settings.mode
        if mode not in ("offline", "dryrun", "disabled") and not self._wandb.login(prompt=False):
            raise AmpguardError(
                "Weights & Biases has no credentials on this machine.",
                hint="Run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline.",
            )

    def held(self) -> int | None:
        """Return None: what W&B has sent is not told; what it was given, it keeps in its own file."""
        return None

    def _log(self, row: Row) -> None:
        self._send(int(row["step"]), {key: value for key, value in row.items() if key != "step"})

    def event(self, row: Mapping[str, Any]) -> None:
        """Send one event: 1 as `event/<kind>` at its step, and its message as text beside it."""
        name = f"event/{row['event']}"
        self._send(row["step"], {name: 1, f"{name}_message": str(row.get("message", ""))})

    def _send(self, step: int, metrics: Mapping[str, Any]) -> None:
        run = self._alive()
        for name in metrics.keys() - self._defined:
            run.define_metric(name, step_metric=STEP)
            self._defined.add(name)
        run.log({**metrics, STEP: step})

    def _alive(self) -> Any:
        """Return the run.

        Raises:
            AmpguardError: The user's run, which we relied on, is not the active one any more; or ours never began.
        """
        if self._run is None:
            raise AmpguardError("the W&B run has not begun.")
        if self._theirs is not None and self._wandb.run is not self._theirs:
            raise AmpguardError(
                f"the W&B run {self._theirs.id!r}, which was active before training, was finished meanwhile.",
                hint="Finish it after training, or replay the rows later: ampguard track RUN --to wandb.",
            )
        return self._run

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary and finish a run of our own.

        Args:
            summary: The record of the run, plain JSON values.

        Raises:
            TimeoutError: W&B had not uploaded everything in time; the rest stands on the disk, for `wandb sync`.
        """
        run = self._alive()
        if self._theirs is not None:
            run.summary.update({"ampguard": dict(summary)})
            return
        run.summary.update(dict(summary))
        status = summary.get("status")
        if status == "preempted":
            run.mark_preempting()
        run.finish(exit_code=0 if status in ("finished", "stopped_early") else 1)


def _tags(facts: Mapping[str, Any]) -> list[str]:
    """Return the tags as W&B takes them: each once, none empty, none too long."""
    given: Iterable[Any] = facts.get("tags", ())
    return list(dict.fromkeys(str(tag)[:MAX_TAG] for tag in given if str(tag)))


def _project(task: str) -> str:
    """Return a W&B project's name: the Task's, without the characters that W&B refuses in one."""
    return re.sub(r"[/\\#?%:]+", "-", task)[:MAX_NAME] or "ampguard"
