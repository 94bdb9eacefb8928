"""What is asked of all files together, once each of them has been read: the rules that have a `judge`."""

from collections.abc import Iterable
from dataclasses import replace

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import FileResult, Finding
from ampguard.auditing.rules.testing.untested_error_scenario import UntestedErrorScenario
from ampguard.auditing.selection import chosen_rules, rules_for, weighed


def judged(files: Iterable[FileResult], config: AuditConfig) -> tuple[FileResult, ...]:
    """Return the results of the files with the findings that only all of them together give.

    A single file has been asked already, by the rule itself.

    Args:
        files: The results, one a file.
        config: The audit's options.
    """
    results = tuple(files)
    if len(results) < 2:
        return results
    silenced = {result.facts.path: result.silenced for result in results}
    found: dict[str, list[Finding]] = {}
    for rule in chosen_rules(config):
        if isinstance(rule, UntestedErrorScenario):
            for finding in rule.judge(results):
                spans = silenced.get(finding.path, ())
                asked = rules_for(finding.path, (rule,), config.per_file)
                if asked and not any(c == finding.code and a <= finding.line <= b for c, a, b in spans):
                    found.setdefault(finding.path, []).append(weighed(finding, config))
    return tuple(_with(result, found.get(result.facts.path, [])) for result in results)


def _with(result: FileResult, more: list[Finding]) -> FileResult:
    return replace(result, findings=tuple(sorted((*result.findings, *more), key=lambda f: f.order))) if more else result
