"""AUD001: a comment that silences a rule which finds nothing there."""

import ast
from collections.abc import Iterable, Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.suppress import ACROSS, FILE_LINES, MARK, Ignore

_LATER = ACROSS | {"AUD001", "AUD002", "AUD003"}
"""Rules whose findings come after this one's: whether a comment for them is used is not known yet."""


class UnusedIgnore(Rule):
    """A comment silences a rule that finds nothing there.

    ## What it does
    Reports names in `# ampguard: ignore[...]` that silence no finding on their statement, and an
    `ignore-file[...]` below the first ten lines, which counts for nothing. Rules that this run does not ask are
    left alone: a narrower `--select` does not make a comment unused.

    ## Why is this bad
    The fault that the comment was written for is gone, or moved. Left there, the comment will hide the next one.

    ## Example
    ```python
    def load(path):
        try:
            return path.read_text()
        except FileNotFoundError:  # ampguard: ignore[ERR001]
            return ""
    ```

    ## Use instead
    ```python
    def load(path):
        try:
            return path.read_text()
        except FileNotFoundError:
            return ""
    ```

    ## Fix safety
    Removing a comment changes nothing that runs.

    ## References
    - ruff asks the same of its own comments: RUF100 (unused-noqa)
    """

    code = "AUD001"
    name = "unused-ignore"
    severity = Severity.LOW
    likelihood = "certain"
    impact = "The comment hides nothing now, and will hide the next finding of that rule on this statement."
    risk = "None: a comment does not run."
    fix = "Remove the name from the comment, or move the comment to the line of the finding."
    words = (MARK,)
    ruff = ("RUF100",)

    def check(self, module: Module) -> Iterable[Finding]:
        """Yield nothing: what is unused shows only when every rule has spoken; see `judge`."""
        del module
        return ()

    def judge(self, module: Module, ignores: Iterable[Ignore], asked: set[str]) -> Iterator[Finding]:
        """Yield a finding for each name that silenced nothing.

        Args:
            module: The file.
            ignores: Its comments, after the other rules' findings went past them.
            asked: Codes of the rules that this run asked of the file.
        """
        for ignore in ignores:
            place = ast.Pass(lineno=ignore.line, col_offset=ignore.column - 1)
            for name, rule in ignore.rules.items():
                if ignore.misplaced:
                    where = f"stands on line {ignore.line}; it counts in the first {FILE_LINES} lines only"
                    yield self.finding(module, place, f"`ignore-file[{name}]` {where}")
                elif rule is not None and rule.code in asked - _LATER and name not in ignore.used:
                    where = "in this file" if ignore.whole_file else "on this statement"
                    yield self.finding(module, place, f"the comment silences {name}, which finds nothing {where}")
