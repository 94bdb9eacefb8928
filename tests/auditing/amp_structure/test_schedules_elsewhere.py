"""Schedules that a loop moves through an object of another file, which only the names of its methods tell of."""

MODEL = """
class Model:
    def optimize_parameters(self, i: int) -> None:
        self.scaler.scale(self.loss(i)).backward()
        self.scaler.step(self.optimizer_g)
        self.scaler.update()

    def update_learning_rate(self, i: int, warmup: int = -1) -> None:
        {head}
            for scheduler in self.schedulers:
                scheduler.step()
        else:
            self.warm_up(i)
"""

TRAIN = """
from run.models import build


def main(options, loader):
    model = build(options)
    for i, batch in enumerate(loader):
        model.feed(batch)
        {calls[0]}
        {calls[1]}
"""
STEP, MOVE = "model.optimize_parameters(i)", "model.update_learning_rate(i)"


def lines(findings, *calls, head="if self.schedulers:"):
    files = {"run/models.py": MODEL.format(head=head), "run/train.py": TRAIN.format(calls=calls)}
    return [(f.path, f.line, f.message) for f in findings(files, select=["AMP012"])]


def test_a_move_behind_a_scaled_step_of_another_file_is_reported(findings):
    ((path, line, message),) = lines(findings, STEP, MOVE)
    assert (path, line) == ("run/train.py", 10)
    assert "whether or not" in message


def test_a_move_before_the_step_is_reported(findings):
    ((path, line, message),) = lines(findings, MOVE, STEP)
    assert (path, line) == ("run/train.py", 9)
    assert "runs before" in message


def test_a_method_that_holds_the_first_move_back_is_clean(findings):
    assert lines(findings, MOVE, STEP, head="if i > 0 and self.steps:") == []
    assert (
        lines(findings, MOVE, STEP, head="if i < self.warm_steps:\n            pass\n        elif self.schedulers:")
        == []
    )


def test_a_project_that_asks_for_the_scale_is_clean(findings):
    asks = "sched = self.scaler.get_scale() < self.last_scale\n        if not sched:"
    assert lines(findings, STEP, MOVE, head=asks) == []


def test_one_of_several_methods_of_a_name_that_does_otherwise_silences_it(findings):
    other = "class Fixed:\n    def update_learning_rate(self, i):\n        self.optimizer.step()\n"
    files = {"run/models.py": MODEL.format(head="if 1:"), "run/other.py": other + "# sched\n"}
    files["run/train.py"] = TRAIN.format(calls=(STEP, MOVE))
    assert findings(files, select=["AMP012"]) == []


LOOP = """
def train(model, loader, optimizer, lr_scheduler, epochs):
    for epoch in range(epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            lr_scheduler.step()
"""

SCRIPT = """
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from run.loop import train


def main(model, loader, args):
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = CosineAnnealingLR(optimizer, {length})
    train(model, loader, optimizer, scheduler, args.epochs)
"""


def test_a_schedule_that_another_file_makes_for_epochs_does_not_move_at_batches(findings):
    files = {"run/loop.py": LOOP, "run/main.py": SCRIPT.format(length="args.epochs")}
    ((path, line, message),) = [(f.path, f.line, f.message) for f in findings(files, select=["AMP012"])]
    assert (path, line) == ("run/loop.py", 8)
    assert "once per batch, but `args.epochs` is meant for epochs" in message


def test_a_schedule_that_another_file_makes_for_batches_moves_at_batches(findings):
    files = {"run/loop.py": LOOP, "run/main.py": SCRIPT.format(length="args.epochs * len(loader)")}
    assert list(findings(files, select=["AMP012"])) == []


HOOK = """
from run.base import Callback


class Scheduler(Callback):
    def on_sample(self, state):
        if self.on_batch:
            self.scheduler.step()
"""
TRIAL = """
def fit(state, callbacks):
    for batch in range(state.steps):
        {calls[0]}
        {calls[1]}
"""
HOOKED, STEPPED = "callbacks.on_sample(state)", "state[OPTIMIZER].step()"


def moved_in_the_hook(findings, *calls):
    files = {"run/callbacks.py": HOOK, "run/trial.py": TRIAL.format(calls=calls)}
    return [(f.path, f.line) for f in findings(files, select=["AMP012"])]


def test_a_hook_that_a_loop_calls_before_its_step_is_reported(findings):
    assert moved_in_the_hook(findings, HOOKED, STEPPED) == [("run/callbacks.py", 8)]


def test_a_hook_that_a_loop_calls_behind_its_step_is_clean(findings):
    assert moved_in_the_hook(findings, STEPPED, HOOKED) == []
