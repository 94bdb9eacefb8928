"""A handler without a type."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule


class BareExcept(Rule):
    """Placeholder page: the errors family rewrites this file."""

    code = "ERR001"
    name = "bare-except"
    severity = Severity.MEDIUM
    impact = "Ctrl-C, SystemExit and every mistake in the block disappear here."
    risk = "Low."
    fix = "Name the exceptions that can be expected."
    words = ("except:",)
    ruff = ("E722",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every handler without a type."""
        for handler in module.tree.all(ast.ExceptHandler):
            if handler.type is None:
                yield self.finding(module, handler, "bare except catches everything")
