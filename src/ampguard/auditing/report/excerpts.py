"""Lines of the audited files as the page shows them: with their numbers, or as the difference that mends them.

The files are read again when the page is written. One that has changed since (its number of lines differs) or is gone
has no excerpts; the page says so.
"""

from collections.abc import Iterable
from difflib import unified_diff

from ampguard.auditing.findings import Edit, Finding, GoodPractice
from ampguard.auditing.outcome import AuditReport
from ampguard.auditing.report.escape import code

LONGEST, SHORTENED = 18, 6
"""Lines of the longest place that is shown whole; of longer ones so many are shown."""

_AROUND = 2
"""Lines shown before a finding."""


class Excerpts:
    """The lines of the audited files, read once each.

    Args:
        report: The report, which knows where the files are.
    """

    def __init__(self, report: AuditReport) -> None:
        self._report = report
        self._counted = {file.facts.path: file.facts.lines for file in report.files}
        self._lines: dict[str, list[str]] = {}

    def lines(self, path: str) -> list[str]:
        """Return the lines of a file; [] where it is gone or has another number of lines than it had."""
        if path not in self._lines:
            found = self._report.lines(path)
            number = len(found) - (not found[-1]) if found else 0
            self._lines[path] = found if number == self._counted.get(path) else []
        return self._lines[path]

    def finding(self, finding: Finding) -> list[str]:
        """Return the lines of a finding with two before them, numbered; the finding's own are marked."""
        return self._numbered(finding.path, finding.line, finding.end_line, before=_AROUND)

    def practice(self, practice: GoodPractice) -> list[str]:
        """Return the lines of a good practice, numbered."""
        return self._numbered(practice.path, practice.line, practice.end_line, before=0)

    def diff(self, finding: Finding) -> list[str]:
        """Return the edit of a finding as a unified diff; [] where there is none."""
        lines, edit = self.lines(finding.path), finding.edit
        if edit is None or not lines or not 0 < edit.first_line <= edit.last_line + 1 <= len(lines) + 1:
            return []
        told = unified_diff(
            lines, _edited(lines, edit), f"a/{finding.path}", f"b/{finding.path}", n=_AROUND, lineterm=""
        )
        return list(told)

    def _numbered(self, path: str, first: int, last: int, *, before: int) -> list[str]:
        lines = self.lines(path)
        end = min(last, len(lines))
        shown = end if end - first < LONGEST else first + SHORTENED - 1
        if not 0 < first <= end:
            return []
        width = len(str(shown))
        told = [
            f"{number:>{width}} {'>' if before and number >= first else '|'} {lines[number - 1].expandtabs(4)}".rstrip()
            for number in range(max(1, first - before), shown + 1)
        ]
        return told if shown == end else [*told, f"{'':>{width}}   ... to line {end}"]


def _edited(lines: list[str], edit: Edit) -> list[str]:
    return [*lines[: edit.first_line - 1], *edit.lines, *lines[edit.last_line :]]


def places(paths_and_lines: Iterable[tuple[str, int]], shown: int = 10) -> str:
    """Return places as "a.py:3, 9; b.py:1" in code spans, the first few of them, and how many more there are."""
    listed = list(paths_and_lines)
    by_path: dict[str, list[int]] = {}
    for path, line in listed[:shown]:
        by_path.setdefault(path, []).append(line)
    told = "; ".join(code(f"{path}:{', '.join(map(str, numbers))}") for path, numbers in by_path.items())
    more = len(listed) - shown
    return f"{told} and {more} more" if more > 0 else told
