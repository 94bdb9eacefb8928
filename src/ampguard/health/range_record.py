"""What was measured and what follows from it, as the one JSON object of ranges.json and of `doctor ranges`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ampguard.health.advice import FLUSHED_PCT, advise
from ampguard.health.formats import FORMATS
from ampguard.health.ranges import Ranges
from ampguard.records import SCHEMA


def ranges_record(
    ranges: Ranges, *, task: str, device: str, precision: str, steps: Sequence[int], format: str
) -> dict[str, Any]:
    """Return the object.

    Args:
        ranges: What was measured.
        task: Name of the Task.
        device: What it ran on, for people.
        precision: What it ran in.
        steps: Ordinals of the steps that were measured.
        format: fp16, bf16, e4m3 or e5m2: what the recommendation is for.

    Sync: a few a row.
    """
    rows = ranges.table()
    advice = advise(rows, format, steps=len(steps))
    return {
        "schema": SCHEMA,
        "task": task,
        "device": device,
        "precision": precision,
        "steps": list(steps),
        "elements_per_tensor": ranges.elements,
        "rows": [row.as_dict() for row in rows],
        "recommendation": {
            "format": advice.format,
            "overrides": advice.overrides,
            "reasons": advice.reasons,
            "summary": advice.summary,
            "loss_scale": advice.loss_scale,
            "flushed_allowed_pct": FLUSHED_PCT,
            "exponents": list(FORMATS[format].exponents),
        },
        "notes": ranges.notes(),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the object to a file: the old one stays until the new one is whole.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
