"""Which rules are asked, where, and how bad their findings count: codes, names and prefixes as options give them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.globs import matches
from ampguard.auditing.rules import Rule, all_rules, families, rule_named
from ampguard.errors import ConfigError, did_you_mean

ALL = "ALL"
"""The prefix of every code."""


def checked(config: AuditConfig) -> AuditConfig:
    """Return the options with every code, name and prefix turned into a code or prefix that exists.

    Raises:
        ConfigError: An option names no rule.
    """
    return replace(
        config,
        select=_codes("select", config.select),
        ignore=_codes("ignore", config.ignore),
        per_file={glob: _codes("per-file", codes) for glob, codes in config.per_file.items()},
        severity={_code("severity", key): value for key, value in config.severity.items()},
    )


def chosen_rules(config: AuditConfig) -> tuple[Rule, ...]:
    """Return the rules that the options ask for: `select` (or all that are not in preview) without `ignore`."""
    return tuple(rule for rule in all_rules() if _selected(rule, config) and not _starts(rule.code, config.ignore))


def rules_for(path: str, rules: tuple[Rule, ...], per_file: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """Return those of the rules that `per-file` leaves for one file."""
    out = [code for glob, codes in per_file.items() if matches(path, [glob]) for code in codes]
    return tuple(rule for rule in rules if not _starts(rule.code, out)) if out else rules


def weighed(finding: Finding, config: AuditConfig) -> Finding:
    """Return the finding with the severity that the options give it; the longest prefix decides."""
    longest = max((p for p in config.severity if _starts(finding.code, [p])), key=len, default=None)
    return finding if longest is None else replace(finding, severity=Severity.of(config.severity[longest]))


def _selected(rule: Rule, config: AuditConfig) -> bool:
    if not config.select:
        return not rule.preview
    return rule.code in config.select or (not rule.preview and _starts(rule.code, config.select))


def _starts(code: str, prefixes: Iterable[str]) -> bool:
    return any(prefix == ALL or code.startswith(prefix) for prefix in prefixes)


def _codes(option: str, given: Iterable[str]) -> tuple[str, ...]:
    return tuple(_code(option, item) for item in given)


def _code(option: str, given: str) -> str:
    prefix = given.upper()
    if prefix == ALL or any(rule.code.startswith(prefix) for rule in all_rules()):
        return prefix
    rule = rule_named(given)
    if rule is None:
        raise ConfigError(f"{option} names no rule: {given!r}.", allowed=families(), hint=_hint(given))
    return rule.code


def _hint(given: str) -> str:
    """Say which code or name is meant, and where all of them are listed."""
    names = [*(rule.code.lower() for rule in all_rules()), *(rule.name for rule in all_rules())]
    meant = did_you_mean(given, names)
    known = rule_named(meant.split("'")[1]) if meant else None
    close = f"Did you mean {known.code} ({known.name})? " if known else ""
    return f"{close}List them all: ampguard audit --explain list"
