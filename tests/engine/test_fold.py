"""One norm, one divisor: what stock AMP does in four passes."""

import pytest
import torch

from ampguard.engine.fold import Fold, dense

CPU = torch.device("cpu")


def fold(max_norm: float | None = None, *dtypes: torch.dtype) -> Fold:
    return Fold(dtypes or (torch.float32,), max_norm, CPU)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_any_non_finite_element_shows_in_the_norm(bad, dtype):
    grads = [torch.ones(5, dtype=dtype), torch.ones(2, 3, dtype=dtype)]
    assert torch.isfinite(fold(None, dtype).norm(grads))
    grads[1][1, 2] = bad
    assert not torch.lt(fold(None, dtype).norm(grads), torch.inf)


def test_the_norm_of_half_gradients_is_summed_in_float32():
    grads = [torch.full((100,), 60_000.0, dtype=torch.float16)]
    assert fold(None, torch.float16).norm(grads) == pytest.approx(600_000.0, rel=1e-3)


def test_the_norm_of_float64_gradients_does_not_overflow_on_its_way():
    norm = fold(None, torch.float64).norm([torch.full((1,), 1e25, dtype=torch.float64)])
    assert norm == pytest.approx(1e25) and norm.dtype == torch.float32


def test_a_norm_that_overflows_float32_counts_as_non_finite():
    assert torch.isinf(fold().norm([torch.full((4,), 3e38)]))


@pytest.mark.parametrize("norm", [0.0, 0.1, 0.4999, 0.5, 7.0])
@pytest.mark.parametrize("unscale", [None, 1.0, 1024.0, 3.0])
def test_the_divisor_unscales_and_clips_as_torch_does(norm, unscale):
    size = unscale or 1.0
    divisor = fold(0.5).divisor(torch.tensor(norm * size), None if unscale is None else torch.tensor(unscale))
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([norm])
    torch.nn.utils.clip_grad_norm_([weight], 0.5)
    # Seven roundings between the two, u = 2**-24 (derived in tests/parity/test_scaler_parity.py).
    torch.testing.assert_close(norm * size / divisor, weight.grad[0], rtol=8 * 2.0**-24, atol=0)


def test_without_clipping_the_divisor_is_the_unscaling_itself():
    scale = torch.tensor(8.0)
    assert fold().divisor(torch.ones(()), scale) is scale
    assert fold().divisor(torch.ones(()), None) is None


def test_the_values_of_a_sparse_gradient_share_its_memory():
    sparse = torch.sparse_coo_tensor([[1]], [[2.0]], (3, 1), check_invariants=True).coalesce()
    (values,) = dense([sparse])
    values.mul_(3)
    assert sparse.to_dense()[1, 0] == 6.0
