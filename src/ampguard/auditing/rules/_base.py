"""What a rule is. A rule is one file in a family's folder; it is found there, and listed nowhere else.

The class docstring is the rule's page: a first line, then the headings `What it does`, `Why is this bad`,
`Example`, `Use instead`, `Fix safety`, `References`, each underlined as a Markdown `## ` heading. The two examples
are tests: the first is reported by this rule, the second is clean of it. `ampguard audit --explain CODE` prints
the page.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ampguard.auditing.findings import Edit, Finding, Severity
from ampguard.auditing.reading.module import Module


class Rule(ABC):
    """One kind of fault: what it is called, how bad it is, and how it is found.

    Class attributes:
        code: Family prefix and number, "AMP001"; never reused.
        name: The fault in kebab-case, "clip-before-unscale".
        severity: The usual severity; a finding may carry another where the rule knows more.
        likelihood: How likely the fault bites once it is there; a finding may carry another.
        impact, risk, fix: The usual texts of a finding (see `Finding`).
        words: The rule runs only on files whose text holds one of these; () means every file.
        ruff: Rules of ruff that ask a similar question, for the page.
        torch: The torch versions that the rule is about, as a specifier (">=2.4"); "" means all.
        preview: Off unless selected by code: its precision on real code is not good enough yet.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    likelihood: ClassVar[str] = "likely"
    impact: ClassVar[str]
    risk: ClassVar[str]
    fix: ClassVar[str]
    words: ClassVar[tuple[str, ...]] = ()
    ruff: ClassVar[tuple[str, ...]] = ()
    torch: ClassVar[str] = ""
    preview: ClassVar[bool] = False

    @abstractmethod
    def check(self, module: Module) -> Iterable[Finding]:
        """Yield the findings of one file, in any order. Keeps no state between files."""

    def finding(
        self,
        module: Module,
        node: ast.AST,
        message: str,
        *,
        severity: Severity | None = None,
        likelihood: str | None = None,
        impact: str | None = None,
        risk: str | None = None,
        fix: str | None = None,
        edit: Edit | None = None,
        critical_path: bool = False,
        end: ast.AST | None = None,
    ) -> Finding:
        """Return a finding at the node's first line; what is not given is the rule's own.

        Args:
            module: The file.
            node: Where it is; a node without a position counts as line 1.
            message: What is wrong here, with this code's own names.
            severity: How bad, before tests and benchmarks lower it.
            likelihood: See `Rule.likelihood`.
            impact: See `Finding.impact`.
            risk: See `Finding.risk`.
            fix: See `Finding.fix`.
            edit: The lines that would mend it.
            critical_path: Whether it lies on the path of a training step or a checkpoint.
            end: The last node of the excerpt; by default the node itself.
        """
        line = getattr(node, "lineno", 1)
        last = getattr(end or node, "end_lineno", None) or line
        return Finding(
            code=self.code,
            name=self.name,
            severity=module.lowered(self.severity if severity is None else severity),
            likelihood=likelihood or self.likelihood,
            path=module.path,
            line=line,
            column=getattr(node, "col_offset", 0) + 1,
            end_line=last,
            message=message,
            impact=impact or self.impact,
            risk=risk or self.risk,
            fix=fix or self.fix,
            edit=edit,
            scope=module.tree.qualname(node),
            critical_path=critical_path,
        )
