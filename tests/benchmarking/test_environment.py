import json
import subprocess
from types import SimpleNamespace

import pytest
import torch

from ampguard.benchmarking import environment as environments
from ampguard.benchmarking.environment import environment
from ampguard.training.config import TrainConfig

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=8, compile=False)


def test_a_cpu_tells_its_versions_and_its_clock(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : paper\ncpu MHz\t\t: 2400.0\n\ncpu MHz\t\t: 2600.0\n")
    monkeypatch.setattr(environments, "_CPUINFO", cpuinfo)
    found = environment(CONFIG, CPU, baseline="fp32")
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["clocks_mhz"] == 2500.0
    assert (found["tf32"], found["driver"], found["batch_size"]) == (False, None, 8)
    json.dumps(found, allow_nan=False)


def test_a_clock_that_nobody_tells_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "_CPUINFO", tmp_path / "nowhere")
    assert environment(CONFIG, CPU, baseline="fp32")["clocks_mhz"] is None


def test_a_baseline_in_tf32_says_so():
    assert environment(CONFIG, CPU, baseline="tf32")["tf32"] is True


@pytest.mark.parametrize(
    ("answer", "expected"), [("570.1, 1980\n", ("570.1", 1980.0)), ("570.1, [N/A]\n", (None, None)), ("", (None, None))]
)
def test_a_gpu_tells_driver_and_clock_through_nvidia_smi_where_it_can(monkeypatch, answer, expected):
    asked = []

    def run(command, **options):
        asked.append(command)
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    found = environment(CONFIG, torch.device("cuda"), baseline="fp32")
    assert (found["driver"], found["clocks_mhz"]) == expected
    assert "--id=GPU-12-34" in asked[0]


def test_without_nvidia_smi_nothing_is_told(monkeypatch):
    def run(command, **options):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    assert environment(CONFIG, torch.device("cuda"), baseline="fp32")["driver"] is None
