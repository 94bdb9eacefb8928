"""How often a class occurs, as scikit-learn's report counts it: 0 for one that was only predicted."""

import ast

from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.zeros import Zero


def support(module: Module, right: ast.expr) -> Zero | None:
    """`wrong / report[name]["support"]` of `classification_report(..., output_dict=True)`."""
    if not isinstance(right, ast.Subscript) or not isinstance(right.slice, ast.Constant):
        return None
    if right.slice.value != "support" or not module.mentions(("classification_report",)):
        return None
    why = "is 0 for a class that was predicted and does not occur"
    return Zero("masked", why, right.lineno, frozenset({spelling(right)}))
