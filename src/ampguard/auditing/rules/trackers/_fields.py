"""Fields of a tracker's run that are assigned to: `wandb.config.path = path`, `wandb.run.summary["best"] = loss`.

An assignment sends what it is given just as a call does, and raises as a call does: where the connection is lost, where
the run is finished, where the configuration is locked.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import tracker_field
from ampguard.auditing.reading.module import Module

_WRITES = regex(r"[\w\])]\s*(\[[^\]\n]*\]|\.\w+)\s*[-+]?=(?!=)")


def fields_written(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Walk the assignments to fields of a run, each with the field."""
    if not _WRITES.search(module.text):
        return
    for statement in module.tree.all(ast.Assign, ast.AugAssign, ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            what = tracker_field(module, target) if isinstance(target, ast.Attribute | ast.Subscript) else None
            if what is not None:
                yield statement, what
