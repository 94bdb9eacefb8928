from pathlib import Path

import pytest

from ampguard import tune
from ampguard.tasks import find_task

TINY = Path(__file__).with_name("tune_task.py")


@pytest.fixture
def tiny():
    """The builder of a Task that trains in milliseconds."""
    return find_task(f"{TINY}:build")


@pytest.fixture
def search(tiny, tmp_path):
    """Searches for the tiny Task in a folder of its own."""

    def call(*, out="study", task_options=None, **options):
        return tune(
            build=tiny,
            task_options=task_options or {},
            origin={"target": f"{TINY}:build"},
            out=tmp_path / out,
            **{"space": ("lr=log:0.001:0.5",), "threads": 1, **options},
        )

    return call
