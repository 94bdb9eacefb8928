import pytest
import torch

from ampguard.errors import PrecisionError
from ampguard.precision.names import AUTO, NAMES, canonical


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        *((name, name) for name in (AUTO, *NAMES)),
        *((given, "fp32") for given in (32, "32", "32-true", "float32", "float", "no", "full", torch.float32)),
        *(
            (given, "fp16-mixed")
            for given in (16, "16", "16-mixed", "fp16", "float16", "amp", torch.float16, torch.half)
        ),
        *((given, "bf16-mixed") for given in ("bf16", "bfloat16", "BF16", " bf16 ", "bf16_mixed", torch.bfloat16)),
        *((given, "fp8-mixed") for given in ("fp8", "float8", torch.float8_e4m3fn)),
        ("tensorfloat32", "tf32"),
        ("TF32", "tf32"),
        ("bfloat16-true", "bf16-true"),
        ("torch.bfloat16", "bf16-mixed"),
        ("mixed_bfloat16", "bf16-mixed"),
    ],
)
def test_habits_are_understood(spelling, name):
    assert canonical(spelling) == name


@pytest.mark.parametrize("spelling", ["fp16-true", "16-true", "float16-true", "half", "HALF"])
def test_fp16_weights_are_refused_with_reason_and_alternative(spelling):
    with pytest.raises(PrecisionError, match="fp16 weights lose every update") as caught:
        canonical(spelling)
    assert "'fp16-mixed'" in caught.value.hint


@pytest.mark.parametrize(
    ("typo", "meant"), [("bf17", "bf16"), ("fp15", "fp16"), ("tf23", "tf32"), ("bf16-mixd", "bf16-mixed")]
)
def test_a_typo_lists_what_is_allowed_and_suggests(typo, meant):
    with pytest.raises(PrecisionError) as caught:
        canonical(typo)
    assert caught.value.allowed == (AUTO, *NAMES)
    assert caught.value.hint == f"Did you mean {meant!r}?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("given", [True, False])
def test_a_bool_is_no_precision(given):
    with pytest.raises(PrecisionError, match="is a bool"):
        canonical(given)


@pytest.mark.parametrize("given", [None, 64, 0, 16.5, "", object(), ["bf16"], torch.float64])
def test_what_names_no_precision_is_unknown(given):
    with pytest.raises(PrecisionError, match="is unknown"):
        canonical(given)
