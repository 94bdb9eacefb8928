"""--compile: the transaction holds, and what the compiler did is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ampguard.task import Task
from ampguard.training import train

pytestmark = [
    # Inductor imports parts of torch that torch itself deprecates, and Dynamo looks at `.grad` of what is no leaf.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Net(nn.Module):
    def __init__(self, *, breaks=False):
        super().__init__()
        # No bias before BatchNorm: its gradient is nothing but rounding, which AdamW would blow up.
        self.line, self.norm, self.out = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.breaks = breaks

    def forward(self, x):
        x = self.norm(self.line(x))
        if self.breaks:
            torch._dynamo.graph_break()
        return self.out(x.relu())


def task(model, *, poison_at=0, samples=48):
    images = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1))
    calls = [0]

    def loss(model, batch):
        calls[0] += torch.is_grad_enabled()
        x, y = batch
        return nn.functional.cross_entropy(model(x * float("inf") if calls[0] == poison_at else x), y)

    data = torch.utils.data.TensorDataset(images, (images[:, 0] > 0).long())
    return Task(name="compiled", model=model, loss=loss, train_data=data, defaults={"batch_size": 16, "steps": 6})


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def run(task, out, **options):
    return train(task, out=out, precision="fp32", log_every=1, **options)


def test_a_compiled_run_trains_as_the_eager_one_and_a_skip_leaves_no_trace(tmp_path, read):
    skipped = run(task(Net, poison_at=3), tmp_path / "compiled", compile=True)
    run(task(Net, poison_at=3), tmp_path / "eager")
    compiled, eager = read(tmp_path / "compiled"), read(tmp_path / "eager")
    assert skipped.steps.skipped == 1
    assert compiled.weights.keys() == eager.weights.keys()
    # Fused kernels sum in another order: 6 steps of a few roundings each, on weights and activations near 1.
    for name, value in eager.weights.items():
        torch.testing.assert_close(compiled.weights[name], value, rtol=1e-4, atol=1e-5)
    assert compiled.weights["norm.num_batches_tracked"] == 5
    assert not [event for event in compiled.events if event["event"] == "compile"]


def test_a_graph_that_breaks_works_and_says_so(tmp_path, read):
    record = run(task(lambda: Net(breaks=True)), tmp_path / "run", compile=True)
    assert record.status == "finished"
    (event,) = (event for event in read(tmp_path / "run").events if event["event"] == "compile")
    assert event["cause"] == "graph_break" and event["message"].startswith("the graph breaks")


def test_another_shape_is_compiled_again_and_says_so(tmp_path, read):
    run(task(Net, samples=40), tmp_path / "run", compile=True)
    events = [event for event in read(tmp_path / "run").events if event["event"] == "compile"]
    assert [event["cause"] for event in events] == ["recompile"]
    assert "size" in events[0]["message"]


def test_without_a_compiler_one_line_says_what_to_do(tmp_path):
    source = f"import ampguard, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_compiling as t\n"
    source += f"ampguard.train(t.task(t.Net), out={str(tmp_path / 'run')!r}, precision='fp32', compile=True)"
    environment = {**os.environ, "CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False)
    assert "CompileError: torch.compile failed: " in done.stderr
    assert "Train without --compile" in done.stderr
