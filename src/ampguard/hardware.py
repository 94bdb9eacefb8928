"""What a device can do in each precision: every fact with its source.

How it works: one pure function per kind of device turns raw facts (the text of /proc/cpuinfo, a compute
capability, an architecture name) into a `Hardware`; `inspect` reads those facts from this machine. The pure
functions hold all the judgement, so every device is tested on any machine.

What the words mean: "native" = instructions made for this format; "emulated" = torch computes it, without such
instructions and with no hope of speed; "none" = nothing computes it; "unknown" = nobody told, and we do not guess.

Left out: speed (a benchmark measures it) and what a build of torch lacks beyond its one check of CPU bf16.
Importing this module imports no torch.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ampguard.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "tf32", "bf16-mixed", "fp16-mixed", "fp8-mixed", "bf16-true")
"""Every precision, by the name that records use."""

Level = Literal["native", "emulated", "none", "unknown"]
Kind = Literal["cpu", "cuda", "rocm", "xpu", "mps", "other"]
Fact = tuple[Level, str]
"""(support, source): what is known of one precision, and who says so."""

_FP32: Fact = ("native", "IEEE float32, which every device of torch computes")
_NO_TF32_SWITCH: Fact = ("none", "ampguard switches tf32 on CUDA and ROCm devices only")
_SLOW_FP16: Fact = (
    "emulated",
    "torch trains in fp16 on a CPU no faster than in fp32, and some convolutions about 100 times slower "
    "(measured with torch 2.13 on a CPU with AVX512-FP16)",
)
_X86_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_ARM_BF16_FLAGS = ("bf16",)
_FAMILIES = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "xpu": "XPU", "mps": "MPS", "other": "accelerator"}
_ROCM_MATRIX_CORES = ("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1102", "gfx1200", "gfx1201")


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a device does with one precision, and who says so."""

    precision: str
    """One of PRECISIONS."""
    support: Level
    """How it is computed; "unknown" where nobody told."""
    source: str
    """Where the fact comes from, for example "CUDA compute capability 9.0 >= 8.0"."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device and its facts, one per precision."""

    kind: Kind
    """Family of the device; "rocm" is an AMD GPU, which torch calls "cuda"."""
    name: str
    """Product name, for example "NVIDIA H200"."""
    precisions: tuple[Support, ...]
    """One fact per name in PRECISIONS, in that order."""

    @property
    def label(self) -> str:
        """Name and family in one short text: "NVIDIA H200 (CUDA)"."""
        return f"{self.name} ({_FAMILIES[self.kind]})"

    @property
    def native(self) -> tuple[str, ...]:
        """The precisions with instructions of their own."""
        return tuple(fact.precision for fact in self.precisions if fact.support == "native")

    def support(self, precision: str) -> Support:
        """Return the fact about one precision.

        Raises:
            ConfigError: `precision` is not in PRECISIONS.
        """
        for fact in self.precisions:
            if fact.precision == precision:
                return fact
        raise ConfigError(f"precision {precision!r} is unknown.", allowed=PRECISIONS)


def cpu_hardware(cpuinfo: str, *, machine: str, torch_bf16: bool | None) -> Hardware:
    """Return what a CPU can do.

    Args:
        cpuinfo: Text of /proc/cpuinfo; "" where the system has none.
        machine: Architecture as `platform.machine()` names it.
        torch_bf16: What torch's oneDNN check says of bf16; None where torch does not tell.
    """
    fields = _first_processor(cpuinfo)
    name = fields.get("model name") or f"{machine or 'unknown'} processor"
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    bf16 = _cpu_bf16(flags, _ARM_BF16_FLAGS if machine in ("aarch64", "arm64") else _X86_BF16_FLAGS, torch_bf16)
    tf32: Fact = ("none", "tf32 is a mode of GPU matrix units")
    fp8: Fact = ("none", "fp8 training needs a GPU: CUDA compute capability 8.9 or higher")
    return _hardware("cpu", name, tf32=tf32, bf16=bf16, fp16=_SLOW_FP16, fp8=fp8)


def _first_processor(cpuinfo: str) -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; the others repeat them."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_bf16(flags: frozenset[str], wanted: tuple[str, ...], torch_bf16: bool | None) -> Fact:
    """Return what the flags and torch say together; where they contradict each other, that nobody knows.

    torch's check is true on any CPU with AVX-512, with or without bf16 instructions: it confirms, and never tells.
    Source: torch aten/src/ATen/native/mkldnn/Utils.h, mkldnn_bf16_device_check.
    """
    if not flags:
        return "unknown", "this system tells no CPU flags (/proc/cpuinfo)"
    found = [flag for flag in wanted if flag in flags]
    if not found:
        return "emulated", f"/proc/cpuinfo has none of the flags {', '.join(wanted)}"
    source = f"/proc/cpuinfo flag {', '.join(found)}"
    if torch_bf16 is False:
        return "unknown", f"{source}, but torch's oneDNN reports no bf16 (a build without it, or ONEDNN_MAX_CPU_ISA)"
    return "native", source if torch_bf16 is None else f"{source}; torch's oneDNN agrees"


def cuda_hardware(name: str, capability: tuple[int, int]) -> Hardware:
    """Return what an NVIDIA GPU can do.

    Args:
        name: Product name.
        capability: CUDA compute capability (major, minor).

    Source: CUDA C++ Programming Guide, table of features per compute capability. `is_bf16_supported()` of torch is
    also True below 8.0, where bf16 is emulated.
    """
    return _hardware(
        "cuda",
        name,
        tf32=_since(capability, (8, 0), below="none"),
        bf16=_since(capability, (8, 0), below="emulated"),
        fp16=_since(capability, (7, 0), below="emulated"),
        fp8=_since(capability, (8, 9), below="none"),
    )


def _since(capability: tuple[int, int], needed: tuple[int, int], *, below: Level) -> Fact:
    """Return "native" from the needed compute capability on, else `below`."""
    enough = capability >= needed
    source = f"CUDA compute capability {_dotted(capability)} {'>=' if enough else '<'} {_dotted(needed)}"
    return "native" if enough else below, source


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def rocm_hardware(name: str, architecture: str, *, torch_tf32: bool | None) -> Hardware:
    """Return what an AMD GPU can do.

    Args:
        name: Product name.
        architecture: As torch's `gcnArchName`, for example "gfx942:sramecc+:xnack-".
        torch_tf32: `torch.cuda.is_tf32_supported()`; None where torch does not tell.

    Source: rocWMMA API reference, supported GPU architectures. torch answers "bf16 supported" on every AMD GPU,
    which tells nothing.
    """
    chip = architecture.partition(":")[0]
    listed = chip in _ROCM_MATRIX_CORES
    matrix: Fact = ("native" if listed else "unknown", f"{chip} {'in' if listed else 'not in'} rocWMMA's list of GPUs")
    tf32 = _told(torch_tf32, "torch.cuda.is_tf32_supported()", otherwise="none")
    return _hardware("rocm", name, tf32=tf32, bf16=matrix, fp16=matrix, fp8=("unknown", "torch does not tell"))


def xpu_hardware(name: str, *, torch_bf16: bool | None, torch_fp16: bool | None) -> Hardware:
    """Return what an Intel GPU can do.

    Args:
        name: Product name.
        torch_bf16: The device property has_bfloat16_conversions; None where torch does not tell.
        torch_fp16: The device property has_fp16; None where torch does not tell.
    """
    bf16 = _told(torch_bf16, "XPU property has_bfloat16_conversions", otherwise="emulated")
    fp16 = _told(torch_fp16, "XPU property has_fp16", otherwise="emulated")
    return _hardware("xpu", name, tf32=_NO_TF32_SWITCH, bf16=bf16, fp16=fp16, fp8=("unknown", "torch does not tell"))


def _told(answer: bool | None, source: str, *, otherwise: Level) -> Fact:
    """Return what torch answered: "native", `otherwise` for no, "unknown" for no answer."""
    if answer is None:
        return "unknown", f"this torch does not tell ({source})"
    return "native" if answer else otherwise, f"{source} is {answer}"


def other_hardware(kind: Kind, name: str) -> Hardware:
    """Return a device of which torch tells nothing beyond that it is there: MPS, and any other accelerator."""
    silent: Fact = ("unknown", f"torch does not tell what {name} has instructions for")
    return _hardware(kind, name, tf32=_NO_TF32_SWITCH, bf16=silent, fp16=silent, fp8=silent)


def _hardware(kind: Kind, name: str, *, tf32: Fact, bf16: Fact, fp16: Fact, fp8: Fact) -> Hardware:
    """Build a Hardware; bf16-true needs exactly what bf16-mixed needs."""
    facts = zip(PRECISIONS, (_FP32, tf32, bf16, fp16, fp8, bf16), strict=True)
    supports = tuple(Support(precision=name, support=level, source=source) for name, (level, source) in facts)
    return Hardware(kind=kind, name=name, precisions=supports)


def inspect(device: "str | torch.device | None" = None) -> Hardware:
    """Read what a device of this machine can do.

    Args:
        device: Device or its name; None: the one that `pick_device(None)` returns.

    Raises:
        ConfigError: This machine has no such device.
    """
    import torch

    found = pick_device(None if device is None else str(device))
    match found.type:
        case "cpu":
            return cpu_hardware(_cpuinfo(), machine=platform.machine(), torch_bf16=_torch_cpu_bf16())
        case "cuda" if torch.version.hip:
            properties = torch.cuda.get_device_properties(found)
            tells_tf32 = hasattr(torch.cuda, "is_tf32_supported")
            with torch.cuda.device(found):
                tf32 = torch.cuda.is_tf32_supported() if tells_tf32 else None
            return rocm_hardware(properties.name, properties.gcnArchName, torch_tf32=tf32)
        case "cuda":
            return cuda_hardware(torch.cuda.get_device_name(found), torch.cuda.get_device_capability(found))
        case "xpu":
            told = torch.xpu.get_device_capability(found)
            bf16, fp16 = told.get("has_bfloat16_conversions"), told.get("has_fp16")
            return xpu_hardware(torch.xpu.get_device_name(found), torch_bf16=bf16, torch_fp16=fp16)
        case "mps":
            return other_hardware("mps", "Apple GPU")
        case other:
            return other_hardware("other", other)


def _cpuinfo() -> str:
    """Return the text of /proc/cpuinfo; "" where there is none (macOS, Windows), as `cpu_hardware` takes it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _torch_cpu_bf16() -> bool | None:
    """Return torch's oneDNN check of bf16; None where this torch has no such check."""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:
        return None


def pick_device(name: str | None = None) -> "torch.device":
    """Return the device to train on.

    Args:
        name: "cpu", or an accelerator's type with or without index ("cuda", "cuda:1"); None or "auto": the current
            accelerator, or the CPU where there is none.

    Raises:
        ConfigError: This machine has no such device.
    """
    import torch

    present = list(_present())
    allowed = ("auto", *present)
    if name in (None, "auto"):
        return torch.device(present[0])
    wanted = str(name).strip().lower()
    # One device has several spellings; a tensor reports the one that `present` holds.
    spelled = {"cpu:0": "cpu", present[0].partition(":")[0]: present[0]}
    wanted = spelled.get(wanted, wanted)
    if wanted in present:
        return torch.device(wanted)
    raise ConfigError(
        f"device {name!r} is not there: this machine has {', '.join(present)}.",
        allowed=allowed,
        hint=did_you_mean(wanted, allowed) or "Use 'auto', or check the driver and that this torch was built for it.",
    )


def _present() -> Iterator[str]:
    """Yield the names of this machine's devices, the current accelerator first and the CPU last."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        current = torch.accelerator.current_device_index()
        indices = range(torch.accelerator.device_count())
        yield from (f"{accelerator.type}:{i}" for i in sorted(indices, key=lambda i: i != current))
    yield "cpu"
