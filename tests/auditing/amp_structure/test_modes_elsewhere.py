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
