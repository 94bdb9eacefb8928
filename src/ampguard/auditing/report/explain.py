"""The page of one rule, made from its docstring and attributes: for `--explain` and for the documentation."""

import inspect
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from ampguard.auditing.report.text import STYLES
from ampguard.auditing.rules import FAMILIES, Rule, all_rules, family_of, rule_named
from ampguard.errors import ConfigError, did_you_mean
from ampguard.records import SCHEMA

LISTS = ("all", "list")


def explained(given: str) -> Rule | None:
    """Return the rule of that code or name; None where the list of rules is asked for ("list", "ALL").

    Raises:
        ConfigError: There is no such rule.
    """
    if given.lower() in LISTS:
        return None
    rule = rule_named(given)
    if rule is None:
        known = [name for r in all_rules() for name in (r.code.lower(), r.name)]
        hint = f"{did_you_mean(given, known)} List them all: ampguard audit --explain list".strip()
        raise ConfigError(f"there is no rule {given!r}.", hint=hint)
    return rule


def page(rule: Rule) -> str:
    """Return the rule's page as Markdown."""
    text = inspect.cleandoc(type(rule).__doc__ or "")
    first, _, rest = text.partition("\n\n")
    summary = " ".join(first.split())
    return f"# {rule.code}: {rule.name}\n\n{summary}\n\n{_facts(rule)}\n\n{rest.strip()}\n"


def as_dict(rule: Rule | None) -> dict[str, Any]:
    """Return the rule, or the list of all, as `--format json` prints it."""
    if rule is None:
        return {"schema": SCHEMA, "rules": [_short(each) for each in all_rules()]}
    return {"schema": SCHEMA, **_short(rule), "page": page(rule)}


def print_page(rule: Rule, console: Console) -> None:
    """Print the rule's page."""
    console.print(Markdown(page(rule)))


def print_list(console: Console) -> None:
    """Print every rule on a line, family by family: code, name, usual severity, its one sentence."""
    width = max(len(rule.name) for rule in all_rules())
    for family, title in FAMILIES.items():
        rules = [rule for rule in all_rules() if family_of(rule) == family]
        if rules:
            console.print(Text(title, style="bold"))
        for rule in rules:
            severity = (f"{rule.severity!s:<8}", STYLES[rule.severity])
            line = Text.assemble((rule.code, "bold"), f"  {rule.name:<{width}}  ", severity, f"  {summary_of(rule)}")
            console.print(line, soft_wrap=True)


def index() -> str:
    """Return the documentation's list of all rules, as Markdown."""
    return "\n".join(_index()) + "\n"


def summary_of(rule: Rule) -> str:
    """Return the rule's one sentence, with "(preview)" where it is off unless selected."""
    first = inspect.cleandoc(type(rule).__doc__ or "").partition("\n\n")[0]
    return " ".join(first.split()) + (" (preview)" if rule.preview else "")


def _index() -> Iterator[str]:
    yield "# Rules\n"
    yield "Made from the rules themselves by `make rule-pages`; `ampguard audit --explain CODE` prints the same page."
    for family, title in FAMILIES.items():
        rules = [rule for rule in all_rules() if family_of(rule) == family]
        if rules:
            yield f"\n## {title}\n\n| code | name | severity | |\n|---|---|---|---|"
            for rule in rules:
                summary = summary_of(rule).replace("|", "\\|")
                yield f"| [{rule.code}]({file_of(rule)}) | {rule.name} | {rule.severity} | {summary} |"


def file_of(rule: Rule) -> str:
    """Return the name of the rule's page in the documentation."""
    return f"{rule.code}-{rule.name}.md"


def _facts(rule: Rule) -> str:
    facts = [f"Severity: {rule.severity}. Likelihood: {rule.likelihood}."]
    if rule.torch:
        facts.append(f"Torch: {rule.torch}.")
    if rule.ruff:
        facts.append(f"Asked by ruff too: {', '.join(rule.ruff)}.")
    if rule.preview:
        facts.append(f"In preview: off unless selected by its code (`--select {rule.code}`).")
    return " ".join(facts)


def _short(rule: Rule) -> dict[str, Any]:
    return {
        "code": rule.code,
        "name": rule.name,
        "family": family_of(rule),
        "severity": str(rule.severity),
        "preview": rule.preview,
        "summary": summary_of(rule).removesuffix(" (preview)"),
    }
