from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ampguard.precision import IMPLEMENTED, autocast, enable_tf32, policy_of
from ampguard.precision.autocast import kept_math_mode

CUDA = torch.device("cuda")
HAS_NEW_SWITCH = hasattr(torch.backends.cuda.matmul, "fp32_precision")
new_switch = pytest.mark.skipif(not HAS_NEW_SWITCH, reason="torch < 2.9 has only the old tf32 switch")


@pytest.fixture
def _tf32_as_found():
    """Put torch's own defaults back; the switches are global and work without a GPU."""
    yield
    # This one also sets the products of the CPU's library, which would compute "fp32" tests in bf16.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    if HAS_NEW_SWITCH:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


class Probe(nn.Module):
    """Keeps the dtype that its product ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = self.linear(x)
        self.seen = product.dtype
        return product.float().sum()


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_products_run_in_the_compute_dtype_and_gradients_in_the_storage_dtype(name):
    policy = policy_of(name)
    model = Probe().to(policy.storage_dtype)
    with autocast(policy, "cpu"):
        loss = model(torch.randn(2, 4))
    loss.backward()
    assert model.seen is policy.compute_dtype
    assert {p.grad.dtype for p in model.parameters()} == {policy.storage_dtype}


def test_float32_gets_an_empty_context_and_leaves_an_outer_autocast_alone():
    assert isinstance(autocast(policy_of("fp32"), "cpu"), nullcontext)
    with torch.autocast("cpu", dtype=torch.bfloat16), autocast(policy_of("tf32"), "cpu"):
        assert torch.is_autocast_enabled("cpu")


def test_contexts_are_new_and_leave_nothing_behind():
    policy = policy_of("bf16-mixed")
    assert autocast(policy, "cpu") is not autocast(policy, "cpu")
    with autocast(policy, "cpu"), autocast(policy, "cpu"):
        pass
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_tf32_is_not_touched_away_from_cuda(name, _tf32_as_found):
    torch.backends.cuda.matmul.allow_tf32 = True
    assert enable_tf32(policy_of(name), torch.device("cpu")) == "unchanged"
    assert torch.backends.cuda.matmul.allow_tf32


def test_bf16_leaves_the_float32_mode_as_it_was(_tf32_as_found):
    torch.backends.cuda.matmul.allow_tf32 = True
    assert enable_tf32(policy_of("bf16-mixed"), CUDA) == "unchanged"
    assert torch.backends.cuda.matmul.allow_tf32


def old_readers() -> tuple[bool, bool, str]:
    """What torch.compile reads; torch raises here when the two switches disagree."""
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def new_readers() -> set[str]:
    cudnn = torch.backends.cudnn
    return {torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision}


@pytest.mark.parametrize("first", ["fp32", "tf32"])
def test_both_switches_agree_after_either_order(first, _tf32_as_found):
    second = "tf32" if first == "fp32" else "fp32"
    expected = {"tf32": (True, True, "high"), "fp32": (False, False, "highest")}
    mode = {"tf32": "tf32", "fp32": "ieee"}
    for name in (first, second, first):
        assert enable_tf32(policy_of(name), CUDA) == mode[name]
        assert old_readers() == expected[name]
        if HAS_NEW_SWITCH:
            assert new_readers() == {mode[name]}


@new_switch
def test_fp32_is_ieee_even_where_the_user_allowed_tf32_for_all(_tf32_as_found):
    """The old switch alone would leave convolutions to inherit tf32 from the levels above."""
    torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "tf32"
    enable_tf32(policy_of("fp32"), CUDA)
    assert new_readers() == {"ieee"}


@new_switch
def test_a_users_new_switch_does_not_make_old_readers_raise(_tf32_as_found):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    enable_tf32(policy_of("tf32"), CUDA)
    assert old_readers() == (True, True, "high")


def test_old_torch_gets_only_the_old_switch(monkeypatch):
    matmul, cudnn = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    assert enable_tf32(policy_of("fp32"), CUDA) == "ieee"
    assert (vars(matmul), vars(cudnn)) == ({"allow_tf32": False}, {"allow_tf32": False})


def math_modes() -> tuple[object, ...]:
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    new = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul) if HAS_NEW_SWITCH else ()
    return (*old_readers(), *(switch.fp32_precision for switch in new))


@pytest.mark.parametrize("found", ["highest", "high", "medium"])
@pytest.mark.parametrize("inside", ["fp32", "tf32"])
def test_the_math_mode_is_kept_whatever_is_switched_inside(found, inside, _tf32_as_found):
    torch.set_float32_matmul_precision(found)
    before = math_modes()
    with pytest.raises(ZeroDivisionError), kept_math_mode(CUDA):
        enable_tf32(policy_of(inside), CUDA)
        raise ZeroDivisionError
    assert math_modes() == before


@new_switch
def test_switches_that_disagree_are_kept_as_they_disagree(_tf32_as_found):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    with kept_math_mode(CUDA):
        enable_tf32(policy_of("fp32"), CUDA)
    cudnn = torch.backends.cudnn
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")


@new_switch
def test_the_cpu_librarys_own_switch_is_kept(_tf32_as_found):
    """Putting the old switch back sets it too, and "none" would no longer follow the level above."""
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    with kept_math_mode(CUDA):
        enable_tf32(policy_of("tf32"), CUDA)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
