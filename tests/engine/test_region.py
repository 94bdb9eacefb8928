"""The context around forward and loss: the precision inside, and one call at each outermost entry."""

import pytest
import torch

from ampguard.engine.region import Region
from ampguard.precision.policy import policy_of


def test_only_an_outermost_entry_is_announced():
    entries = []
    region = Region(policy_of("bf16-mixed"), "cpu", lambda: entries.append(1))
    with region, region:
        pass
    with region:
        pass
    assert len(entries) == 2


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16-mixed", torch.bfloat16), ("fp16-mixed", torch.float16)]
)
def test_products_run_in_the_compute_dtype_at_every_depth(name, dtype):
    region, x = Region(policy_of(name), "cpu", lambda: None), torch.ones(2, 2)
    with region:
        with region:
            assert (x @ x).dtype == dtype
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_an_exception_leaves_the_region_closed():
    entries = []
    region = Region(policy_of("bf16-mixed"), "cpu", lambda: entries.append(1))
    with pytest.raises(KeyError), region:
        raise KeyError
    assert not torch.is_autocast_enabled("cpu")
    with region:
        pass
    assert len(entries) == 2
