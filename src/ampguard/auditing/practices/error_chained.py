"""An error that keeps its cause."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.module import Module


class ErrorChained(Practice):
    """An error is translated with `raise ... from error`, so that both are in the traceback."""

    name = "error-chained"
    title = "Error chained to its cause"
    words = (" from ",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every raise that names the exception at hand as its cause."""
        for node in module.tree.all(ast.Raise):
            handler = module.tree.nearest(node, ast.ExceptHandler) if isinstance(node.cause, ast.Name) else None
            if handler is not None and handler.name == node.cause.id:
                yield self.practice(module, node, f"{module.segment(node.exc)} keeps its cause")
