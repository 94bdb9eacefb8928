"""The GPU checks themselves are tested here: their logic on a CPU, at tiny sizes, with fp16 emulated.

What only CUDA has (its synchronisation debug mode, memory counters) is not reached.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import step_checks
import torch
from check import main, run_check
from checks import TINY, Check, checks

from ampguard import Guard

CPU = torch.device("cpu")
FEW = (
    "no_sync/",
    "parity",
    "exact_skips/",
    "resume/text/fp16-mixed",
    "train/digits/fp16-mixed",
    "overhead/mlp/fp16-mixed",
    "overhead/gpt/bf16-mixed",
)
"""Each check once or more, without every precision of those that take seconds."""
CHECK = Path(__file__).with_name("check.py")
ROOT = CHECK.parents[2]


@pytest.mark.parametrize(
    "check", [check for check in checks(TINY) if check.name.startswith(FEW)], ids=lambda check: check.name
)
def test_it_holds_on_a_cpu(check: Check, tmp_path):
    assert check.reason_to_skip(CPU) == ""
    assert check.run(CPU, tmp_path)


def test_what_the_machine_lacks_is_a_reason_to_skip(monkeypatch):
    by_name = {check.name: check for check in checks(TINY)}
    assert by_name["train/text/tf32"].reason_to_skip(CPU) == "tf32 is none here: tf32 is a mode of GPU matrix units"
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert by_name["train/digits/bf16-mixed"].reason_to_skip(CPU) == "this python has no sklearn"


def test_a_read_inside_a_step_is_caught(monkeypatch):
    whole = step_checks._accumulated

    def reading(model, guard, batch):
        whole(model, guard, batch)
        guard.read()

    monkeypatch.setattr(step_checks, "_accumulated", reading)
    with pytest.raises(AssertionError, match="tolist synchronises"):
        step_checks.check_no_sync(CPU, "fp32")


def test_a_buffer_that_is_not_undone_is_caught(monkeypatch):
    monkeypatch.setattr("ampguard.engine.undo.Undo.put_back", lambda self, applied: setattr(self, "_open", False))
    with pytest.raises(AssertionError, match=r"skipped step 1 changed 1\.running_mean"):
        step_checks.check_exact_skips(CPU, "fp32")


def test_a_wrong_scale_law_is_caught(monkeypatch):
    monkeypatch.setattr("ampguard.engine.scale.DynamicScale.update", lambda self, found_inf: None)
    with pytest.raises(AssertionError, match="step 1: loss scale 65536"):
        step_checks.check_parity(CPU)


def test_wrong_weights_are_caught(monkeypatch):
    whole = Guard.step

    def drifting(self):
        applied = whole(self)
        with torch.no_grad():
            self._params[0].mul_(1 + 1e-4)
        return applied

    monkeypatch.setattr(Guard, "step", drifting)
    with pytest.raises(AssertionError, match="the weights differ"):
        step_checks.check_parity(CPU)


WITHOUT = """
import sys
for name in ("cyclopts", "optuna", "torchao", "pytest", "sklearn"):
    sys.modules[name] = None
import runpy
sys.argv = {arguments!r}
sys.path.insert(0, {folder!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_one_command_writes_one_record_without_the_packages_of_the_command_line(tmp_path):
    options = ["--device", "cpu", "--tiny", "--only", "text/bf16", "--out", str(tmp_path)]
    script = WITHOUT.format(arguments=[str(CHECK), *options], folder=str(CHECK.parent))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob("gpu-*.json")
    record = json.loads(written.read_text())
    assert record["passed"] is True
    assert record["versions"]["torch"] == torch.__version__
    status = {check["name"]: check["status"] for check in record["checks"]}
    assert status == {"resume/text/bf16-mixed": "passed", "train/text/bf16-mixed": "passed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert main() == 0
    assert "skipped: this machine has no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_failed_check_is_told_and_does_not_stop_the_others(tmp_path):
    def fails(device, folder):
        raise AssertionError("the weights differ")

    result = run_check(Check(name="parity", run=fails), CPU, tmp_path)
    assert (result["status"], result["reason"]) == ("failed", "AssertionError: the weights differ")
