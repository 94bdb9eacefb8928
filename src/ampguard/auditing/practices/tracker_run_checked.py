"""A run that may not exist, asked about first."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.module import Module


class TrackerRunChecked(Practice):
    """`wandb.run` or `mlflow.active_run()` is asked for None before use: the code runs without a tracker, too."""

    name = "tracker-run-checked"
    title = "Tracker run checked"
    words = ("wandb.run", "active_run")
    covers = ("TRK003",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield the conditions that ask for the current run."""
        for node in module.tree.all(ast.If, ast.IfExp):
            what = next((w for part in _parts(node.test) if (w := _asked(module, part)) is not None), None)
            if what is not None:
                yield self.practice(module, node, f"`{what}` is asked for before it is used", end=_end(node))


def _parts(test: ast.expr) -> list[ast.expr]:
    return [p for value in test.values for p in _parts(value)] if isinstance(test, ast.BoolOp) else [test]


def _asked(module: Module, test: ast.expr) -> str | None:
    """Return the run that a condition asks for: `wandb.run`, `wandb.run is not None`, `not wandb.run`."""
    if isinstance(test, ast.UnaryOp):
        return _asked(module, test.operand)
    if isinstance(test, ast.Compare):
        comparator = test.comparators[0]
        none = isinstance(comparator, ast.Constant) and comparator.value is None
        return _asked(module, test.left) if none else None
    if isinstance(test, ast.Attribute) and module.names.stands_for(test, "wandb.run"):
        return "wandb.run"
    if isinstance(test, ast.Call) and module.names.stands_for(test.func, "mlflow.active_run"):
        return "mlflow.active_run()"
    return None


def _end(node: ast.If | ast.IfExp) -> ast.AST:
    """Return the last node of what the condition guards: not its `else`."""
    return node.body[-1] if isinstance(node, ast.If) else node
