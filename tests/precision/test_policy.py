import pytest
import torch

from ampguard.errors import PrecisionError
from ampguard.precision import IMPLEMENTED, policy_of


def test_only_bf16_true_gives_up_fp32_weights():
    narrow = {name for name in IMPLEMENTED if policy_of(name).storage_dtype is not torch.float32}
    assert narrow == {"bf16-true"}


def test_only_fp16_is_scaled():
    assert {name for name in IMPLEMENTED if policy_of(name).scaled} == {"fp16-mixed"}


def test_gradients_are_reduced_in_float32_whatever_the_precision():
    assert {policy_of(name).reduce_dtype for name in IMPLEMENTED} == {torch.float32}


def test_float32_precisions_do_not_autocast():
    assert {name for name in IMPLEMENTED if not policy_of(name).autocasts} == {"fp32", "tf32"}


@pytest.mark.parametrize("name", ["fp8-mixed", "auto"])
def test_what_this_version_does_not_train_in_has_no_policy(name):
    with pytest.raises(PrecisionError, match="not available in this version") as caught:
        policy_of(name)
    assert caught.value.allowed == IMPLEMENTED
