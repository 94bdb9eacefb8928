import logging

import pytest
import torch

from ampguard.errors import ConfigError, PrecisionError
from ampguard.hardware import Hardware, cpu_hardware, cuda_hardware, other_hardware, rocm_hardware, xpu_hardware
from ampguard.precision import NAMES, resolve
from ampguard.records import PrecisionRecord


def cpu(flags: str) -> Hardware:
    return cpu_hardware(f"model name : Xeon\nflags : {flags}\n", machine="x86_64", torch_bf16=True)


FAST_CPU, PLAIN_CPU = cpu("sse avx512_bf16"), cpu("sse avx512f")
T4, A100, H200 = (
    cuda_hardware("Tesla T4", (7, 5)),
    cuda_hardware("NVIDIA A100", (8, 0)),
    cuda_hardware("NVIDIA H200", (9, 0)),
)
PASCAL = cuda_hardware("GTX 1080", (6, 1))
MPS = other_hardware("mps", "Apple GPU")
UNSAID = cpu_hardware("", machine="arm64", torch_bf16=None)


def never(_: object) -> dict[str, float]:
    raise AssertionError("measured where nothing is to be measured")


@pytest.fixture
def warnings_of(caplog):
    caplog.set_level(logging.WARNING, logger="ampguard.precision")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("hardware", "requested"),
    [
        (FAST_CPU, "bf16"),
        (FAST_CPU, "bf16-true"),
        (T4, "fp16"),
        (A100, "tf32"),
        (H200, torch.bfloat16),
        (PASCAL, 32),
        (UNSAID, "fp32"),
    ],
)
@pytest.mark.parametrize("mode", ["fallback", "error", "emulate"])
def test_what_the_device_has_is_granted_without_a_word(hardware, requested, mode, warnings_of):
    decision = resolve(requested, hardware, on_unsupported=mode, measure=never)
    assert decision.granted == decision.requested != "auto"
    assert decision.policy.name == decision.granted
    assert warnings_of() == []


def test_a_decision_reads_as_one_line_and_becomes_a_record():
    decision = resolve("auto", H200)
    assert str(decision) == "bf16-mixed (native on NVIDIA H200)"
    assert decision.record() == PrecisionRecord(requested="auto", granted="bf16-mixed", reason="native on NVIDIA H200")
    assert str(resolve("no", H200)) == "fp32 (as requested)"


LACKING = [
    (FAST_CPU, "fp16"),
    (FAST_CPU, "tf32"),
    (FAST_CPU, "fp8"),
    (PLAIN_CPU, "bf16"),
    (PLAIN_CPU, "bf16-true"),
    (T4, "bf16"),
    (T4, "tf32"),
    (PASCAL, "fp16"),
    (H200, "fp8"),
    (MPS, "tf32"),
    (MPS, "fp8"),
]


@pytest.mark.parametrize(("hardware", "requested"), LACKING)
def test_what_the_device_lacks_falls_back_to_fp32_with_one_warning(hardware, requested, warnings_of):
    decision = resolve(requested, hardware)
    assert decision.granted == "fp32"
    assert decision.reason.startswith(f"fallback: {decision.requested} ")
    (warning,) = warnings_of()
    assert repr(decision.requested) in warning
    assert "uses fp32 instead" in warning


@pytest.mark.parametrize(("hardware", "requested"), LACKING)
def test_on_error_nothing_is_granted(hardware, requested, warnings_of):
    with pytest.raises(PrecisionError) as caught:
        resolve(requested, hardware, on_unsupported="error")
    assert "fp32" in caught.value.allowed
    assert "fp8-mixed" not in caught.value.allowed
    assert warnings_of() == []


def test_the_error_says_what_is_needed_what_is_there_and_what_to_use():
    with pytest.raises(PrecisionError) as caught:
        resolve("fp16", FAST_CPU, on_unsupported="error")
    message = str(caught.value)
    assert message.startswith(
        "precision 'fp16-mixed' needs a GPU with fp16 matrix units; this machine has Xeon (CPU): "
    )
    assert message.endswith("Allowed: fp32, bf16-mixed, bf16-true. Use 'bf16-mixed', or 'auto' to let ampguard choose.")


@pytest.mark.parametrize(
    ("hardware", "requested", "better"),
    [(T4, "bf16", "fp16-mixed"), (A100, "fp8", "bf16-mixed"), (PASCAL, "fp16", "fp32")],
)
def test_the_better_alternative_is_native(hardware, requested, better):
    with pytest.raises(PrecisionError) as caught:
        resolve(requested, hardware, on_unsupported="error")
    assert caught.value.hint.startswith(f"Use {better!r}")


@pytest.mark.parametrize(
    ("hardware", "requested"), [(FAST_CPU, "fp16"), (PLAIN_CPU, "bf16"), (T4, "bf16-true"), (PASCAL, "fp16")]
)
def test_emulate_grants_with_one_warning(hardware, requested, warnings_of):
    decision = resolve(requested, hardware, on_unsupported="emulate")
    assert decision.granted == decision.requested
    assert decision.reason.startswith("emulated on")
    assert len(warnings_of()) == 1


@pytest.mark.parametrize(("hardware", "requested"), [(FAST_CPU, "tf32"), (FAST_CPU, "fp8"), (T4, "fp8"), (H200, "fp8")])
def test_what_nothing_emulates_is_an_error(hardware, requested):
    with pytest.raises(PrecisionError, match=r"needs|not available in this version"):
        resolve(requested, hardware, on_unsupported="emulate")


@pytest.mark.parametrize("mode", ["fallback", "error", "emulate"])
@pytest.mark.parametrize("hardware", [MPS, UNSAID])
def test_unknown_support_is_granted_to_who_asks_by_name_and_told(hardware, mode, warnings_of):
    decision = resolve("bf16", hardware, on_unsupported=mode)
    assert decision.granted == "bf16-mixed"
    assert "is unknown" in decision.reason
    assert len(warnings_of()) == 1


@pytest.mark.parametrize(
    ("hardware", "granted"),
    [
        (H200, "bf16-mixed"),
        (A100, "bf16-mixed"),
        (T4, "fp16-mixed"),
        (PASCAL, "fp32"),
        (MPS, "fp32"),
        (rocm_hardware("AMD Instinct MI300X", "gfx942", torch_tf32=True), "bf16-mixed"),
        (rocm_hardware("Radeon VII", "gfx906", torch_tf32=False), "fp32"),
        (xpu_hardware("Intel GPU", torch_bf16=False, torch_fp16=True), "fp16-mixed"),
        (PLAIN_CPU, "fp32"),
        (UNSAID, "fp32"),
    ],
)
def test_auto_takes_only_what_is_native_and_measures_nothing_there(hardware, granted, warnings_of):
    decision = resolve("auto", hardware, measure=never)
    assert decision.granted == granted
    assert hardware.support(decision.granted).support == "native"
    assert hardware.name in decision.reason
    assert warnings_of() == []


def test_auto_says_why_it_passed_bf16_over():
    assert "bf16-mixed is emulated there: CUDA compute capability 7.5 < 8.0" in resolve("auto", T4).reason


def test_auto_on_a_bf16_cpu_grants_fp32_where_nothing_times_and_says_how_to_get_bf16():
    decision = resolve("auto", FAST_CPU)
    assert decision.granted == "fp32"
    assert "precision='bf16-mixed'" in decision.reason


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "granted"), [(0.02, 0.0125, "bf16-mixed"), (0.0125, 0.02, "fp32"), (0.02, 0.02, "fp32")]
)
def test_auto_on_a_bf16_cpu_grants_the_faster_and_names_both_times(fp32_s, bf16_s, granted):
    asked = []

    def measure(names):
        asked.append(tuple(names))
        return {"fp32": fp32_s, "bf16-mixed": bf16_s}

    decision = resolve("auto", FAST_CPU, measure=measure)
    assert decision.granted == granted
    assert f"fp32 {fp32_s * 1e3:.3g} ms" in decision.reason
    assert f"bf16-mixed {bf16_s * 1e3:.3g} ms" in decision.reason
    assert asked == [("fp32", "bf16-mixed")]


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"fp32": 0.02},
        {"bf16-mixed": 0.02},
        {"fp32": 0.02, "bf16-mixed": 0.0},
        {"fp32": 0.02, "bf16-mixed": -1.0},
        {"fp32": float("nan"), "bf16-mixed": 0.02},
        {"fp32": float("inf"), "bf16-mixed": 0.02},
    ],
)
def test_unusable_times_grant_fp32(times):
    decision = resolve("auto", FAST_CPU, measure=lambda _: times)
    assert decision.granted == "fp32"
    assert "no usable figures" in decision.reason


def test_an_unknown_mode_is_refused_even_where_it_would_not_matter():
    with pytest.raises(ConfigError, match=r"Did you mean 'fallback'\?") as caught:
        resolve("fp32", H200, on_unsupported="fallbak")
    assert caught.value.allowed == ("fallback", "error", "emulate")


@pytest.mark.parametrize("requested", NAMES)
@pytest.mark.parametrize("hardware", [FAST_CPU, PLAIN_CPU, T4, A100, H200, PASCAL, MPS, UNSAID])
def test_whatever_is_granted_can_be_trained_in(hardware, requested):
    assert resolve(requested, hardware).policy.name in (requested, "fp32")
