"""The suite passes a good tracker and fails each kind of bad one."""

import json
import math

import pytest

from ampguard.testing import ReadBack, TrackerContract
from ampguard.tracking import Tracker


class Memory(Tracker):
    """A good tracker: a service in memory that numbers its runs."""

    service = None

    def start(self, facts, previous):
        run = previous.get("run") or getattr(self, "run", None) or f"{self.run_dir}-{len(self.service)}"
        self.run = run
        self.kept = self.service.setdefault(run, {"points": {}, "texts": [], "held": 0, "summary": {}})
        self.kept |= {"facts": json.dumps(facts), "tags": list(facts["tags"]), "dir": self.run_dir}
        return {"run": run}

    def held(self):
        return self.kept["held"]

    def _log(self, row):
        for key, value in row.items():
            if key != "step":
                self.point(key, row["step"], value)
        self.kept["held"] = row["step"]

    def point(self, key, step, value):
        self.kept["points"].setdefault(key, []).append((step, value))

    def event(self, row):
        self.point(f"event/{row['event']}", row["step"], 1.0)
        self.kept["texts"].append(row["message"])

    def finish(self, summary):
        self.kept["summary"] = dict(summary)


class MemoryContract(TrackerContract):
    tracker = Memory

    @pytest.fixture(autouse=True)
    def place(self, monkeypatch):
        self.service = {}
        monkeypatch.setattr(Memory, "service", self.service)

    def make(self, run_dir):
        return self.tracker(run_dir)

    def read_back(self, run_dir):
        runs = [kept for kept in self.service.values() if kept["dir"] == run_dir]
        first = runs[0]
        return ReadBack(
            runs=len(runs),
            points=first["points"],
            facts=first["facts"],
            tags=first["tags"],
            summary=json.dumps(first["summary"]),
            texts=first["texts"],
        )


class TestAGoodTracker(MemoryContract):
    pass


class Rounds(Memory):
    def point(self, key, step, value):
        super().point(key, step, round(value, 6))


class Doubles(Memory):
    def point(self, key, step, value):
        super().point(key, step, value)
        super().point(key, step, value)


class LosesAMetric(Memory):
    def point(self, key, step, value):
        if key != "val/loss":
            super().point(key, step, value)


class DropsWhatComesLate(Memory):
    """As W&B does with a `step` behind its counter."""

    def point(self, key, step, value):
        if step >= self.kept["held"]:
            super().point(key, step, value)


class MovesEvents(Memory):
    def event(self, row):
        super().event({**row, "step": max(row["step"], self.kept["held"])})


class HasAMetricOfItsOwn(Memory):
    def _log(self, row):
        super()._log({**row, "step_again": row["step"]})


class ForgetsThePrecision(Memory):
    def start(self, facts, previous):
        return super().start({**facts, "precision": {}, "tags": facts["tags"]}, previous)


class ForgetsTags(Memory):
    def start(self, facts, previous):
        return super().start({**facts, "tags": facts["tags"][:1]}, previous)


class ForgetsTheSummary(Memory):
    def finish(self, summary):
        pass


class NeedsAStatus(Memory):
    def finish(self, summary):
        super().finish({**summary, "status": summary["status"]})


class BeginsAnew(Memory):
    def start(self, facts, previous):
        return super().start(facts, {})


class CountsEventsAsHeld(Memory):
    def event(self, row):
        super().event(row)
        self.kept["held"] = max(self.kept["held"], row["step"])


class BeginsTwice(Memory):
    def start(self, facts, previous):
        self.run = None
        return super().start(facts, previous)


class RefusesNames(Memory):
    def start(self, facts, previous):
        facts["name"].encode("ascii")
        return super().start(facts, previous)


class RefusesTasks(Memory):
    def start(self, facts, previous):
        if "/" in facts["task"]["name"]:
            raise ValueError(facts["task"]["name"])
        return super().start(facts, previous)


class RefusesLongValues(Memory):
    def start(self, facts, previous):
        if any(len(str(value)) > 6000 for value in facts["config"].values()):
            raise ValueError("too long")
        return super().start(facts, previous)


class WritesWhenMade(Memory):
    def __init__(self, run_dir):
        super().__init__(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)


class Prints(Memory):
    def finish(self, summary):
        super().finish(summary)
        print("View your run")


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (Rounds, "test_every_row_arrives_once_with_its_step_and_value"),
        (Doubles, "test_every_row_arrives_once_with_its_step_and_value"),
        (LosesAMetric, "test_every_row_arrives_once_with_its_step_and_value"),
        (DropsWhatComesLate, "test_an_event_stands_at_its_own_step_though_it_comes_late"),
        (MovesEvents, "test_an_event_stands_at_its_own_step_though_it_comes_late"),
        (HasAMetricOfItsOwn, "test_no_metric_arrives_that_was_not_in_a_row"),
        (ForgetsThePrecision, "test_config_device_and_precision_decision_arrive"),
        (ForgetsTags, "test_tags_arrive"),
        (ForgetsTheSummary, "test_the_summary_arrives_at_the_end"),
        (NeedsAStatus, "test_a_run_without_a_row_ends_too"),
        (BeginsAnew, "test_a_resumed_run_goes_on_in_the_same_run"),
        (CountsEventsAsHeld, "test_what_it_says_to_hold_it_holds"),
        (BeginsTwice, "test_start_may_be_called_again"),
        (RefusesNames, "test_any_name_of_a_run_works"),
        (RefusesTasks, "test_any_name_of_a_task_works"),
        (RefusesLongValues, "test_a_large_config_is_cut_and_not_refused"),
        (WritesWhenMade, "test_making_it_writes_nothing"),
        (Prints, "test_stdout_stays_empty"),
    ],
)
def test_a_bad_tracker_fails(bad, test, tmp_path, capfd, monkeypatch):
    class Suite(MemoryContract):
        tracker = bad

    suite = Suite()
    suite.service = {}
    monkeypatch.setattr(Memory, "service", suite.service)
    given = {"tmp_path": tmp_path, **({"capfd": capfd} if "stdout" in test else {})}
    with pytest.raises((AssertionError, ValueError, KeyError)):
        getattr(suite, test)(**given)


def test_every_test_of_the_suite_has_a_tracker_that_fails_it():
    (mark,) = test_a_bad_tracker_fails.pytestmark
    failed = {test for _, test in mark.args[1]}
    assert failed == {name for name in dir(TrackerContract) if name.startswith("test_")}


def test_single_precision_is_told_by_the_suite():
    class Single(MemoryContract):
        float_bits = 32

    assert Single()._kept(0.1) != 0.1
    assert math.isclose(Single()._kept(0.1), 0.1, rel_tol=2**-24)
