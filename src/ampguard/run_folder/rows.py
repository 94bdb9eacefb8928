"""One line of metrics.jsonl or events.jsonl.

A row counts when its line is complete, newline included, and holds a JSON object. A process that was killed leaves at
most one torn last line; a machine that lost power may leave more.
"""

import json
from typing import Any


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Return the object that a complete line holds; None if it holds none."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
