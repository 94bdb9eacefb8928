"""Which steps leave a replay bundle, and what it tells: the first step of each streak that is no ordinary skip.

A skip is ordinary where the loss scale is looking for its place: fp16, and a finite loss. Any other skipped step, a
loss that is not finite, and each collapse are wanted. They are noted when the guard reads them, and written at the next
step boundary, or when the collapse ends the run: nothing is written in the middle of a step.

Where no step was applied since, the weights still are those of the step, and a checkpoint of them is kept in the
bundle, or where that is too large, with the run's own. Else the newest older checkpoint is kept or named, from which
the steps in between can be run again.

A bundle never costs the run its life: a disk that fails costs an event and a WARNING.
"""

import logging
import shlex
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ampguard.checkpointing import CheckpointStore
from ampguard.engine import Guard
from ampguard.errors import CheckpointError
from ampguard.health.bundle import BUNDLE, bundle_name, keep_files, write_bundle
from ampguard.records import Event
from ampguard.training.replay_ring import MOST_STEPS, Attempt, ReplayRing

log = logging.getLogger("ampguard.training")

FOLDER = "replay"
"""Where a run's bundles stand in its folder."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may spend on bundles."""

    bundles: int = 5
    """Bundles in a run, earlier parts of a resumed one included; 0: none."""
    nbytes: int = 64 * 2**20
    """Most bytes of a bundle's batch and checkpoint together."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A step that is to leave a bundle, with what held when the guard told of it."""

    event: Event
    facts: Mapping[str, Any]
    applied: int | None
    """Applied steps before it: as long as there are no more, the run stands as it stood. None: nobody told."""


class Recorder:
    """Writes a run's replay bundles.

    Args:
        ring: What the last steps began with.
        guard: Of the run.
        store: The run's checkpoints.
        facts: What holds for all of its bundles: task, config, device.
        versions: Returns what the run was made with; asked for when a bundle is written.
        limits: What may be spent.
    """

    def __init__(
        self,
        ring: ReplayRing,
        guard: Guard,
        store: CheckpointStore,
        *,
        facts: Mapping[str, Any],
        versions: Callable[[], Mapping[str, str]],
        limits: Limits,
    ) -> None:
        self.ring, self._guard, self._store = ring, guard, store
        self._folder = store.folder.parent / FOLDER
        self._facts, self._versions, self._limits = facts, versions, limits
        self._wanted: dict[int, Wanted] = {}
        self._skips: deque[Event] = deque(maxlen=MOST_STEPS)
        self._streak_told = 0
        """The first step of the last streak that left a bundle."""
        self._written: list[Path] = []

    @property
    def wanted(self) -> bool:
        """Whether a step waits for its bundle."""
        return bool(self._wanted)

    @property
    def last(self) -> Path | None:
        """The bundle that was written last by this process."""
        return self._written[-1] if self._written else None

    def note(self, event: Event) -> None:
        """Hear of an event of the run."""
        if event.kind == "skip":
            self._skips.append(event)
            if not self._guard.decision.policy.scaled:
                self._want(event)
        elif event.kind == "nonfinite" and self._skip_of(event.step) is not None and "replayed" not in event.data:
            # Told as `nonfinite`, too: a metric that was not finite, of a step that was applied; and what a second look
            # at a collapse found, whose step is wanted already.
            self._want(event)
        elif event.kind == "collapse":
            self._wanted.setdefault(event.step, self._described(event))

    def _want(self, event: Event) -> None:
        skip = self._skip_of(event.step) or event
        first = event.step - int(skip.data.get("skip_streak", 1)) + 1
        if first == self._streak_told and event.step not in self._wanted:
            return
        self._streak_told = first
        self._wanted[event.step] = self._described(event)

    def _described(self, event: Event) -> Wanted:
        """Keep what a fallback may change before the bundle is written."""
        skip, guard = self._skip_of(event.step), self._guard
        data = {} if skip is None else skip.data
        facts = {
            "precision": vars(guard.first_decision.record()),
            "fallbacks": [fallback.as_dict() for fallback in guard.fallbacks],
            "overrides": {glob: str(precision) for glob, precision in guard.config.overrides.items()},
            "loss_scale": data.get("loss_scale"),
        }
        return Wanted(event=event, facts=facts, applied=data.get("applied_steps"))

    def _skip_of(self, step: int) -> Event | None:
        return next((skip for skip in reversed(self._skips) if skip.step == step), None)

    def leave(self, live: Callable[[], dict[str, Any]], save: Callable[[], Path | None]) -> list[Event]:
        """Write the bundles that are wanted; return the events that tell of them.

        Args:
            live: Returns the run's state as it stands, as `collect` does.
            save: Makes sure that the run has a checkpoint of it, and returns that; None: the disk failed.

        Sync: reads the guard's counters; copies batches.
        """
        events: list[Event] = []
        while self._wanted:
            step = min(self._wanted)
            wanted = self._wanted.pop(step)
            events += self._leave_one(step, wanted, _Keeper(step, wanted.applied, self._store, live, save))
        return events

    def _leave_one(self, step: int, wanted: Wanted, keeper: "_Keeper") -> list[Event]:
        attempt, name = self.ring.attempt(step), bundle_name(step)
        standing = [file.parent.name for file in self._folder.glob(f"step-*/{BUNDLE}")]
        if attempt is None or name in standing or len(standing) >= self._limits.bundles:
            return []
        facts = {**self._facts, **wanted.facts, **_told_of(attempt, wanted.event, self._guard)}
        try:
            path = write_bundle(
                self._folder,
                {**facts, "versions": dict(self._versions())},
                lambda: self.ring.rebuild(step),
                state=keeper,
                limit_bytes=self._limits.nbytes,
            )
        except (OSError, ValueError, CheckpointError) as error:
            # ValueError: a number that JSON has not, in an option of the user's Task.
            log.warning("the replay bundle of step %d could not be written: %s", step, error)
            return [Event(kind="replay_failed", step=step, message=str(error))]
        self._written.append(path)
        data = {"bundle": f"{FOLDER}/{name}", "cause": wanted.event.kind}
        return [Event(kind="replay", step=step, message=replay_command(path), data=data)]


def replay_command(bundle: Path) -> str:
    """Return the command that runs a bundle's step again."""
    return f"ampguard doctor replay {shlex.quote(str(bundle))}"


class _Keeper:
    """Sees to it that a step's weights are to be had, and tells where.

    Args:
        step: The step that was not finite.
        applied: Applied steps before it.
        store: The run's checkpoints.
        live: As in `Recorder.leave`.
        save: As in `Recorder.leave`.
    """

    def __init__(
        self,
        step: int,
        applied: int | None,
        store: CheckpointStore,
        live: Callable[[], dict[str, Any]],
        save: Callable[[], Path | None],
    ) -> None:
        self._step, self._applied, self._store, self._live, self._save = step, applied, store, live, save

    def __call__(self, folder: Path, room_bytes: int) -> dict[str, Any]:
        """Keep a checkpoint in `folder`, if it fits into `room_bytes`; return what to tell of it."""
        state = self._live()
        if state["guard"]["tally"]["applied"] == self._applied:
            # No step was applied since: the run still stands as it stood before the step.
            return self._keep_live(state, folder, room_bytes)
        return self._keep_older(folder, room_bytes)

    def _keep_live(self, state: dict[str, Any], folder: Path, room_bytes: int) -> dict[str, Any]:
        step = state["progress"]["step"]
        fits = _nbytes(state) <= room_bytes
        if fits:
            CheckpointStore(folder).save(step, state)
        elif self._save() is None:
            return self._keep_older(folder, room_bytes)
        return {"checkpoint": bundle_name(step), "step": step, "exact": True, "steps_between": 0, "kept": fits}

    def _keep_older(self, folder: Path, room_bytes: int) -> dict[str, Any]:
        older = max((there for there in self._store.steps() if there < self._step), default=0)
        path = self._store.folder / bundle_name(older)
        # Step 0 has no checkpoint: the seed gives the first weights.
        there = older > 0 and path.is_dir()
        between = self._step - 1 - older
        told = {"checkpoint": path.name if there else None, "step": older, "exact": between == 0}
        return {**told, "steps_between": between, "kept": there and keep_files(path, folder, room_bytes)}


def _nbytes(state: Any) -> int:
    """Return the bytes of all tensors of a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    children = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_nbytes, children))


def _told_of(attempt: Attempt, event: Event, guard: Guard) -> dict[str, Any]:
    return {
        "step": attempt.step,
        "epoch": attempt.epoch,
        "position": attempt.position,
        "event": event.as_dict(),
        "threads": torch.get_num_threads(),
        "rng": attempt.rng.as_dict(guard.device),
    }
