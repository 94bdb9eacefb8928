"""Modules that share a fault, as few globs: a block in place of its parts, `blocks.*.mlp` in place of six of them.

A glob is only taken where it means no module without the fault.
"""

import re
from collections.abc import Collection, Sequence

from ampguard.precision.patterns import components, matching

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A component of an fqn that is a number."""


def families(chosen: Collection[str], fqns: Sequence[str]) -> dict[str, list[str]]:
    """Return {glob: the chosen modules that it means}, in the model's order.

    Args:
        chosen: Some of `fqns`.
        fqns: Every module that was measured, in the model's order.
    """
    by_glob: dict[str, list[str]] = {}
    for holder in _outermost(chosen, fqns):
        glob = NUMBER.sub("*", holder)
        alike = _inside(glob, fqns)
        by_glob.setdefault(glob if set(alike) <= set(chosen) else holder, []).extend(_inside(holder, fqns))
    return by_glob


def _outermost(chosen: Collection[str], fqns: Sequence[str]) -> list[str]:
    """Return the chosen modules, and in place of several the module that holds them and nothing else."""
    found: list[str] = []
    for fqn in fqns:
        if fqn in chosen and not any(_holds(name, fqn) for name in found):
            found.append(next((name for name in _holders(fqn) if _is_whole(name, chosen, fqns)), fqn))
    return found


def _holders(fqn: str) -> list[str]:
    """Return what holds a module, outermost first: not the model itself, nor what may be a list, which never runs."""
    path = components(fqn)
    return [".".join(path[:length]) for length in range(1, len(path)) if not path[length].isdigit()]


def _is_whole(name: str, chosen: Collection[str], fqns: Sequence[str]) -> bool:
    parts = [fqn for fqn in fqns if _holds(name, fqn)]
    return len(parts) > 1 and all(fqn in chosen for fqn in parts)


def _holds(name: str, fqn: str) -> bool:
    return fqn == name or fqn.startswith(f"{name}.")


def _inside(glob: str, fqns: Sequence[str]) -> list[str]:
    """Return the measured modules that a glob means, or that lie in one that it means."""
    depth = len(components(glob))
    heads = {fqn: ".".join(components(fqn)[:depth]) for fqn in fqns if len(components(fqn)) >= depth}
    meant = set(matching(glob, list(heads.values())))
    return [fqn for fqn, head in heads.items() if head in meant]
