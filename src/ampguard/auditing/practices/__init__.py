"""The good practices: one file each, found by place."""

from functools import cache

from ampguard.auditing.members import members
from ampguard.auditing.practices._base import Practice

__all__ = ["Practice", "all_practices"]


@cache
def all_practices() -> tuple[Practice, ...]:
    """Return one object of every practice, sorted by name.

    Raises:
        TypeError: A file does not hold exactly one practice.
    """
    return tuple(members(__name__, Practice))  # type: ignore[type-abstract]
