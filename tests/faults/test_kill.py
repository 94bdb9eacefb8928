"""kill -9 at any moment, then the same command again: bitwise the uninterrupted run. The long form: make test-kill."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

KILLS = int(os.environ.get("AMPGUARD_KILLS", "3"))
CLOCKED = ("time/", "throughput/")


def command(task, out):
    options = ["--checkpoint-every", "3", "--log-every", "1", "--precision", "bf16-mixed", "--resume", "auto"]
    return [sys.executable, "-m", "ampguard", "train", *task, *options, "--out", str(out), "--quiet"]


TASKS = {
    "digits": ["digits", "--steps", "60", "--batch-size", "32"],
    "text": ["text", "--steps", "20", "--batch-size", "4", "--task.context", "32", "--val-batch-size", "32"],
}


def rows(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKED)} for row in lines]


def weights(run):
    last = (run / "checkpoints" / "latest").read_text().strip()
    return load_file(run / "checkpoints" / last / "model.safetensors")


@pytest.mark.parametrize("task", TASKS)
def test_killed_and_resumed_equals_uninterrupted(task, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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
    assert rows(cut) == rows(whole)
    expected = weights(whole)
    assert all(value.equal(expected[name]) for name, value in weights(cut).items())
