import json
import tomllib
from pathlib import Path

import pytest

from ampguard.tasks import find_task

TOY = Path(__file__).with_name("toy_task.py")


@pytest.fixture
def toy():
    return find_task(f"{TOY}:build")


@pytest.fixture
def read():
    """Reads a run folder: rows, events, weights of the last checkpoint, run.toml."""
    return RunReader


class RunReader:
    def __init__(self, path):
        from safetensors.torch import load_file

        self.path = Path(path)
        self.rows = _lines(self.path / "metrics.jsonl")
        self.events = _lines(self.path / "events.jsonl")
        self.facts = tomllib.loads((self.path / "run.toml").read_text())
        self.record = json.loads((self.path / "run.json").read_text())
        last = (self.path / "checkpoints" / "latest").read_text().strip()
        self.weights = load_file(self.path / "checkpoints" / last / "model.safetensors")

    def numbers(self):
        """The rows without what a clock decides."""
        clocked = ("time/", "throughput/", "memory/")
        return [{k: v for k, v in row.items() if not k.startswith(clocked)} for row in self.rows]


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
