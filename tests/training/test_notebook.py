"""A run in a real notebook kernel shows itself; elsewhere it does not."""

import nbclient
import nbformat
import pytest

from ampguard.records import Event
from ampguard.training.notebook import NotebookProgress, default_progress
from ampguard.training.progress import NullProgress, Outline

CELL = """
import torch
from torch import nn
import ampguard

x = torch.randn(64, 4)
task = ampguard.Task(
    name="shown <b>",
    model=lambda: nn.Linear(4, 2),
    loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
    train_data=torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()),
    val_data=torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()),
)
record = ampguard.train(task, steps=20, precision="fp32", out="run")
print(record)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_shows_bar_figures_and_validations(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = book.cells[0].outputs
    (page,) = (output.data["text/html"] for output in outputs if output.output_type == "display_data")
    assert '<progress value="20" max="20"' in page
    assert "shown &lt;b&gt;" in page
    assert "step 20: val/loss" in page and "samples/s" in page
    (printed,) = (output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "20 attempted, 20 applied" in printed


def test_outside_a_notebook_nothing_is_shown():
    assert isinstance(default_progress(), NullProgress)


def test_what_is_told_before_the_start_is_shown_when_it_starts():
    progress = NotebookProgress()
    progress.event(Event(kind="resumed", step=3, message="from step-00000003"))
    progress._outline = Outline(
        task="t", steps=9, first_step=3, precision="fp32", device="cpu", run_dir="runs/t", parameters=1
    )
    assert "step 3: resumed: from step-00000003" in progress._page()
