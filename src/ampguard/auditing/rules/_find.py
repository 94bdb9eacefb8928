"""Finds the rules by their place: every module of a family's folder whose name has no leading underscore."""

from functools import cache

from ampguard.auditing.members import members
from ampguard.auditing.rules._base import Rule

FAMILIES = {
    "errors": "Swallowed and silent errors",
    "numbers": "Divisions and half-precision numbers",
    "optional": "Use of what may be None",
    "amp": "Automatic mixed precision",
    "syncs": "Host synchronisation in hot loops",
    "checkpoints": "Checkpoints",
    "trackers": "Trackers and secrets",
    "testing": "Error scenarios that tests exercise",
    "ignores": "Comments that silence rules",
}
"""Folder -> title, in the order of the documentation."""


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return one object of every rule, sorted by code.

    Raises:
        TypeError: A file holds no rule or several, or two rules share a code or a name.
    """
    packages = [f"{__package__}.{family}" for family in FAMILIES]
    found = [rule for package in packages for rule in members(package, Rule)]  # type: ignore[type-abstract]
    rules = sorted(found, key=_code)
    for attribute in ("code", "name"):
        values = [getattr(rule, attribute) for rule in rules]
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise TypeError(f"two rules share the {attribute} {sorted(twice)}")
    return tuple(rules)


@cache
def families() -> dict[str, str]:
    """Return prefix of codes -> title of the family: {"AMP": "Automatic mixed precision", ...}."""
    titles = {family_of(rule): rule.code.rstrip("0123456789") for rule in all_rules()}
    return {titles[folder]: title for folder, title in FAMILIES.items() if folder in titles}


def family_of(rule: Rule) -> str:
    """Return the folder that the rule lies in: "amp", "errors"."""
    return type(rule).__module__.split(".")[-2]


def rule_named(given: str) -> Rule | None:
    """Return the rule of that code (in any case) or name, or None."""
    return next((r for r in all_rules() if given.upper() == r.code or given.lower() == r.name), None)


def _code(rule: Rule) -> str:
    return rule.code
