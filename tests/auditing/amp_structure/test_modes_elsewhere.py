"""Evaluations in one file and the code that trains and runs them in another."""

import pytest

JUDGE = """
import torch


def evaluate(net, loader):
    return sum(torch.relu(net(batch)).item() for batch in loader)
"""

TRAIN = """
import torch
{imports}


def fit(net, loader, held_out, optimizer):
    net.train()
    for batch in loader:
        net(batch).mean().backward()
        optimizer.step()
    {mode}
    print({call}(net, held_out))
"""


def judged(findings, imports, call, mode="pass"):
    files = {"judge.py": JUDGE, "fit.py": TRAIN.format(imports=imports, call=call, mode=mode)}
    return [f.line for f in findings(files, select=["AMP032"]) if "judges" in f.message]


@pytest.mark.parametrize(
    "imports, call", [("from judge import evaluate", "evaluate"), ("import judge", "judge.evaluate")]
)
def test_an_evaluation_that_another_file_runs_while_it_trains_has_to_say_a_mode(findings, imports, call):
    assert judged(findings, imports, call) == [6]


def test_an_evaluation_whose_caller_says_the_mode_is_left_alone(findings):
    assert judged(findings, "from judge import evaluate", "evaluate", "net.eval()") == []


def test_an_evaluation_that_nobody_runs_who_trains_is_left_alone(findings):
    assert list(findings({"judge.py": JUDGE}, select=["AMP032"])) == []


JUDGE_AND_LEAVE = """
import torch


@torch.no_grad()
def evaluate(net, loader):
    net.eval()
    total = sum(net(batch).mean().item() for batch in loader)
    {back}
    return total
"""

TRAIN_WRAPPED = """
import torch
from judge import evaluate


def fit(net, loader, held_out, optimizer):
    model = torch.nn.DataParallel(net)
    model.train()
    for step, batch in enumerate(loader):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
        if step % 100 == 0:
            print(evaluate(model.module, held_out))
"""


@pytest.mark.parametrize("back, lines", [("pass", [14]), ("net.train()", [])])
def test_an_evaluation_of_another_file_leaves_what_is_inside_of_a_wrapper_in_its_mode(findings, back, lines):
    files = {"judge.py": JUDGE_AND_LEAVE.format(back=back), "fit.py": TRAIN_WRAPPED}
    assert [f.line for f in findings(files, select=["AMP032"]) if "evaluation mode" in f.message] == lines


NETWORK = """
import torch
from torch import nn


class Network(nn.Module):
    def judge(self, held_out):
        self.eval()
        with torch.no_grad():
            return sum(self(batch).mean().item() for batch in held_out)
"""

SUBCLASS = """
from network import Network


class Ranker(Network):
    def fit(self, loader, held_out):
        self.train()
        for step, batch in enumerate(loader):
            self(batch).mean().backward()
            self.optimizer.step()
            self.zero_grad()
            if step % 100 == 0:
                self.judge(held_out)
"""


def test_a_network_that_trains_itself_is_left_in_evaluation_mode_by_its_base(findings):
    found = findings({"network.py": NETWORK, "ranker.py": SUBCLASS}, select=["AMP032"])
    assert [f.line for f in found] == [13]


RESTORE = """
import torch


def restore_checkpoint(path, model, optimizer=None):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    {then}
"""

PREDICT = """
import torch
from restoring import restore_checkpoint
from nets import Tacotron


def main(loader):
    model = Tacotron()
    restore_checkpoint("best.pt", model=model)
    with torch.no_grad():
        for batch in loader:
            print(model(batch))
"""


def test_a_model_that_another_file_restores_is_run_in_training_mode(findings):
    files = {"restoring.py": RESTORE.format(then="return state"), "predict.py": PREDICT}
    assert [(f.path, f.line) for f in findings(files, select=["AMP032"])] == [("predict.py", 12)]


def test_a_model_that_another_file_restores_and_switches_is_left_alone(findings):
    files = {"restoring.py": RESTORE.format(then="model.eval()"), "predict.py": PREDICT}
    assert findings(files, select=["AMP032"]) == []
