"""kill -9 at any moment, then the same command again: bitwise the uninterrupted run. The long form: make test-kill."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

KILLS = int(os.environ.get("AMPGUARD_KILLS", "3"))
NOISY = Path(__file__).with_name("noisy_task.py")
WORKER_KILLS = int(os.environ.get("AMPGUARD_WORKER_KILLS", "20"))
"""In one run whose data come from two worker processes."""
CLOCKED = ("time/", "throughput/")


def command(task, out):
    options = ["--checkpoint-every", "3", "--log-every", "1", "--precision", "bf16-mixed", "--resume", "auto"]
    return [sys.executable, "-m", "ampguard", "train", *task, *options, "--out", str(out), "--quiet"]


TASKS = {
    "digits": ["digits", "--steps", "60", "--batch-size", "32"],
    "text": ["text", "--steps", "20", "--batch-size", "4", "--task.context", "32", "--val-batch-size", "32"],
}


@pytest.fixture
def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def rows(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKED)} for row in lines]


def weights(run):
    last = (run / "checkpoints" / "latest").read_text().strip()
    return load_file(run / "checkpoints" / last / "model.safetensors")


@pytest.mark.parametrize("task", TASKS)
def test_killed_and_resumed_equals_uninterrupted(task, tmp_path, environment):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    subprocess.run(command(TASKS[task], whole), env=environment, check=True)
    length = time.monotonic() - began
    chance = random.Random(task)
    for _ in range(KILLS):
        child = subprocess.Popen(command(TASKS[task], cut), env=environment)
        try:
            child.wait(timeout=length * chance.uniform(0.4, 1.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    subprocess.run(command(TASKS[task], cut), env=environment, check=True)
    assert_same(cut, whole)


def assert_same(cut, whole):
    assert rows(cut) == rows(whole)
    expected = weights(whole)
    assert all(value.equal(expected[name]) for name, value in weights(cut).items())


def latest(run):
    pointer = run / "checkpoints" / "latest"
    return pointer.read_text() if pointer.exists() else ""


def kill_after_progress(child, run, *, linger_s):
    """Kill the child a moment after its first new checkpoint; return whether it was still running."""
    before = latest(run)
    while child.poll() is None and latest(run) == before:
        time.sleep(0.005)
    time.sleep(linger_s)
    alive = child.poll() is None
    child.kill()
    child.wait()
    return alive


def test_killed_again_and_again_with_two_workers_equals_uninterrupted_without(tmp_path, environment):
    task = [f"{NOISY}:build", "--steps", str(40 * WORKER_KILLS)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command(task, whole), "--workers", "0"], env=environment, check=True)
    chance = random.Random(0)
    killed = 0
    while killed < WORKER_KILLS:
        child = subprocess.Popen([*command(task, cut), "--workers", "2"], env=environment)
        assert kill_after_progress(child, cut, linger_s=chance.uniform(0, 0.1)), f"it ended after {killed} kills"
        killed += 1
    subprocess.run([*command(task, cut), "--workers", "1"], env=environment, check=True)
    assert_same(cut, whole)
