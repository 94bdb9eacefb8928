"""The whole bench on a Task of some hundred weights: what fails, what lacks, what is interrupted."""

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import ampguard
from ampguard.benchmarking import parity_runs
from ampguard.benchmarking.watch import SilentWatch
from ampguard.errors import ConfigError, RunError, RunFolderError, TaskError

pytestmark = pytest.mark.usefixtures("no_memory")


@pytest.fixture(autouse=True)
def as_if_native(monkeypatch):
    """Whether this machine emulates bf16 decides nothing here."""
    monkeypatch.setattr("ampguard.benchmarking.race.EMULATED_SHARE", 1e9)
    monkeypatch.setattr(parity_runs, "SLOW", 1e9)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """A shell that starts tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def valid(report):
    """Return bench.json, read as JSON that knows no NaN."""
    text = (Path(report.out) / "bench.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_bench_measures_compares_and_says_what_to_use(build, quick):
    report = ampguard.bench(build(), **quick)
    base, half = report.trials
    assert (base.status, half.status) == ("ok", "ok")
    assert base.speedup.median == 1.0
    assert half.step_ms.n == len(half.samples_ms) == 10
    assert half.speedup.ci95[0] <= half.speedup.median <= half.speedup.ci95[1]
    assert half.samples_per_s > 0
    assert half.memory_reduction_pct == 0.0
    assert (half.parity.seeds, half.parity.steps, half.parity.metric) == (3, 5, "val/loss")
    assert half.parity.result in ("equivalent", "different", "inconclusive")
    assert base.parity.reason == "fp32 is what the others are compared with"
    assert base.parity.baseline_spread > 0
    assert "no memory limit was given" in half.reasons["largest_micro_batch"]
    assert report.recommendation.precision in ("fp32", "bf16-mixed")
    assert report.status == "finished"
    assert valid(report)["trials"][1]["samples_ms"] == list(half.samples_ms)
    assert not list(quick["out"].rglob("checkpoints")), "checkpoints of finished parity runs only take room"


def test_without_validation_data_accuracy_is_not_measured_with_the_reason(build, quick):
    report = ampguard.bench(build(validation=False), **quick)
    parity = report.trial("bf16-mixed").parity
    assert (parity.result, parity.reason) == ("not_measured", "the Task has no validation data")
    assert parity.difference is None
    assert report.trial("bf16-mixed").targets.accuracy_stable is None
    valid(report)


def test_data_that_can_be_read_only_once_is_raced_on_and_not_trained_on(build, quick):
    task = build()
    once = (batch for batch in [task.train_data[:16]] * 8)
    report = ampguard.bench(replace(task, train_data=once), **quick)
    half = report.trial("bf16-mixed")
    assert (half.status, half.step_ms.n) == ("ok", 10)
    assert half.parity.reason == "train_data can be read only once, and every run would read it"


def test_the_training_loss_is_compared_where_it_is_asked_for(build, quick):
    report = ampguard.bench(build(validation=False), metric="train/loss", **quick)
    assert report.trial("bf16-mixed").parity.metric == "train/loss"
    assert report.trial("bf16-mixed").parity.seeds == 3


def test_one_seed_is_not_measured_with_the_reason(build, quick):
    report = ampguard.bench(build(), **quick | {"seeds": 1})
    parity = report.trial("bf16-mixed").parity
    assert (parity.result, parity.seeds, parity.seeds_needed) == ("not_measured", 1, 3)
    assert parity.reason == "a verdict needs 3 seeds, and there are 1"
    valid(report)


def test_a_baseline_metric_of_exactly_0_is_not_measured_with_the_reason(build, quick):
    report = ampguard.bench(build(perfect=True), **quick)
    parity = report.trial("bf16-mixed").parity
    assert parity.result == "not_measured"
    assert "val/loss is 0" in parity.reason
    valid(report)


def test_a_metric_that_the_runs_lack_is_not_measured_and_those_they_have_are_named(build, quick):
    parity = ampguard.bench(build(), metric="val/f1", **quick).trial("bf16-mixed").parity
    assert parity.result == "not_measured"
    assert "no 'val/f1', but" in parity.reason
    assert "val/loss" in parity.reason


@pytest.mark.parametrize(
    ("fault", "reason"), [("oom", "out of memory: tried"), ("raise", "ValueError: the user's own mistake")]
)
def test_a_trial_that_fails_is_failed_with_the_reason_and_the_others_go_on(build, quick, fault, reason):
    report = ampguard.bench(build(half=fault), **quick)
    half = report.trial("bf16-mixed")
    assert half.status == "failed"
    assert half.reason.startswith(reason)
    assert (half.speedup.median, half.step_ms.median, half.peak_memory_mib) == (None, None, None)
    assert half.reasons["speedup"]
    assert half.parity.reason.startswith("it failed: ")
    assert report.trial("fp32").step_ms.n == 10
    assert report.recommendation.precision == "fp32"
    assert "bf16-mixed failed" in report.recommendation.why
    valid(report)


def test_a_trial_that_is_not_finite_is_failed_with_the_module_that_did_it(build, quick):
    report = ampguard.bench(build(overflow=True), **quick)
    half = report.trial("bf16-mixed")
    assert half.status == "failed"
    assert "module '1'" in half.reason
    assert half.skipped_steps > 0
    assert report.trial("fp32").status == "ok"
    valid(report)


def test_a_baseline_that_fails_leaves_the_others_without_ratios(build, quick):
    report = ampguard.bench(build(half="oom"), **quick | {"baseline": "bf16", "precisions": ("fp32",)})
    single = report.trial("fp32")
    assert report.trial("bf16-mixed").status == "failed"
    assert report.trial("bf16-mixed").speedup.median is None
    assert single.step_ms.n == 10
    assert single.speedup.median is None
    assert single.reasons["speedup"] == "the baseline bf16-mixed failed"
    assert single.parity.reason == "the baseline bf16-mixed failed"
    assert report.recommendation.precision == "fp32"
    valid(report)


def test_where_every_precision_fails_there_is_no_report_but_an_error_with_all_reasons(build, quick):
    with pytest.raises(RunError, match=r"fp32: out of memory: .*; bf16-mixed: out of memory") as error:
        ampguard.bench(build(every="oom"), **quick)
    assert "ampguard.train(task, precision='fp32', steps=10)" in error.value.hint


def test_a_clock_that_stands_still_gives_no_ratio_and_no_exception(build, quick, monkeypatch):
    monkeypatch.setattr("ampguard.benchmarking.contender.Contender.block", lambda self: 0.0)
    report = ampguard.bench(build(), **quick)
    half = report.trial("bf16-mixed")
    assert half.step_ms.median == 0.0
    assert (half.speedup.median, half.speedup.ci95, half.samples_per_s) == (None, None, None)
    assert "the clock does not tell" in half.reasons["speedup"]
    assert "the clock does not tell" in half.reasons["samples_per_s"]
    valid(report)


@pytest.mark.parametrize(("peak", "reason"), [(0.0, "took no memory that shows"), (None, "is not known")])
def test_memory_of_0_or_unknown_gives_no_reduction(build, quick, monkeypatch, peak, reason):
    from ampguard.benchmarking.footprint import Footprint
    from ampguard.benchmarking.report import Memory

    def found(job, *, timeout_s):
        mib = peak if job.decision.granted == "fp32" else 5.0
        return Footprint(peak=mib, parts=Memory(), reason="" if mib else "nobody tells")

    monkeypatch.setattr("ampguard.benchmarking.memory.footprint", found)
    report = ampguard.bench(build(validation=False), **quick)
    assert report.trial("bf16-mixed").memory_reduction_pct is None
    assert reason in report.trial("bf16-mixed").reasons["memory_reduction_pct"]
    assert report.trial("bf16-mixed").targets.memory_reduction_40pct is None
    valid(report)


def test_what_this_device_lacks_is_unsupported_and_the_rest_still_runs(build, quick):
    options = {"precisions": ("fp32", "fp16", "fp8"), "on_unsupported": "skip"}
    report = ampguard.bench(build(), **quick | options)
    assert [trial.status for trial in report.trials] == ["ok", "unsupported", "unsupported"]
    assert report.trial("fp16-mixed").reason.startswith("this CPU only emulates it")
    assert report.trial("fp8-mixed").parity.reason.startswith("it cannot run here: fp8 training needs a GPU")
    assert report.trial("fp32").parity.reason == "there is nothing to compare the baseline with"
    valid(report)


def test_too_slow_for_parity_is_said(build, quick, monkeypatch):
    monkeypatch.setattr(parity_runs, "SLOW", 1e-9)
    report = ampguard.bench(build(), **quick)
    assert report.trial("bf16-mixed").parity.result == "not_measured"
    assert report.trial("bf16-mixed").parity.reason.endswith("too slow to be trained here")


def test_what_is_required_and_not_reached_is_in_the_report(build, quick):
    report = ampguard.bench(build(validation=False), require=("bf16:speedup>=1000", "bf16:memory>=0"), **quick)
    assert len(report.unmet) == 1
    required, _, why = report.unmet[0].partition(", but ")
    assert required == "bf16-mixed: speedup>=1000 is required"
    assert why.startswith(("the interval", "the machine was too noisy"))
    assert valid(report)["unmet"] == list(report.unmet)


def test_two_benches_of_a_task_stand_beside_each_other(build, quick, tmp_path):
    options = quick | {"precisions": ("fp32",)}
    ampguard.bench(build(validation=False), **options)
    report = ampguard.bench(build(validation=False), **options | {"out": tmp_path / "new", "against": quick["out"]})
    assert report.against.differences == {}
    assert report.against.changes[0].ratio > 0
    assert valid(report)["against"]["old"] == str(quick["out"])


class InterruptAt(SilentWatch):
    """Presses Ctrl-C when a stage begins."""

    def __init__(self, stage):
        self._stage, self.stages = stage, []

    def _meet(self, name):
        self.stages.append(name)
        if name == self._stage:
            os.kill(os.getpid(), signal.SIGINT)

    def speed(self, stage, timings, blocks):
        self._meet(f"{stage} {len(next(iter(timings.blocks_s.values()), []))}")

    def stage(self, what):
        self._meet(what)

    def parity(self, precision, seed, plan):
        self._meet(f"{precision} {seed}")


@pytest.mark.parametrize(
    ("stage", "blocks", "seeds"),
    [
        ("preparing bf16-mixed 0", 0, 0),
        ("speed 4", 4, 0),
        ("memory of fp32", 10, 0),
        ("memory of bf16-mixed", 10, 0),
        ("largest micro-batch of bf16-mixed under 8 MiB", 10, 0),
        ("fp32 1", 10, 1),
        ("bf16-mixed 1", 10, 1),
    ],
)
def test_ctrl_c_in_each_stage_keeps_what_is_finished_and_resume_goes_on(build, quick, stage, blocks, seeds):
    quick |= {"memory_limit": "8MiB"}
    first = ampguard.bench(build(), watch=InterruptAt(stage), **quick)
    assert first.status == "interrupted"
    half = first.trial("bf16-mixed")
    assert (half.step_ms.n, half.parity.seeds) == (blocks, seeds)
    assert first.warnings[0].startswith("it was interrupted")
    valid(first)

    watch = InterruptAt("")
    second = ampguard.bench(build(), watch=watch, resume=True, **quick)
    assert second.status == "finished"
    assert second.trial("bf16-mixed").samples_ms[:blocks] == half.samples_ms
    assert second.trial("bf16-mixed").step_ms.n == 10
    assert second.trial("bf16-mixed").parity.seeds == 3
    assert second.trial("bf16-mixed").peak_memory_mib == 10.0
    assert second.trial("bf16-mixed").reasons["largest_micro_batch"] == "not even one sample fits"
    if stage == "memory of bf16-mixed":
        assert first.trial("fp32").peak_memory_mib == 10.0
        assert half.reasons["peak_memory_mib"] == "it was not measured"
        assert "memory of fp32" not in watch.stages
    if seeds:
        assert f"fp32 {seeds - 1}" not in watch.stages
        assert not any(name.startswith(("speed", "preparing")) for name in watch.stages)


def test_ctrl_c_inside_a_run_saves_it_and_resume_gives_the_numbers_of_a_bench_without(build, quick):
    clean = ampguard.bench(build(), **quick | {"out": quick["out"].with_name("clean")})
    task = build()

    class InThirdRun(SilentWatch):
        runs = 0

        def parity(self, precision, seed, plan):
            self.runs += 1
            if self.runs == 3:
                task.loss.interrupt_at = task.loss.calls + 3

    first = ampguard.bench(task, watch=InThirdRun(), **quick)
    assert first.status == "interrupted"
    assert (quick["out"] / "parity" / "fp32" / "seed-1" / "checkpoints").is_dir()
    second = ampguard.bench(build(), resume=True, **quick)
    assert second.trial("bf16-mixed").parity == clean.trial("bf16-mixed").parity


def test_more_seeds_may_be_asked_of_a_finished_bench(build, quick):
    ampguard.bench(build(), **quick)
    watch = InterruptAt("")
    report = ampguard.bench(build(), watch=watch, resume=True, **quick | {"seeds": 4})
    assert report.trial("bf16-mixed").parity.seeds == 4
    assert watch.stages == ["fp32 3", "bf16-mixed 3"]


def test_what_was_trained_is_judged_again_whatever_time_is_left(build, quick):
    before = ampguard.bench(build(), **quick)
    watch = InterruptAt("")
    report = ampguard.bench(build(), watch=watch, resume=True, **quick | {"budget": "1s", "seeds": 400})
    assert report.trial("bf16-mixed").parity.seeds >= 3
    assert not any(name.endswith((" 0", " 1", " 2")) for name in watch.stages)
    again = ampguard.bench(build(), resume=True, **quick)
    assert again.trial("bf16-mixed").parity == before.trial("bf16-mixed").parity


def test_resume_with_other_settings_is_refused_naming_them(build, quick):
    ampguard.bench(build(validation=False), **quick)
    with pytest.raises(ConfigError, match="batch_size was 20 and is 8"):
        ampguard.bench(build(validation=False), resume=True, **quick | {"batch_size": 8})


def test_a_folder_that_is_taken_is_refused_before_anything_is_measured(build, quick):
    quick["out"].mkdir()
    (quick["out"] / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists already") as error:
        ampguard.bench(build(), **quick)
    assert "--resume" in error.value.hint


@pytest.mark.parametrize(
    "wrong", [{"require": ("faster",)}, {"track": ("nowhere",)}, {"baseline": "fp8"}, {"precisions": ("auto",)}]
)
def test_what_cannot_work_is_refused_before_anything_is_written(build, quick, wrong):
    with pytest.raises(ConfigError):
        ampguard.bench(build(), **quick | wrong)
    assert not quick["out"].exists()


def test_what_is_no_task_is_refused():
    with pytest.raises(TaskError, match="bench got a int, not a Task"):
        ampguard.bench(3)


@pytest.fixture
def kept_logging():
    """A command takes the library's messages to stderr; the tests after it read them where they were."""
    logger = logging.getLogger("ampguard")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.usefixtures("kept_logging")
def test_trackers_get_the_figures_and_track_sends_them_later(build, quick):
    from ampguard.cli.main import run

    bad = Path(__file__).parents[1] / "faults" / "bad_trackers.py"
    report = ampguard.bench(build(validation=False), track=f"{bad}:Fine", **quick)
    lines = [json.loads(line) for line in (quick["out"] / "received.jsonl").read_text().splitlines()]
    rows = [content for kind, content in lines if kind == "row"]
    assert rows[0]["bench/bf16_mixed/speedup"] == report.trial("bf16-mixed").speedup.median
    assert lines[-1] == ["end", {"status": "finished"}]
    assert run(["track", str(quick["out"]), "--to", "tensorboard", "--quiet"]) == 0
    assert list((quick["out"] / "tensorboard").iterdir())


def test_training_does_not_take_a_bench_for_a_run_of_its_task(build, quick, tmp_path, monkeypatch):
    from ampguard.training.folder import newest_unfinished

    monkeypatch.chdir(tmp_path)
    options = {name: value for name, value in quick.items() if name != "out"}
    report = ampguard.bench(build(validation=False), **options)
    assert report.out.startswith("runs/bench-tiny-")
    assert newest_unfinished("tiny") is None
