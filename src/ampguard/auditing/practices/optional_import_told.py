"""An optional package whose absence is told."""

from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.handlers import Catch, catches
from ampguard.auditing.reading.module import Module


class OptionalImportTold(Practice):
    """Where an import fails, the user is told, by a message or by an error that names what to install."""

    name = "optional-import-told"
    title = "Optional import told"
    words = ("ImportError", "ModuleNotFoundError")

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every handler of a failed import that tells."""
        for catch in catches(module):
            how = _how(catch) if catch.imports else None
            if how is not None:
                yield self.practice(module, catch.node, f"A missing package {how}")


def _how(catch: Catch) -> str | None:
    if any(node.exc is not None for node in catch.raised):
        return "is an error that says so"
    return "is told, and the program goes on" if catch.logs and not catch.raises else None
