"""Which error scenarios of the audited code its tests exercise: one question over all files together.

Each file's facts say what it has and what its tests do (`reading/scenarios.py`); here they meet. Nothing is run and no
line is counted: a scenario is tested when a test was found that says or shows it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ampguard.auditing.findings import FileResult
from ampguard.auditing.reading.scenarios import SCENARIOS, TESTS, Scenario


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One line that says something about a scenario."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.text})"


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """One row of the table."""

    key: str
    """Of the scenario: "cpu-fallback"."""
    title: str
    state: str
    """"tested", "partly" (some precision names), "untested", "no_tests" (none were audited), "not_applicable" (the
    code has no such thing, and no test is about it)."""
    tests: tuple[Evidence, ...] = ()
    """The tests that exercise it."""
    places: tuple[Evidence, ...] = ()
    """Where the code has it."""
    missing: tuple[str, ...] = ()
    """For precision names: the ones that no test uses."""


def coverage(results: Iterable[FileResult]) -> tuple[Coverage, ...]:
    """Return one row for every scenario, in a fixed order."""
    files = tuple(results)
    return tuple(_row(scenario, files) for scenario in SCENARIOS)


def _row(scenario: Scenario, files: tuple[FileResult, ...]) -> Coverage:
    tests, places = _facts(files, f"scenario tested: {scenario.key}"), _places(scenario, files)
    state, missing = _state(files, tests, places), tuple[str, ...]()
    if scenario.key == "precision-names" and _facts(files, TESTS):
        state, missing = _names(files, tested=bool(tests))
    return Coverage(key=scenario.key, title=scenario.title, state=state, tests=tests, places=places, missing=missing)


def _state(files: tuple[FileResult, ...], tests: tuple[Evidence, ...], places: tuple[Evidence, ...]) -> str:
    if tests:
        return "tested"
    if not places:
        return "not_applicable"
    return "untested" if _facts(files, TESTS) else "no_tests"


def _names(files: tuple[FileResult, ...], *, tested: bool) -> tuple[str, tuple[str, ...]]:
    """Return the state of the precision names, and which of the code's names no test uses."""
    known = dict.fromkeys(one.text for one in _facts(files, "precision names there"))
    used = {one.text for one in _facts(files, "precision names tested")}
    missing = tuple(name for name in known if name not in used)
    if len(known) < 2:  # one name is a setting, not a choice
        return ("tested" if tested else "not_applicable"), ()
    if not missing:
        return "tested", ()
    return ("untested" if len(missing) == len(known) else "partly"), missing


def _places(scenario: Scenario, files: tuple[FileResult, ...]) -> tuple[Evidence, ...]:
    found = _facts(files, f"scenario there: {scenario.key}")
    if scenario.key == "zero-denominator":
        divisions = (f for file in files if file.facts.role != "test" for f in file.findings if "division" in f.name)
        found = (*(Evidence(path=f.path, line=f.line, text=f"{f.code} {f.name}") for f in divisions), *found)
    return found


def _facts(files: tuple[FileResult, ...], name: str) -> tuple[Evidence, ...]:
    found = []
    for file in files:
        for given, detail in file.facts.facts:
            if given == name:
                line, _, text = detail.partition(" ")
                found.append(Evidence(path=file.facts.path, line=int(line), text=text))
    return tuple(sorted(found, key=lambda e: (e.path, e.line)))
