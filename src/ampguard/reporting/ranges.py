"""`ranges.json` (from `ampguard doctor ranges`) as rows of a heat map."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ampguard.records import SCHEMA
from ampguard.reporting.metrics import finite

ROWS: Final = 120
"""Tensors that the heat map shows; of more, those that lose most in fp16."""

AROUND_FP16: Final = (-26, 18)
"""Exponents that every heat map shows: fp16 holds 2**-24 to 2**16."""

KINDS: Final = ("weight", "activation", "gradient", "weight_gradient")


@dataclass(frozen=True)
class Tensor:
    """The exponents of one tensor, or of several steps' tensors of one module."""

    fqn: str
    kind: str
    dtype: str
    lowest: int
    """Exponent of the first count: 2**lowest <= |x| < 2**(lowest + 1)."""
    counts: tuple[int, ...]
    zero_pct: float | None
    nonfinite_pct: float | None
    max_abs: float | None
    overflow_pct: Mapping[str, float]
    """By format: what fraction is beyond its largest value."""
    underflow_pct: Mapping[str, float]
    """By format: what fraction flushes to zero."""

    @property
    def lost_pct(self) -> float:
        """What fp16 cannot hold."""
        return self.overflow_pct.get("fp16", 0.0) + self.underflow_pct.get("fp16", 0.0)


@dataclass(frozen=True)
class Ranges:
    """What was sampled, and what is recommended of it."""

    steps: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    left_out: int
    """Tensors that are not shown."""
    recommended: str
    """Format; "" without one."""
    summary: str
    """The recommendation in a sentence; "" without one."""
    overrides: Mapping[str, str]
    reasons: Mapping[str, str]

    @property
    def exponents(self) -> tuple[int, int]:
        """The first exponent and the one after the last that any tensor has, fp16's own limits included."""
        lowest = min(tensor.lowest for tensor in self.tensors)
        highest = max(tensor.lowest + len(tensor.counts) for tensor in self.tensors)
        return min(lowest, AROUND_FP16[0]), max(highest, AROUND_FP16[1])


def read_ranges(path: Path) -> tuple[Ranges | None, list[str]]:
    """Return the ranges of a run folder and what is to be said of them; (None, []) where there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"ranges.json cannot be read ({type(error).__name__}); there is no heat map."]
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        given = found.get("schema") if isinstance(found, dict) else type(found).__name__
        return None, [f"ranges.json has schema {given}; this version reads {SCHEMA}. There is no heat map."]
    return _ranges(found)


def _ranges(found: Mapping[str, Any]) -> tuple[Ranges | None, list[str]]:
    rows = found.get("rows")
    parsed = [_tensor(row) for row in rows] if isinstance(rows, list) else []
    tensors = [tensor for tensor in parsed if tensor is not None]
    notes = []
    if len(tensors) < len(parsed):
        notes.append(f"ranges.json: {len(parsed) - len(tensors)} row(s) that cannot be read, left out.")
    if not tensors:
        return None, [*notes, "ranges.json holds no tensor; there is no heat map."]
    shown = sorted(tensors, key=lambda tensor: -tensor.lost_pct)[:ROWS]
    kept = [tensor for tensor in tensors if tensor in shown]
    advice = _table(found.get("recommendation"))
    return Ranges(
        steps=tuple(step for step in _list(found.get("steps")) if isinstance(step, int)),
        tensors=tuple(sorted(kept, key=_kind_order)),
        left_out=len(tensors) - len(kept),
        recommended=str(advice.get("format") or ""),
        summary=str(advice.get("summary") or ""),
        overrides={str(glob): str(format) for glob, format in _table(advice.get("overrides")).items()},
        reasons={str(name): str(reason) for name, reason in _table(advice.get("reasons")).items()},
    ), notes


def _tensor(row: Any) -> Tensor | None:
    """Return one row; None if it holds no histogram."""
    row = _table(row)
    exponents = _table(row.get("exponents"))
    lowest, counts = exponents.get("lowest"), _list(exponents.get("counts"))
    if not isinstance(lowest, int) or not counts or not all(isinstance(n, int) and n >= 0 for n in counts):
        return None
    if abs(lowest) > 2000 or len(counts) > 4000:
        return None
    return Tensor(
        fqn=str(row.get("fqn", "")),
        kind=str(row.get("kind", "")),
        dtype=str(row.get("dtype", "")),
        lowest=lowest,
        counts=tuple(counts),
        zero_pct=finite(row.get("zero_pct")),
        nonfinite_pct=finite(row.get("nonfinite_pct")),
        max_abs=finite(row.get("max_abs")),
        overflow_pct=_shares(row.get("overflow_pct")),
        underflow_pct=_shares(row.get("underflow_pct")),
    )


def _shares(value: Any) -> dict[str, float]:
    shares = {str(name): finite(share) for name, share in _table(value).items()}
    return {name: share for name, share in shares.items() if share is not None}


def _kind_order(tensor: Tensor) -> int:
    return KINDS.index(tensor.kind) if tensor.kind in KINDS else len(KINDS)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
