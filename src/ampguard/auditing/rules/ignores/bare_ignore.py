"""AUD003: a comment that would silence everything, and therefore silences nothing."""

import ast
from collections.abc import Iterable

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.suppress import MARK, ignores_in


class BareIgnore(Rule):
    """A comment asks for silence without naming a rule.

    ## What it does
    Reports `# ampguard: ignore` and `# ampguard: ignore-file` without a list of codes. They silence nothing.

    ## Why is this bad
    A comment that silenced every rule would also hide the faults that nobody has seen yet.

    ## Example
    ```python
    def load(path):
        return path.read_text()  # ampguard: ignore
    ```

    ## Use instead
    ```python
    def load(path):
        return path.read_text()
    ```

    ## Fix safety
    A comment does not run.

    ## References
    - ruff asks the same of its own comments: PGH004 (blanket-noqa)
    """

    code = "AUD003"
    name = "bare-ignore"
    severity = Severity.LOW
    likelihood = "certain"
    impact = "The comment silences nothing."
    risk = "None: a comment does not run."
    fix = "Name what is meant, as `# ampguard: ignore[CODE]`, or remove the comment."
    words = (MARK,)
    ruff = ("PGH004",)

    def check(self, module: Module) -> Iterable[Finding]:
        """Yield a finding for each comment that names no rule."""
        for ignore in ignores_in(module):
            if ignore.bare:
                place = ast.Pass(lineno=ignore.line, col_offset=ignore.column - 1)
                kind = "ignore-file" if ignore.whole_file else "ignore"
                yield self.finding(module, place, f"`# ampguard: {kind}` names no rule, and silences nothing")
