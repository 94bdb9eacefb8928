"""The contract of a tracker, as tests that any tracker inherits.

A tracker of your own is tested by a subclass that says how to make it and how to read back what its service holds:

    from ampguard.testing import ReadBack, TrackerContract

    class TestMyTracker(TrackerContract):
        def make(self, run_dir):
            return MyTracker(run_dir)

        def read_back(self, run_dir):
            return ReadBack(runs=1, points={"train/loss": [(1, 0.5)], ...}, ...)

`read_back` should read by another way than the tracker wrote: the service's own reader, its file, its database. What a
service cannot hold is said by the class attributes, not by leaving tests out.

Everything after the constructor is called from a second thread, as delivery does it.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ampguard.records import Event
from ampguard.tracking import Row, Tracker

T = TypeVar("T")

FACTS: Mapping[str, Any] = {
    "name": "text-1",
    "tags": ["text", "bf16-mixed", "CPU"],
    "task": {"name": "text", "origin": "text"},
    "config": {"lr": 0.001, "steps": 200, "override": {"lm_head": "fp32"}, "out": None, "track": ["jsonl"]},
    "precision": {"requested": "auto", "granted": "bf16-mixed", "reason": "native bf16 on this CPU"},
    "device": "CPU",
    "versions": {"python": "3.12"},
}
"""What a tracker is started with."""

SUMMARY: Mapping[str, Any] = {
    "status": "finished",
    "steps": {"attempted": 30, "applied": 29, "skipped": 1},
    "final": {"train/loss": 0.125},
    "loss_scale": 32768.0,
    "resumed_from": None,
}
"""What it is finished with: a part of a RunRecord."""

ROWS: Sequence[Row] = [
    {"step": 10, "train/loss": 0.1 + 0.2, "train/lr": 1e-3, "amp/applied_steps": 10},
    {"step": 20, "train/loss": 2.0**-20, "amp/loss_scale": 65536.0, "amp/applied_steps": 20},
    {"step": 30, "train/loss": 0.125, "train/lr": 5e-4, "amp/applied_steps": 29, "val/loss": -1.5},
]
"""Rows with gaps, values that float32 rounds, and metrics that come and go."""

SKIP = Event(kind="skip", step=17, message="gradient overflow: träge", data={"loss_scale": 65536.0}).as_dict()
"""An event that is told after the rows of higher steps."""

NAMES = ("läuft-日本", "a/b\\c:d?e#f%g", "x" * 600, " spaced  out ", "..")
"""Names of runs that people, folders and other systems give."""


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What a service holds of one run folder, as its reader finds it."""

    runs: int
    """Runs that the service knows: 1, however often the run was resumed."""
    points: Mapping[str, Sequence[tuple[int, float]]]
    """(step, value) of each metric, in the order of the service; events under `event/<kind>`."""
    facts: str = ""
    """Config, precision and device, as one text in whatever form; searched for names and values."""
    tags: Sequence[str] = ()
    """Tags; or one text that holds them."""
    summary: str = ""
    """The summary, as one text in whatever form."""
    texts: Sequence[str] = field(default_factory=list)
    """Messages of events."""


class TrackerContract(ABC):
    """Tests that every tracker passes; see the module for how to inherit them."""

    float_bits: ClassVar[int] = 64
    """64, or 32 for a service that keeps single precision."""
    keeps_tags: ClassVar[bool] = True
    """False for a service that has no tags; what they say stands in the facts all the same."""
    keeps_text: ClassVar[bool] = True
    """False for a service that has no place for an event's message."""

    @abstractmethod
    def make(self, run_dir: Path) -> Tracker:
        """Return a new tracker for the run in `run_dir`, as a new process would make it."""

    @abstractmethod
    def read_back(self, run_dir: Path) -> ReadBack:
        """Return what the service holds of the run in `run_dir`; called after `finish`."""

    def test_every_row_arrives_once_with_its_step_and_value(self, tmp_path: Path) -> None:
        """No row is lost, doubled, rounded beyond the service's own width, or moved to another step."""
        self._run(tmp_path, rows=ROWS)
        sent = self.read_back(tmp_path)
        for name, points in _points(ROWS).items():
            expected = [(step, self._kept(value)) for step, value in points]
            assert sorted(sent.points.get(name, ())) == expected, f"{name}: {sent.points.get(name)} != {expected}"

    def test_no_metric_arrives_that_was_not_in_a_row(self, tmp_path: Path) -> None:
        """Names of rows and events are what they were; a tracker may add its own step metric and nothing else."""
        self._run(tmp_path, rows=ROWS, events=[SKIP])
        extra = set(self.read_back(tmp_path).points) - set(_points(ROWS)) - {"event/skip", "amp/step"}
        assert not extra, f"metrics from nowhere: {sorted(extra)}"

    def test_an_event_stands_at_its_own_step_though_it_comes_late(self, tmp_path: Path) -> None:
        """A skip at step 17 that is told after the row of step 30 stands at 17, and takes no row with it."""
        self._run(tmp_path, rows=ROWS, events=[SKIP], then=[{"step": 40, "train/loss": 1.0}])
        sent = self.read_back(tmp_path)
        assert list(sent.points.get("event/skip", ())) == [(17, 1.0)], sent.points.get("event/skip")
        assert [step for step, _ in sent.points["train/loss"]] == [10, 20, 30, 40], sent.points["train/loss"]
        if self.keeps_text:
            assert any(SKIP["message"] in text for text in sent.texts), sent.texts

    def test_config_device_and_precision_decision_arrive(self, tmp_path: Path) -> None:
        """What a person compares runs by is there, with requested, granted and reason."""
        self._run(tmp_path, rows=ROWS)
        facts = self.read_back(tmp_path).facts
        for value in ("lr", "0.001", "lm_head", "auto", "bf16-mixed", "native bf16 on this CPU", "CPU"):
            assert value in facts, f"{value!r} is not in {facts}"

    def test_tags_arrive(self, tmp_path: Path) -> None:
        """Every tag is there."""
        self._run(tmp_path, rows=ROWS)
        sent = self.read_back(tmp_path)
        where = " ".join(sent.tags) if self.keeps_tags else sent.facts
        assert all(tag in where for tag in FACTS["tags"]), where

    def test_the_summary_arrives_at_the_end(self, tmp_path: Path) -> None:
        """Status and what is not a metric are there."""
        self._run(tmp_path, rows=ROWS)
        summary = self.read_back(tmp_path).summary
        for value in ("finished", "attempted", "32768"):
            assert value in summary, f"{value!r} is not in {summary}"

    def test_a_run_without_a_row_ends_too(self, tmp_path: Path) -> None:
        """A run that failed before its first row, and one that left no summary, are finished like any other."""
        self._run(tmp_path / "failed", rows=[], summary={**SUMMARY, "status": "failed", "final": {}})
        self._run(tmp_path / "killed", rows=[], summary={})

    def test_a_resumed_run_goes_on_in_the_same_run(self, tmp_path: Path) -> None:
        """A second tracker, given what the first one's `start` returned, begins no second run."""
        previous = self._run(tmp_path, rows=ROWS[:2], summary={**SUMMARY, "status": "interrupted"})
        self._run(tmp_path, rows=ROWS[2:], previous=previous)
        sent = self.read_back(tmp_path)
        assert sent.runs == 1, f"{sent.runs} runs"
        assert [step for step, _ in sent.points["train/loss"]] == [10, 20, 30], sent.points["train/loss"]

    def test_what_it_says_to_hold_it_holds(self, tmp_path: Path) -> None:
        """`held` is 0 before the first row and the last row's step after it, events apart; or always None."""
        tracker = self.make(tmp_path)
        previous = _in_a_thread(lambda: tracker.start(FACTS, {}))
        first = _in_a_thread(tracker.held)
        assert first in (0, None), first
        _in_a_thread(lambda: tracker.log(ROWS[0]))
        _in_a_thread(lambda: tracker.event({**SKIP, "step": 99}))
        _in_a_thread(lambda: tracker.finish({**SUMMARY, "status": "interrupted"}))
        again = self.make(tmp_path)
        _in_a_thread(lambda: again.start(FACTS, previous))
        held = _in_a_thread(again.held)
        assert held == (None if first is None else 10), held
        _in_a_thread(lambda: again.finish(SUMMARY))

    def test_start_may_be_called_again(self, tmp_path: Path) -> None:
        """After an outage at the start, `start` is called again: still one run."""
        tracker = self.make(tmp_path)
        _in_a_thread(lambda: tracker.start(FACTS, {}))
        _in_a_thread(lambda: tracker.start(FACTS, {}))
        self._send(tracker, rows=ROWS)
        sent = self.read_back(tmp_path)
        assert sent.runs == 1, f"{sent.runs} runs"
        assert [step for step, _ in sent.points["train/loss"]] == [10, 20, 30], sent.points["train/loss"]

    def test_any_name_of_a_run_works(self, tmp_path: Path) -> None:
        """Names beyond ASCII, with slashes, very long ones: rows arrive."""
        for number, name in enumerate(NAMES):
            run_dir = tmp_path / str(number)
            self._run(run_dir, rows=ROWS, facts={**FACTS, "name": name, "tags": [name, "", "CPU"]})
            assert len(self.read_back(run_dir).points["train/loss"]) == len(ROWS), name

    def test_any_name_of_a_task_works(self, tmp_path: Path) -> None:
        """The Task's name may become a project or an experiment."""
        for number, name in enumerate(NAMES):
            run_dir = tmp_path / str(number)
            self._run(run_dir, rows=ROWS, facts={**FACTS, "task": {"name": name}})
            assert len(self.read_back(run_dir).points["train/loss"]) == len(ROWS), name

    def test_a_large_config_is_cut_and_not_refused(self, tmp_path: Path) -> None:
        """Services limit names and values; a config and a summary beyond the limits cost no run."""
        large = {f"option_{number}": number for number in range(250)} | {"long": "x" * 20_000, "k" * 400: [1] * 3000}
        self._run(tmp_path, rows=ROWS, facts={**FACTS, "config": large}, summary={**SUMMARY, "info": large})
        assert len(self.read_back(tmp_path).points["train/loss"]) == len(ROWS)

    def test_making_it_writes_nothing(self, tmp_path: Path) -> None:
        """The run folder need not exist when the tracker is made, and does not come into being by it."""
        self.make(tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_stdout_stays_empty(self, tmp_path: Path, capfd: Any) -> None:
        """Only JSON stands on stdout, and that is the command's."""
        self._run(tmp_path, rows=ROWS, events=[SKIP])
        out = capfd.readouterr().out
        assert not out, f"stdout got {out!r}"

    def _run(
        self,
        run_dir: Path,
        *,
        rows: Sequence[Row],
        events: Sequence[Mapping[str, Any]] = (),
        then: Sequence[Row] = (),
        facts: Mapping[str, Any] = FACTS,
        previous: Mapping[str, str] | None = None,
        summary: Mapping[str, Any] = SUMMARY,
    ) -> Mapping[str, str]:
        """Send a whole run and return what its `start` returned."""
        run_dir.mkdir(parents=True, exist_ok=True)
        tracker = self.make(run_dir)
        found = _in_a_thread(lambda: tracker.start(facts, previous or {}))
        self._send(tracker, rows=rows, events=events, then=then, summary=summary)
        return found

    def _send(
        self,
        tracker: Tracker,
        *,
        rows: Sequence[Row],
        events: Sequence[Mapping[str, Any]] = (),
        then: Sequence[Row] = (),
        summary: Mapping[str, Any] = SUMMARY,
    ) -> None:
        def send() -> None:
            for row in rows:
                tracker.log(row)
            for event in events:
                tracker.event(event)
            for row in then:
                tracker.log(row)
            tracker.finish(summary)

        _in_a_thread(send)

    def _kept(self, value: float) -> float:
        """Return `value` as the service can hold it."""
        return float(value) if self.float_bits == 64 else float(struct.unpack("f", struct.pack("f", value))[0])


def _points(rows: Sequence[Row]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each metric in `rows`."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name in row.keys() - {"step"}:
            points.setdefault(name, []).append((int(row["step"]), row[name]))
    return points


def _in_a_thread(call: Callable[[], T]) -> T:
    """Return `call()` from a thread of its own, or raise what it raised."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()
