"""Callbacks: called at step boundaries, told the truth, and never in the way of the run's state."""

import pytest
import torch

from ampguard import Callback
from ampguard.errors import ConfigError, UserCodeError
from ampguard.training import train


class Notes(Callback):
    def __init__(self, stop_at=0):
        self.steps, self.validated, self.saved, self.events = [], [], [], []
        self.stop_at = stop_at

    def on_step_end(self, state):
        self.steps.append((state.step, state.epoch, state.loss, state.applied))
        if state.step == self.stop_at:
            state.stop("enough")

    def on_validation_end(self, step, metrics):
        self.validated.append((step, dict(metrics)))

    def on_checkpoint(self, step, path):
        self.saved.append((step, path.name, path.is_dir()))

    def on_event(self, event):
        self.events.append((event.kind, event.step))


def run(task, out, *callbacks, **options):
    options = {"precision": "fp32", "log_every": 1, "checkpoint_every": "4", "validate_every": 5, **options}
    return train(task, out=out, callbacks=callbacks, **options)


def test_every_hook_is_told_what_the_folder_says(toy, tmp_path, read):
    notes = Notes()
    record = run(toy(poison_at=3), tmp_path / "run", notes, steps=10)
    left = read(tmp_path / "run")
    assert [step for step, *_ in notes.steps] == list(range(1, 11))
    assert [epoch for _, epoch, *_ in notes.steps] == [0] * 5 + [1] * 5
    losses = {row["step"]: row.get("train/loss") for row in left.rows}
    assert [loss.item() for step, _, loss, _ in notes.steps if step != 3] == [
        pytest.approx(losses[step], rel=1e-6) for step in losses if step != 3
    ]
    assert [step for step, _, _, applied in notes.steps if not applied] == [3]
    assert notes.validated == [(step, {"val/loss": pytest.approx(losses_at(left, step))}) for step in (5, 10)]
    assert [step for step, *_ in notes.saved] == sorted({4, 5, 8, 10}) and all(there for *_, there in notes.saved)
    assert [list(pair) for pair in notes.events] == [[event["event"], event["step"]] for event in left.events]
    assert record.steps.skipped == 1


def losses_at(left, step):
    return next(row["val/loss"] for row in left.rows if row["step"] == step)


def test_callbacks_change_no_number(toy, tmp_path, read):
    run(toy(), tmp_path / "with", Notes())
    run(toy(), tmp_path / "without")
    assert read(tmp_path / "with").numbers() == read(tmp_path / "without").numbers()


def test_a_callback_stops_the_run_early_and_it_counts_as_done(toy, tmp_path, read):
    record = run(toy(), tmp_path / "run", Notes(stop_at=7))
    assert (record.status, record.steps.attempted) == ("stopped_early", 7)
    (event,) = (event for event in read(tmp_path / "run").events if event["event"] == "early_stop")
    assert event["message"] == "enough" and event["step"] == 7


def broken(hook, at):
    def fail(self, value, *rest):
        step = value if isinstance(value, int) else value.step
        if step >= at:
            raise ZeroDivisionError("the callback's own mistake")

    return type("Broken", (Callback,), {hook: fail})()


@pytest.mark.parametrize("hook", ["on_step_end", "on_validation_end", "on_checkpoint", "on_event"])
def test_a_callback_that_raises_ends_the_run_after_a_checkpoint_and_the_run_goes_on_from_there(
    toy, tmp_path, read, hook
):
    run(toy(), tmp_path / "whole")
    with pytest.raises(UserCodeError, match=rf"the callback Broken.{hook} raised ZeroDivisionError") as caught:
        run(toy(), tmp_path / "cut", broken(hook, 7))
    assert caught.value.__cause__.__traceback__.tb_next.tb_frame.f_code.co_name == "fail"
    assert "ampguard.train(task, resume=" in caught.value.hint
    saved = (tmp_path / "cut" / "checkpoints" / "latest").read_text()
    assert int(saved.strip().removeprefix("step-")) >= 7
    run(toy(), tmp_path / "cut", resume="auto")
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert whole.numbers() == cut.numbers()
    assert all(torch.equal(value, cut.weights[name]) for name, value in whole.weights.items())


def test_what_is_no_callback_is_refused_before_anything_is_written(toy, tmp_path):
    with pytest.raises(ConfigError, match="callbacks has a function"):
        run(toy(), tmp_path / "run", lambda state: None)
    assert not (tmp_path / "run").exists()
