"""AUD002: a comment that silences a rule which does not exist."""

import ast
from collections.abc import Iterable

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.suppress import MARK, ignores_in


class UnknownIgnore(Rule):
    """A comment silences a rule that does not exist.

    ## What it does
    Reports names in `# ampguard: ignore[...]` that are neither the code nor the name of a rule. A prefix such as
    `ERR` names no rule either: a comment silences what its writer has seen.

    ## Why is this bad
    The comment silences nothing, and whoever reads it thinks that it does.

    ## Example
    ```python
    def load(path):
        return path.read_text()  # ampguard: ignore[ERR999]
    ```

    ## Use instead
    ```python
    def load(path):
        return path.read_text()
    ```

    ## Fix safety
    Correcting the name may silence a finding that is reported now, which is what the comment was written for.

    ## References
    - `ampguard audit --explain list` lists every rule
    """

    code = "AUD002"
    name = "unknown-ignore"
    severity = Severity.LOW
    likelihood = "certain"
    impact = "The comment silences nothing."
    risk = "None: a comment does not run."
    fix = "Write the code or the name of the rule as the finding prints it, or remove the comment."
    words = (MARK,)

    def check(self, module: Module) -> Iterable[Finding]:
        """Yield a finding for each name that is no rule's."""
        for ignore in ignores_in(module):
            place = ast.Pass(lineno=ignore.line, col_offset=ignore.column - 1)
            for name, rule in ignore.rules.items():
                if rule is None:
                    yield self.finding(module, place, f"the comment names {name!r}, and no rule is called that")
