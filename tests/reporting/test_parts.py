import json
import subprocess
import sys

import pytest

from ampguard.reporting import parts
from ampguard.reporting.metrics import read_metrics, read_part
from ampguard.reporting.parts import cut, processes_for


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = ({"step": n, "train/loss": (n * 7919 % 1000) / 7, "amp/skipped_steps": n // 9} for n in range(1, 5001))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5001, "tra')
    return path


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_parts_are_the_whole_file_and_end_behind_newlines(file, count):
    found = cut(file, count)
    content = file.read_bytes()
    assert b"".join(content[start:stop] for start, stop in found) == content
    assert all(content[:stop].endswith(b"\n") for _, stop in found[:-1])
    assert len(found) == count


def test_a_file_of_one_line_is_one_part(tmp_path):
    path = tmp_path / "one"
    path.write_bytes(b"x" * 1000)
    assert cut(path, 4) == [(0, 1000)]
    path.write_bytes(b"")
    assert cut(path, 4) == [(0, 0)]


@pytest.mark.parametrize("count", [2, 5])
def test_parts_come_to_what_the_whole_comes_to(file, count):
    whole = read_metrics(file, buckets=64)
    first, *others = [read_part(file, start, stop, 64) for start, stop in cut(file, count)]
    for other in others:
        first.join(other)
    assert first.curves["train/loss"].points == whole.curves["train/loss"].points
    assert first.curves["train/loss"].count == whole.curves["train/loss"].count == 5000
    assert (first.rows, first.last, first.torn, first.first_step, first.last_step) == (
        whole.rows, whole.last, True, 1, 5000,
    )  # fmt: skip


def in_fresh_python(code):
    """Run code where no other test has left threads or torch: there processes may be forked."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_large_file_is_read_by_several_processes_to_the_same_end(file):
    out = in_fresh_python(
        "import os\nfrom pathlib import Path\nfrom ampguard.reporting import metrics, parts\n"
        "parts.PART_BYTES = 1000\nos.sched_getaffinity = lambda pid: range(3)\n"
        f"file = Path({str(file)!r})\nassert parts.processes_for(file) == 3\n"
        "shared = metrics.read_metrics(file)\n"
        "metrics.processes_for = lambda path: 1\n"
        "whole = metrics.read_metrics(file)\n"
        "assert shared.curves['train/loss'].points == whole.curves['train/loss'].points\n"
        "assert shared.notes() == whole.notes()\nprint(shared.rows)"
    )
    assert out == "5000\n"


def test_a_process_with_torch_or_threads_forks_nothing(file, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    monkeypatch.setitem(parts.sys.modules, "torch", object())
    assert processes_for(file) == 1
    monkeypatch.delitem(parts.sys.modules, "torch")
    monkeypatch.setattr(parts.threading, "active_count", lambda: 2)
    assert processes_for(file) == 1


def test_a_killed_process_costs_nothing():
    out = in_fresh_python(
        "import multiprocessing, os\nfrom ampguard.reporting.parts import over_processes\n"
        "def work(parent, value):\n    if os.getpid() != parent:\n        os._exit(9)\n    return value\n"
        "print(over_processes(work, [(os.getpid(), 1), (os.getpid(), 2)]), multiprocessing.active_children())"
    )
    assert out == "[1, 2] []\n"
