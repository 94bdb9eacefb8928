"""Each of these starts a process that imports torch, so there are few."""

import subprocess
import sys

import pytest
import torch

from ampguard.benchmarking.config import make_config
from ampguard.benchmarking.lineup import line_up, settled
from ampguard.benchmarking.worker import FootprintError, Job, _answer, footprint, is_out_of_memory


def job_of(task, precision="fp32"):
    config = settled(make_config({"precisions": precision, "device": "cpu", "on_unsupported": "emulate"}))
    lineup = line_up(task, config)
    decision = next(found for name, found in lineup.decisions.items() if name.startswith(precision))
    return Job(task=task, config=lineup.training, decision=decision, device="cpu")


def test_a_task_of_a_users_file_is_measured_in_a_fresh_process(build):
    found = footprint(job_of(build()), timeout_s=120)
    weights = (6 * 8 + 8 + 8 * 2 + 2) * 4 / 2**20
    assert found.parts.weights == pytest.approx(weights)
    assert found.parts.gradients == pytest.approx(weights)
    assert found.parts.optimizer >= 2 * weights
    assert found.parts.activations > 0
    if sys.platform == "linux":
        assert found.peak > 0
        assert found.parts.workspace == pytest.approx(
            max(0.0, found.peak - 2 * weights - found.parts.optimizer - found.parts.activations)
        )


def test_a_task_that_runs_out_of_memory_says_so(build):
    with pytest.raises(FootprintError, match=r"out of memory: tried to allocate 2\.00 GiB") as error:
        footprint(job_of(build(half="oom"), "bf16"), timeout_s=120)
    assert error.value.out_of_memory


def test_a_process_that_takes_too_long_is_ended(build):
    with pytest.raises(FootprintError, match="longer than 0 s"):
        footprint(job_of(build()), timeout_s=0.05)


def test_a_task_that_cannot_be_sent_is_told_without_a_process(build):
    task = build()
    task.loss.lock = (lock for lock in ())
    with pytest.raises(FootprintError, match="cannot be sent to another process"):
        footprint(job_of(task), timeout_s=120)


def answered(code, out="", err=""):
    return subprocess.CompletedProcess([], code, out, err)


def test_a_process_that_was_killed_has_most_likely_taken_too_much():
    with pytest.raises(FootprintError, match="the system ended the process") as error:
        _answer(answered(-9))
    assert error.value.out_of_memory


def test_a_process_without_an_answer_tells_its_last_line():
    with pytest.raises(FootprintError, match="its process left no answer: ImportError: no") as error:
        _answer(answered(1, "chatter\n", "Traceback\nImportError: no\n"))
    assert not error.value.out_of_memory
    with pytest.raises(FootprintError, match="exit code 3"):
        _answer(answered(3))


def test_what_a_task_prints_is_no_part_of_the_answer():
    values = '{"peak": null, "parts": {}, "reason": "nobody tells"}'
    assert _answer(answered(0, f"loading ...\n{values}\n")).reason == "nobody tells"


def test_a_cpu_that_cannot_allocate_is_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
