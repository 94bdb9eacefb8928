"""`metrics.jsonl` as curves, however long it is.

A file is read block by block, a large one in parts by several processes. Rows that look alike (the same keys in the
same order, as a run writes them) are taken apart by one pattern and handled column by column: about half the time of
parsing each line as JSON. Every other line goes the careful way. What is no finite number is absent and counted.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from ampguard.reporting.parts import cut, over_processes, processes_for
from ampguard.reporting.thin import BUCKETS, Curve
from ampguard.run_folder import parse_row

BLOCK_BYTES: Final = 1 << 17
"""Bytes read at once. Measured: 64 to 128 KiB is fastest, a column of them stays in the processor's cache."""

FEW: Final = 8
"""Different texts among the first GLANCE up to which a column is taken as repeating itself (a loss scale, a flag)."""

GLANCE: Final = 32

WIDEST: Final = 200
"""Keys of a row that gets a pattern; a wider one is read as JSON."""

SHAPES: Final = 8
"""Sets of keys that are remembered."""

COUNTERS: Final = ("amp/enabled", "amp/applied_steps", "amp/skipped_steps", "amp/skip_streak")
"""Metrics that have no chart: of them the last value is kept."""

Column = Sequence[bytes]


class Metrics:
    """The rows of a run.

    Args:
        buckets: How many each curve keeps at most.
    """

    def __init__(self, buckets: int = BUCKETS) -> None:
        self.rows = 0
        self.curves: dict[str, Curve] = {}
        self.last: dict[str, float] = {}
        """Last value of each metric, counters included."""
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.damaged = 0
        """Complete lines that hold no row with an integer step."""
        self.torn = False
        """Whether the file ends within a line."""
        self.odd: Counter[str] = Counter()
        """Values that are no finite number, by metric."""
        self._buckets = buckets
        self._at: dict[str, int] = {}

    def take(self, key: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take finite values of one metric at ascending steps."""
        if steps[-1] >= self._at.get(key, steps[-1]):
            self._at[key], self.last[key] = steps[-1], values[-1]
        if key not in COUNTERS:
            curve = self.curves.get(key)
            if curve is None:
                curve = self.curves[key] = Curve(self._buckets)
            curve.add(steps, values)

    def saw(self, steps: Sequence[int]) -> None:
        """Count rows at ascending steps."""
        self.rows += len(steps)
        self._span(steps[0], steps[-1])

    def _span(self, first: int, last: int) -> None:
        self.first_step = first if self.first_step is None else min(self.first_step, first)
        self.last_step = last if self.last_step is None else max(self.last_step, last)

    def join(self, other: "Metrics") -> None:
        """Take what was read of a later part of the file."""
        if other.first_step is not None and other.last_step is not None:
            self.rows += other.rows
            self._span(other.first_step, other.last_step)
        self.damaged += other.damaged
        self.torn |= other.torn
        self.odd += other.odd
        for key, step in other._at.items():
            if step >= self._at.get(key, step):
                self._at[key], self.last[key] = step, other.last[key]
        for key, curve in other.curves.items():
            self.curves.setdefault(key, Curve(self._buckets)).join(curve)

    def notes(self) -> list[str]:
        """Return what was left out, in words."""
        found = []
        if self.torn:
            at = "" if self.last_step is None else f", to step {self.last_step:,}"
            found.append(f"metrics.jsonl ends within a line (torn by a kill, or being written): read up to it{at}.")
        if self.damaged:
            found.append(f"metrics.jsonl: {_lines(self.damaged)} without a row, left out.")
        if self.odd:
            named = ", ".join(f"{key} ({count:,})" for key, count in self.odd.most_common(5))
            more = f" and {len(self.odd) - 5} more metrics" if len(self.odd) > 5 else ""
            total = sum(self.odd.values())
            found.append(f"metrics.jsonl: {total:,} value(s) that are no finite number, left out: {named}{more}.")
        return found


def read_metrics(path: Path, *, buckets: int = BUCKETS) -> Metrics:
    """Return the rows of a metrics.jsonl as curves; a file that does not exist has none.

    Args:
        path: The file.
        buckets: How many each curve keeps at most.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.exists():
        return Metrics(buckets)
    parts = cut(path, processes_for(path))
    first, *others = over_processes(read_part, [(path, start, stop, buckets) for start, stop in parts])
    for other in others:
        first.join(other)
    return first


def read_part(path: Path, start: int, stop: int, buckets: int) -> Metrics:
    """Return the rows of whole lines between two bytes of a file."""
    metrics, shapes = Metrics(buckets), _Shapes()
    for block in _blocks(path, start, stop):
        if not block.endswith(b"\n"):
            metrics.torn = True
        else:
            shapes.take(block, metrics)
    return metrics


def _blocks(path: Path, start: int, stop: int) -> Iterator[bytes]:
    """Yield whole lines, many at a time, and last what stands behind the last newline."""
    rest: list[bytes] = []
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(min(BLOCK_BYTES, stop - file.tell())):
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join((*rest, piece[:end]))
                rest.clear()
            rest.append(piece[end:])
    if any(rest):
        yield b"".join(rest)


class _Shapes:
    """Takes blocks apart by the patterns of the rows seen so far, the rest line by line."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], re.Pattern[bytes]] = {}

    def take(self, block: bytes, metrics: Metrics) -> None:
        for keys, pattern in self._known.items():
            found = pattern.findall(block)
            if found and _take_columns(keys, list(zip(*found, strict=True)), metrics):
                if len(found) == block.count(b"\n"):
                    return
                block = pattern.sub(b"", block)
        if block:
            self._take_lines(block, metrics)

    def _take_lines(self, block: bytes, metrics: Metrics) -> None:
        lines = block.splitlines(keepends=True)
        rows = [row for row in map(parse_row, lines) if row is not None and _is_step(row.get("step"))]
        metrics.damaged += len(lines) - len(rows)
        if rows:
            _take_rows(sorted(rows, key=itemgetter("step")), metrics)
            self._learn(tuple(rows[-1]))

    def _learn(self, keys: tuple[str, ...]) -> None:
        usual = keys[0] == "step" and 1 < len(keys) <= WIDEST
        if usual and keys not in self._known and len(self._known) < SHAPES:
            self._known[keys] = _pattern(keys)


def _pattern(keys: Sequence[str]) -> re.Pattern[bytes]:
    """Return what matches a line with these keys as json.dumps writes it; its groups are the values.

    What stands between two keys is not looked at: it is a number if `float` takes it.
    """
    heads = [re.escape(json.dumps(key).encode()) + rb": " for key in keys]
    return re.compile(rb"(?m)^\{" + rb"([^,]+), ".join(heads) + rb"([-+.\deE]+)\}\n")


def _take_columns(keys: Sequence[str], columns: Sequence[Column], metrics: Metrics) -> bool:
    """Take rows by columns, the step first; return False, with nothing taken, if anything in them is unusual."""
    try:
        steps = list(map(int, columns[0]))
        values = [_numbers(key, column) for key, column in zip(keys[1:], columns[1:], strict=True)]
    except ValueError:
        return False
    if not all(math.isfinite(sum(column)) for column in values):
        return False
    if steps != sorted(steps):
        return False
    metrics.saw(steps)
    for key, column in zip(keys[1:], values, strict=True):
        metrics.take(key, steps if len(column) > 1 else steps[-1:], column)
    return True


def _numbers(key: str, column: Column) -> list[float]:
    """Return a column's numbers; of a counter the last, for nothing else of it is shown.

    Raises:
        ValueError: One is none.
    """
    if key in COUNTERS:
        return [float(column[-1])]
    if len(set(column[:GLANCE])) > FEW:
        return list(map(float, column))
    known = {text: float(text) for text in set(column)}
    return [known[text] for text in column] if len(known) > 1 else list(known.values()) * len(column)


def _take_rows(rows: Sequence[dict[str, Any]], metrics: Metrics) -> None:
    """Take rows in ascending order of steps, value by value."""
    metrics.saw([row["step"] for row in rows])
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key == "step":
                continue
            number = finite(value)
            if number is None:
                metrics.odd[key] += 1
                continue
            steps, values = columns.setdefault(key, ([], []))
            steps.append(row["step"])
            values.append(number)
    for key, (steps, values) in columns.items():
        metrics.take(key, steps, values)


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else, a bool and a text included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _lines(count: int) -> str:
    return f"{count:,} line" + ("s" if count > 1 else "")
