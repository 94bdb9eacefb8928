"""What a bench.json may hold in place of what is expected: people edit it, and later versions add to it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ampguard.reporting.metrics import finite
from ampguard.reporting.run import table

LEAST, MOST = 1e-300, 1e300
"""Between them a number is still one when it is divided or shown in %."""


def figure(value: Any) -> float | None:
    """Return a finite number of a size that can be reckoned with; None for anything else."""
    found = finite(value)
    return found if found is not None and (found == 0 or LEAST < abs(found) < MOST) else None


def text(value: Any, otherwise: str = "") -> str:
    """Return a text; of None or an empty one, the other."""
    return str(value) if value not in (None, "") else otherwise


def texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a list; of anything else, none."""
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def numbers(value: Any) -> tuple[float, ...]:
    """Return the finite numbers of a list; of anything else, none."""
    found = map(figure, value) if isinstance(value, list) else ()
    return tuple(one for one in found if one is not None)


def whole(value: Any) -> int | None:
    """Return a number as a whole one; None for anything else."""
    found = figure(value)
    return None if found is None else int(found)


def interval(value: Any) -> tuple[float, float] | None:
    """Return two numbers, the lower one first; None for anything else."""
    found = numbers(value)
    return (min(found), max(found)) if len(found) == 2 else None


def named(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return the finite numbers among some fields."""
    found = {name: figure(values.get(name)) for name in names}
    return {name: number for name, number in found.items() if number is not None}


def tables(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; of anything else, none."""
    return [table(one) for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
