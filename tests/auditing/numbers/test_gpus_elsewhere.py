"""The number of GPUs, as a constant that another file counts."""

import pytest

SETUP = """
    import torch

    N_GPUS = torch.cuda.device_count()
    WORLD = max(torch.cuda.device_count(), 1)


    def setup():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        count = torch.cuda.device_count()
        return device, count
"""


@pytest.mark.parametrize(
    ("head", "line", "found"),
    [
        ("from parts import N_GPUS", "batch / N_GPUS", [5]),
        ("import parts", "batch / parts.N_GPUS", [5]),
        ("from parts import setup\nDEVICE, N_GPUS = setup()", "batch / N_GPUS", [6]),
        ("from parts import setup\nN_GPUS, COUNT = setup()", "batch / N_GPUS", []),
        ("from parts import WORLD", "batch / WORLD", []),
        ("from parts import N_GPUS", "batch / N_GPUS if N_GPUS else batch", []),
    ],
)
def test_a_constant_of_another_file_is_the_number_of_gpus(findings, head, line, found):
    code = f"{head}\n\n\ndef share(batch):\n    return {line}\n"
    told = findings({"parts.py": SETUP, "share.py": code}, select=["NUM001"])
    assert [f.line for f in told if f.path == "share.py"] == found
