"""Every check of `make gpu-check` as a test, at full size, where there is a GPU."""

import pytest
import torch
from checks import Check, Sizes, checks

CHECKS = [check for check in checks(Sizes()) if not check.name.startswith("overhead/")]
"""Without the timings, which have nothing to assert."""


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_holds_on_this_gpu(check: Check, tmp_path):
    device = torch.device("cuda")
    reason = check.reason_to_skip(device)
    if reason:
        pytest.skip(reason)
    assert check.run(device, tmp_path)
