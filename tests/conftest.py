"""What every test starts from: the same seeds, one thread, and GPU tests only where a GPU is."""

import os
import random
import sys

import pytest

NO_GPU = "needs a CUDA device; this machine has none"
NO_BF16 = "needs a processor with bf16 instructions; this one only emulates them"

# Before torch is imported, so that it holds for the processes that tests start, too. Sums of more than one thread
# depend on how the work was split; equal bits are asked for here.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker here as well: `make gpu-check` runs without pyproject.toml."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped with a reason where there is none")
    config.addinivalue_line("markers", "bf16: needs bf16 instructions; skipped with a reason where there are none")


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def has_bf16() -> bool:
    from ampguard.hardware import inspect

    return inspect().support("bf16-mixed").support == "native"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("bf16")]
    if marked and not has_bf16():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=NO_BF16))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Seed Python, numpy and torch, and give torch one thread; tests that import neither pay for neither."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(1)
