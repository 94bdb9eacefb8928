"""A model that asserts its own dtypes inside forward, run under the Guard in each precision."""

import pytest
import torch
from torch import Tensor, nn

from ampguard import Guard
from ampguard.precision import IMPLEMENTED, policy_of

CPU_PRECISIONS = tuple(name for name in IMPLEMENTED if name not in ("tf32", "fp8-mixed"))
"""tf32 and fp8 are computed by GPUs only."""


class Probe(nn.Module):
    """Asserts, where it happens, the dtype of its input, weights, product and sensitive operations."""

    def __init__(self, storage: torch.dtype, compute: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.storage, self.compute = storage, compute
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert self.linear.weight.dtype == self.storage
        assert self.linear(x).dtype == self.compute
        assert torch.mm(x, x).dtype == self.compute
        product = self.linear(x)
        # On autocast's list of what needs float32.
        assert nn.functional.mse_loss(product, x.to(product.dtype)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu") == (self.compute != torch.float32)
        self.forwards += 1
        return product


def guarded(precision: str) -> tuple[Probe, Guard]:
    policy = policy_of(precision)
    model = Probe(policy.storage_dtype, policy.compute_dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, Guard(model, optimizer, precision=precision, on_unsupported="emulate", init_scale=2.0)


@pytest.mark.parametrize("precision", CPU_PRECISIONS)
def test_a_forward_under_the_guard_sees_the_dtypes_of_its_precision(precision):
    model, guard = guarded(precision)
    for _ in range(2):
        with guard.autocast():
            loss = model(torch.randn(8, 8)).float().square().mean()
        guard.backward(loss)
        guard.step()
    assert model.forwards == 2
    # The precision is the forward's alone: gradients are kept as the weights are.
    assert model.linear.weight.dtype == policy_of(precision).storage_dtype
    assert not torch.is_autocast_enabled("cpu")


def test_outside_the_guards_context_the_probe_fails():
    model, _ = guarded("bf16-mixed")
    with pytest.raises(AssertionError):
        model(torch.randn(8, 8))


def test_a_part_that_is_overridden_sees_its_own_dtypes():
    part = Probe(torch.float32, torch.float32)
    model = nn.Sequential(nn.Linear(8, 8), part)
    guard = Guard(
        model, torch.optim.SGD(model.parameters(), lr=0.1), precision="bf16-mixed", overrides={"1": "fp32"},
        on_unsupported="emulate",
    )  # fmt: skip
    with guard.autocast():
        assert model[0](torch.randn(8, 8)).dtype == torch.bfloat16
        assert model(torch.randn(8, 8)).dtype == torch.float32
    assert part.forwards == 1
