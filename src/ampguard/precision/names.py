"""The names of the precisions, and the spellings of people's habits.

Frameworks spell a precision in many ways: 32, "32-true", "16-mixed", "fp16", "no", torch.bfloat16. `canonical` takes
them all, through one table, to one of NAMES or AUTO. Spellings of fp16 weights are refused with the reason. What a
device makes of a precision is not known here. This file needs no torch.
"""

from collections.abc import Sequence

from ampguard.errors import PrecisionError, did_you_mean
from ampguard.hardware import PRECISIONS

AUTO = "auto"
NAMES = PRECISIONS
"""Every precision, by the name that records and messages use."""

_SPELLINGS: dict[str, Sequence[str]] = {
    "fp32": ("32", "32-true", "float32", "float", "fp32-true", "no", "full"),
    "tf32": ("tensorfloat32", "tensorfloat-32"),
    "bf16-mixed": ("bf16", "bfloat16", "mixed-bf16", "mixed-bfloat16", "bfloat16-mixed"),
    "fp16-mixed": ("16", "16-mixed", "fp16", "float16", "amp", "mixed-fp16", "mixed-float16", "float16-mixed"),
    "fp8-mixed": ("8-mixed", "fp8", "float8", "float8-mixed", "float8-e4m3fn", "float8-e5m2"),
    "bf16-true": ("bfloat16-true",),
}
_REFUSED = ("fp16-true", "16-true", "float16-true", "half")
_KNOWN = {AUTO: AUTO} | {spelling: name for name in NAMES for spelling in (name, *_SPELLINGS[name])}


def canonical(name: object) -> str:
    """Return the name of the precision that `name` spells.

    Args:
        name: A str, an int (32, 16) or a torch dtype; case, "_" for "-" and a leading "torch." do not matter.

    Returns:
        One of NAMES, or AUTO.

    Raises:
        PrecisionError: `name` is unknown, a bool, or asks for fp16 weights.
    """
    # True would otherwise be the text "true", and a flag given by mistake deserves its own words.
    if isinstance(name, bool):
        raise PrecisionError(f"precision {name!r} is a bool.", allowed=(AUTO, *NAMES), hint="Name the precision.")
    spelling = str(name).strip().lower().removeprefix("torch.").replace("_", "-")
    if spelling in _REFUSED:
        raise PrecisionError(
            f"precision {name!r} is refused: fp16 weights lose every update smaller than about a thousandth of the "
            "weight, and training stalls.",
            hint="Use 'fp16-mixed' (fp16 compute, fp32 weights), or 'bf16-true' to halve the weights' memory.",
        )
    if spelling not in _KNOWN:
        hint = did_you_mean(spelling, tuple(_KNOWN))
        raise PrecisionError(f"precision {name!r} is unknown.", allowed=(AUTO, *NAMES), hint=hint)
    return _KNOWN[spelling]
