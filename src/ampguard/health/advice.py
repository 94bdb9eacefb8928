"""Which modules do not fit a format, by what was measured, and the overrides that keep them in fp32.

    values       what a module returns, is given, or has as weights: cast as they are
    gradients    fp16: multiplied by the loss scale, which is one for the whole model: the power of two from 1 to 2**24
                 with which the fewest modules have to stay in fp32, and of several the largest, for dynamic scaling
                 grows until a gradient overflows. bf16: as they are
    e4m3, e5m2   each tensor with a scale of its own, which takes its largest value to the format's; then nothing
                 overflows, and the question is what is left of the small values

A module is advised against if one value overflows, for a single inf ruins a step, or if more than FLUSHED_PCT of its
values, those that are 0 anyway apart, would become 0. Modules that share the fault become one glob where the glob means
no other module: `blocks.*.mlp`.

Left out: whether the flushed values matter. Only a run in the format tells (`ampguard bench`).

Source: Micikevicius et al. 2018, section 3.2, for the loss scale (arXiv:1710.03740); Micikevicius et al. 2022 for
scales per tensor (arXiv:2209.05433).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ampguard.errors import ConfigError, did_you_mean
from ampguard.health.families import families
from ampguard.health.formats import FORMATS, LOSS_SCALES, Format
from ampguard.health.ranges import RangeRow

FLUSHED_PCT = 5.0
"""Share of values lost to 0 that is let pass, our choice. Source for its size: Micikevicius et al. 2018, section 3.1,
where about 5 % of weight gradients lie below 2**-24 and are expected to hurt accuracy when they are lost."""

_SCALED_BY_TENSOR = ("e4m3", "e5m2")
_GRADIENTS = ("gradient", "weight_gradient")

_PHRASES = {
    "weight": "its weights",
    "activation": "the values it returns",
    "gradient": "the gradients of what it returns",
    "weight_gradient": "its weights' gradients",
}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to keep in fp32 when the rest runs in a format."""

    format: str
    overrides: dict[str, str]
    """{glob: "fp32"}, as `train` takes them."""
    reasons: dict[str, str]
    """Of each glob, with figures."""
    summary: str
    """The whole in one sentence."""
    loss_scale: dict[str, float | None] | None
    """fp16: {"largest", "needed"} for the modules that stay in it: the powers of two with which no gradient overflows,
    and with which no module loses more than FLUSHED_PCT. None where there is no such one, or no gradient."""


def advise(rows: Sequence[RangeRow], name: str, *, steps: int | None = None) -> Advice:
    """Return what follows from the rows for a format.

    Args:
        rows: From `Ranges.table`.
        name: fp16, bf16, e4m3 or e5m2.
        steps: How many steps were measured, for the summary.

    Raises:
        ConfigError: There is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is unknown.", allowed=FORMATS, hint=did_you_mean(name, tuple(FORMATS)))
    item = FORMATS[name]
    faults = _all_faults(rows, item)
    fqns = list(dict.fromkeys(row.fqn for row in rows))
    # Neither the model itself nor a module that never ran can be overridden. Where every module would have to be,
    # another format is the answer.
    ran = {row.fqn for row in rows if row.kind == "activation"}
    every = len(faults) == len(fqns)
    faulty = set() if every else {fqn for fqn in faults if fqn and fqn in ran}
    reasons = {glob: _reason(glob, members, faults) for glob, members in families(faulty, fqns).items()}
    return Advice(
        format=name,
        overrides=dict.fromkeys(reasons, "fp32"),
        reasons=reasons,
        summary=_summary(rows, item, faults, steps),
        loss_scale=None if name != "fp16" or every else _loss_scales([r for r in rows if r.fqn not in faulty], item),
    )


def _all_faults(rows: Sequence[RangeRow], item: Format) -> dict[str, list[str]]:
    """Return the faults of each module that has any."""
    loss_scale = _best_loss_scale(rows, item) if item.name == "fp16" else 1.0
    faults: dict[str, list[str]] = {}
    for row in rows:
        if found := _faults(row, item, _scale(row, item, loss_scale)):
            faults.setdefault(row.fqn, []).extend(found)
    return faults


def _scale(row: RangeRow, item: Format, loss_scale: float) -> float:
    """Return what a row's values are multiplied by before the cast."""
    if item.name in _SCALED_BY_TENSOR:
        return item.largest / row.max_abs if row.max_abs else 1.0
    return loss_scale if row.kind in _GRADIENTS else 1.0


def _best_loss_scale(rows: Sequence[RangeRow], item: Format) -> float:
    """Return the loss scale with which the fewest modules leave the range; the largest of several."""
    gradients = [row for row in rows if row.kind in _GRADIENTS]

    def leaving(scale: float) -> int:
        return len({row.fqn for row in gradients if _overflows(row, item, scale) or _flushes(row, item, scale)})

    return min(reversed(LOSS_SCALES), key=leaving)


def _overflows(row: RangeRow, item: Format, scale: float) -> bool:
    return _beyond((row.max_abs or 0.0) * scale, item)


def _overflows_given(magnitude: float, item: Format) -> bool:
    return item.name not in _SCALED_BY_TENSOR and _beyond(magnitude, item)


def _flushes(row: RangeRow, item: Format, scale: float) -> bool:
    return row.histogram.flushed_pct(item, scale) > FLUSHED_PCT


def _faults(row: RangeRow, item: Format, scale: float) -> list[str]:
    phrase = _PHRASES[row.kind]
    scaled = "" if scale == 1.0 else f" when multiplied by {_power(scale)}"
    end = f"{item.name} ends at {item.largest:.6g}"
    found = []
    if _overflows(row, item, scale):
        found.append(f"{phrase} go up to {(row.max_abs or 0.0) * scale:.3g}{scaled}, and {end}")
    elif row.max_input_abs is not None and _overflows_given(row.max_input_abs, item):
        found.append(f"the values it is given go up to {row.max_input_abs:.3g}, and {end}")
    if _flushes(row, item, scale):
        found.append(f"{row.histogram.flushed_pct(item, scale):.3g} % of {phrase} become 0{scaled}")
    return found


def _beyond(magnitude: float, item: Format) -> bool:
    edge = item.overflow
    return magnitude > edge.value or (magnitude == edge.value and not edge.above)


def _power(scale: float) -> str:
    exponent = math.log2(scale)
    return f"2**{exponent:.0f}" if exponent == round(exponent) else f"{scale:.3g}"


def _loss_scales(rows: Iterable[RangeRow], item: Format) -> dict[str, float | None]:
    gradients = [row for row in rows if row.kind in _GRADIENTS and row.max_abs]
    scales = LOSS_SCALES if gradients else ()
    safe = (scale for scale in reversed(scales) if not any(_overflows(row, item, scale) for row in gradients))
    enough = (scale for scale in scales if not any(_flushes(row, item, scale) for row in gradients))
    return {"largest": next(safe, None), "needed": next(enough, None)}


def _summary(rows: Sequence[RangeRow], item: Format, faults: Mapping[str, object], steps: int | None) -> str:
    during = "" if steps is None else f" in {'this step' if steps == 1 else f'these {steps} steps'}"
    if item.name in _SCALED_BY_TENSOR:
        during += ", each tensor scaled to it"
    measured = len({row.fqn for row in rows})
    if not measured:
        return "nothing was measured."
    if len(faults) == measured:
        return f"every module of this model leaves {item.name}'s range{during}: use another format."
    if faults:
        leave = "leaves" if len(faults) == 1 else "leave"
        return f"{len(faults)} of {measured} modules of this model {leave} {item.name}'s range{during}."
    return f"no module of this model leaves {item.name}'s range{during}{_closest(rows, item)}."


def _closest(rows: Sequence[RangeRow], item: Format) -> str:
    values = [row for row in rows if row.kind not in _GRADIENTS and row.max_abs]
    if item.name in _SCALED_BY_TENSOR or not values:
        return ""
    top = max(values, key=lambda row: row.max_abs or 0.0)
    share = item.largest / (top.max_abs or 1.0)
    place = f" ({top.fqn})" if top.fqn else ""
    return f"; its largest value, {top.max_abs:.3g}{place}, is {share:.3g} times below the end of it"


def _reason(glob: str, members: Sequence[str], faults: Mapping[str, Sequence[str]]) -> str:
    first = "; ".join(faults[members[0]])
    if len(members) == 1:
        return first if members[0] == glob else f"{members[0]}: {first}"
    return f"{len(members)} modules; {members[0]}: {first}"
