"""Finds the rules by their place: every module of a family's folder whose name has no leading underscore."""

import inspect
import pkgutil
from functools import cache
from importlib import import_module

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
    rules = sorted(
        (_rule_in(f"{__package__}.{family}", name) for family in FAMILIES for name in _files(family)), key=_code
    )
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


def _files(family: str) -> list[str]:
    try:
        package = import_module(f"{__package__}.{family}")
    except ModuleNotFoundError:
        return []
    return [info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")]


def _rule_in(package: str, name: str) -> Rule:
    module = import_module(f"{package}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Rule) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} holds {len(found)} rules; a rule is one file")
    rule: Rule = found[0]()
    return rule


def _code(rule: Rule) -> str:
    return rule.code
