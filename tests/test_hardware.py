"""Every device is judged from raw facts, so every device is tested on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ampguard.errors import ConfigError
from ampguard.hardware import (
    PRECISIONS,
    Hardware,
    cpu_hardware,
    cuda_hardware,
    inspect,
    other_hardware,
    pick_device,
    rocm_hardware,
    xpu_hardware,
)

SAPPHIRE = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse avx512f avx512dq avx512_bf16 amx_bf16 avx512_fp16

processor\t: 1
model name\t: something else
flags\t\t: fpu
"""
SKYLAKE = "model name\t: Intel(R) Xeon(R) Gold 6154\nflags\t\t: fpu sse avx512f avx512dq avx512vl avx512bw\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 rng\nCPU implementer\t: 0x41\n"
GRAVITON2 = "processor\t: 0\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\n"


def levels(hardware: Hardware) -> dict[str, str]:
    return {fact.precision: fact.support for fact in hardware.precisions}


def cpu(cpuinfo: str, machine: str = "x86_64", torch_bf16: bool | None = True) -> Hardware:
    return cpu_hardware(cpuinfo, machine=machine, torch_bf16=torch_bf16)


def test_import_loads_no_torch():
    code = "import sys, ampguard.hardware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cpu_with_bf16_instructions_is_native_and_names_its_flags():
    found = cpu(SAPPHIRE)
    assert found.label == "Intel(R) Xeon(R) Platinum 8480+ (CPU)"
    assert levels(found) == {
        "fp32": "native",
        "tf32": "none",
        "bf16-mixed": "native",
        "fp16-mixed": "emulated",
        "fp8-mixed": "none",
        "bf16-true": "native",
    }
    assert "avx512_bf16, amx_bf16" in found.support("bf16-mixed").source
    assert found.native == ("fp32", "bf16-mixed", "bf16-true")


def test_torch_alone_never_makes_bf16_native():
    """torch's check is True on any CPU with AVX-512, bf16 instructions or not."""
    assert cpu(SKYLAKE, torch_bf16=True).support("bf16-mixed").support == "emulated"


def test_a_contradiction_of_flags_and_torch_is_unknown_and_told():
    fact = cpu(SAPPHIRE, torch_bf16=False).support("bf16-mixed")
    assert fact.support == "unknown"
    assert "but torch's oneDNN reports no bf16" in fact.source


def test_flags_suffice_where_torch_does_not_tell():
    fact = cpu(SAPPHIRE, torch_bf16=None).support("bf16-true")
    assert (fact.support, fact.source) == ("native", "/proc/cpuinfo flag avx512_bf16, amx_bf16")


@pytest.mark.parametrize(("cpuinfo", "support"), [(GRAVITON3, "native"), (GRAVITON2, "emulated")])
def test_arm_features_are_read(cpuinfo, support):
    found = cpu(cpuinfo, machine="aarch64", torch_bf16=support == "native")
    assert found.name == "aarch64 processor"
    assert found.support("bf16-mixed").support == support


def test_flags_of_another_architecture_do_not_count():
    assert cpu(GRAVITON3, machine="x86_64").support("bf16-mixed").support == "emulated"


@pytest.mark.parametrize("torch_bf16", [True, False, None])
def test_a_system_without_cpuinfo_is_unknown(torch_bf16):
    found = cpu("", machine="arm64", torch_bf16=torch_bf16)
    assert found.support("bf16-mixed").support == "unknown"
    assert found.support("fp32").support == "native"


@pytest.mark.parametrize(
    ("capability", "tf32", "bf16", "fp16", "fp8"),
    [
        ((6, 1), "none", "emulated", "emulated", "none"),
        ((7, 0), "none", "emulated", "native", "none"),
        ((7, 5), "none", "emulated", "native", "none"),
        ((8, 0), "native", "native", "native", "none"),
        ((8, 6), "native", "native", "native", "none"),
        ((8, 9), "native", "native", "native", "native"),
        ((9, 0), "native", "native", "native", "native"),
        ((12, 0), "native", "native", "native", "native"),
    ],
)
def test_cuda_goes_by_compute_capability(capability, tf32, bf16, fp16, fp8):
    assert levels(cuda_hardware("GPU", capability)) == {
        "fp32": "native",
        "tf32": tf32,
        "bf16-mixed": bf16,
        "fp16-mixed": fp16,
        "fp8-mixed": fp8,
        "bf16-true": bf16,
    }


def test_cuda_sources_name_both_numbers():
    t4, h200 = cuda_hardware("Tesla T4", (7, 5)), cuda_hardware("NVIDIA H200", (9, 0))
    assert t4.support("bf16-mixed").source == "CUDA compute capability 7.5 < 8.0"
    assert h200.support("fp8-mixed").source == "CUDA compute capability 9.0 >= 8.9"
    assert h200.label == "NVIDIA H200 (CUDA)"


@pytest.mark.parametrize(
    ("architecture", "support"), [("gfx942:sramecc+:xnack-", "native"), ("gfx906", "unknown"), ("gfx9421", "unknown")]
)
def test_rocm_goes_by_the_list_of_matrix_cores(architecture, support):
    found = rocm_hardware("AMD GPU", architecture, torch_tf32=None)
    assert {found.support(name).support for name in ("bf16-mixed", "fp16-mixed", "bf16-true")} == {support}
    assert architecture.partition(":")[0] in found.support("bf16-mixed").source


@pytest.mark.parametrize(("told", "support"), [(True, "native"), (False, "none"), (None, "unknown")])
def test_rocm_tf32_is_what_torch_tells(told, support):
    assert rocm_hardware("AMD GPU", "gfx942", torch_tf32=told).support("tf32").support == support


@pytest.mark.parametrize(("told", "support"), [(True, "native"), (False, "emulated"), (None, "unknown")])
def test_xpu_is_what_torch_tells(told, support):
    found = xpu_hardware("Intel GPU", torch_bf16=told, torch_fp16=None)
    assert found.support("bf16-mixed").support == support
    assert found.support("fp16-mixed").support == "unknown"


def test_silent_accelerators_are_unknown_and_have_no_tf32_switch():
    found = other_hardware("mps", "Apple GPU")
    assert found.native == ("fp32",)
    assert found.support("tf32").support == "none"
    assert {found.support(name).support for name in ("bf16-mixed", "fp16-mixed", "fp8-mixed")} == {"unknown"}


def test_every_fact_has_a_source():
    devices = [
        cpu(SAPPHIRE),
        cpu(SKYLAKE),
        cpu(""),
        cuda_hardware("GPU", (7, 5)),
        rocm_hardware("GPU", "gfx942", torch_tf32=True),
        xpu_hardware("GPU", torch_bf16=True, torch_fp16=False),
        other_hardware("other", "hpu"),
    ]
    for found in devices:
        assert tuple(fact.precision for fact in found.precisions) == PRECISIONS
        assert all(fact.source for fact in found.precisions)


def test_support_refuses_a_name_it_has_no_fact_about():
    with pytest.raises(ConfigError, match="'bf17' is unknown"):
        cpu(SAPPHIRE).support("bf17")


def test_inspect_reads_this_cpu():
    found = inspect("cpu")
    assert found.kind == "cpu"
    assert found == inspect(torch.device("cpu"))
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        assert (found.support("bf16-mixed").support == "native") == any(
            flag in cpuinfo.read_text().split() for flag in ("avx512_bf16", "amx_bf16", "bf16")
        )


@pytest.mark.parametrize("name", [None, "auto"])
def test_auto_takes_the_accelerator_that_is_there(name):
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert pick_device(name).type == expected.type


def test_cpu_has_one_spelling():
    assert pick_device("cpu") == pick_device("CPU") == pick_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "cuda:x", "meta", "gpu", "", "cpu:1"])
def test_an_absent_device_is_refused_and_the_present_ones_listed(name):
    with pytest.raises(ConfigError, match="is not there: this machine has") as caught:
        pick_device(name)
    assert {"auto", "cpu"} <= set(caught.value.allowed)


def test_a_misspelled_device_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"Did you mean 'cpu'\?"):
        pick_device("cpuu")
