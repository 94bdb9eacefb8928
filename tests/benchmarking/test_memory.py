import pytest
import torch
from torch.utils.data import DataLoader

from ampguard.benchmarking.config import make_config
from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.lineup import line_up, settled
from ampguard.benchmarking.memory import LEAST_EACH_S, MemoryStage, device_limit_mib
from ampguard.benchmarking.race import Race
from ampguard.benchmarking.report import Memory
from ampguard.benchmarking.state import State
from ampguard.benchmarking.worker import FootprintError

BOTH = ("fp32", "bf16-mixed")


@pytest.fixture
def stage(build, tmp_path):
    """Makes a stage whose processes are played by a function from (precision, samples in a forward) to MiB."""

    def make(peak_of, *, task=None, samples=20.0, **options):
        config = {"precisions": BOTH, "device": "cpu", "on_unsupported": "emulate", **options}
        lineup = line_up(task or build(), settled(make_config(config)))
        state = State(path=tmp_path / "bench-state.json", settings={}, race=Race(samples=samples))
        jobs = []

        def measure(job, timeout_s):
            assert timeout_s >= LEAST_EACH_S
            jobs.append(job)
            peak = peak_of(job.decision.granted, job.config.micro_batch_size or job.config.batch_size)
            if isinstance(peak, Exception):
                raise peak
            return Footprint(peak=peak, parts=Memory(), reason="")

        return MemoryStage(lineup, state, told=lambda _: None, measure=measure), state, jobs

    return make


def half_as_much(name, size):
    return size * (1.0 if name == "fp32" else 0.5)


def test_each_precision_is_measured_as_it_trains_and_kept(stage):
    made, state, jobs = stage(half_as_much)
    made.footprints(BOTH, budget_s=1.0)
    assert {name: item.peak for name, item in state.footprints.items()} == {"fp32": 20.0, "bf16-mixed": 10.0}
    assert state.path.exists()
    made.footprints(BOTH, budget_s=1.0)
    assert len(jobs) == 2


def test_one_that_cannot_be_measured_leaves_a_reason_and_the_others_go_on(stage, caplog):
    made, state, _ = stage(lambda name, size: FootprintError("no") if name == "fp32" else 1.0)
    made.footprints(BOTH, budget_s=1.0)
    assert made.reasons == {"fp32": "no"}
    assert state.footprints.keys() == {"bf16-mixed"}
    assert "the memory of fp32 was not measured: no." in caplog.text


def test_half_the_memory_lets_twice_the_samples_in(stage):
    made, state, _ = stage(half_as_much)
    made.largest(BOTH, limit_mib=37.0, budget_s=60.0)
    assert {name: item.size for name, item in state.largest.items()} == {"fp32": 37, "bf16-mixed": 74}


def test_all_samples_of_the_data_are_the_end_of_the_search(stage):
    made, state, jobs = stage(lambda name, size: 1.0)
    made.largest(("fp32",), limit_mib=37.0, budget_s=60.0)
    assert state.largest["fp32"].size == 96
    assert "no more samples" in state.largest["fp32"].reason
    assert [job.config.batch_size for job in jobs] == [20, 40, 80, 96]
    assert all(job.config.micro_batch_size is None for job in jobs)


def test_running_out_of_memory_is_not_fitting(stage):
    made, state, _ = stage(lambda name, size: FootprintError("no", out_of_memory=True) if size > 33 else 1.0)
    made.largest(("fp32",), limit_mib=1e9, budget_s=60.0)
    assert state.largest["fp32"].size == 33


@pytest.mark.parametrize(
    ("peak", "samples", "reason"),
    [
        (None, 20.0, "does not tell a process's peak"),
        (FootprintError("it broke"), 20.0, "it broke"),
        (1.0, None, "samples of a batch cannot be counted"),
        (99.0, 20.0, "not even one sample fits"),
    ],
)
def test_where_it_is_not_known_there_is_a_reason(stage, peak, samples, reason):
    made, state, _ = stage(lambda name, size: peak, samples=samples)
    made.largest(("fp32",), limit_mib=37.0, budget_s=60.0)
    assert state.largest["fp32"].size is None
    assert reason in state.largest["fp32"].reason


def test_without_time_it_is_told(stage):
    made, state, jobs = stage(half_as_much)
    made.largest(("fp32",), limit_mib=37.0, budget_s=0.0)
    assert "the time for it was over" in state.largest["fp32"].reason
    assert jobs == []


def test_what_was_searched_is_not_searched_again(stage):
    made, _, jobs = stage(half_as_much)
    made.largest(("fp32",), limit_mib=37.0, budget_s=60.0)
    count = len(jobs)
    made.largest(("fp32",), limit_mib=37.0, budget_s=60.0)
    assert len(jobs) == count


def test_batches_that_the_data_makes_are_cut(stage, build):
    task = build()
    ready_made = [tuple(torch.stack(part) for part in zip(*(task.train_data[i] for i in range(16)), strict=True))] * 4
    fields = {"name": "ready", "model": task.model, "loss": task.loss, "train_data": ready_made}
    made, state, jobs = stage(half_as_much, task=type(task)(**fields), samples=16.0)
    made.largest(("fp32",), limit_mib=5.0, budget_s=60.0)
    assert state.largest["fp32"].size == 5
    assert [job.config.micro_batch_size for job in jobs][:2] == [16, 8]


def test_a_dataloader_is_as_large_as_its_dataset(stage, build):
    task = build()
    fields = {"name": "loader", "model": task.model, "loss": task.loss}
    loader = DataLoader(task.train_data, batch_size=20)
    made, state, _ = stage(lambda name, size: 1.0, task=type(task)(**fields, train_data=loader))
    made.largest(("fp32",), limit_mib=5.0, budget_s=60.0)
    assert state.largest["fp32"].size == 96


def test_a_cpu_has_no_limit_of_its_own():
    assert device_limit_mib(torch.device("cpu")) is None
