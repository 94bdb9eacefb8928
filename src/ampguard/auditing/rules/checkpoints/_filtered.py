"""States that a checkpointer passes by because of their type: `isinstance(obj, (nn.Module, Optimizer))`.

A scheduler is neither a module nor an optimizer, so that one which is handed over is left out of the file.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key

_HANDED = regex(r"heckpoint\w*\((?:[^()]|\([^()]*\))*?\b\w*sched\w*\s*=(?!=)", re.IGNORECASE)
_KNOWS = regex(r"sched|Stateful|state_dict|Any\b|object", re.IGNORECASE)


def filters_without_schedule(module: Module) -> Iterator[ast.Call]:
    """Walk the tests of a type that states are saved under, and that no scheduler passes, though one is handed over."""
    if not module.mentions(("isinstance",)) or ".state_dict()" not in module.text:
        return
    for call in module.calls_of("isinstance"):
        place = key(call.args[0]) if len(call.args) == _PAIR else None
        branch = module.tree.parents[call]
        if place is None or not isinstance(branch, ast.If) or f"{place}.state_dict()" not in ast.unparse(branch):
            continue
        if next(module.tree.loops(call), None) is None:
            continue
        types = " ".join(ast.unparse(t) for t in _types(module, call.args[1]))
        if "Module" in types and "Optimizer" in types and not _KNOWS.search(types) and module.project.says(_HANDED):
            yield call


_PAIR = 2


def _types(module: Module, node: ast.expr) -> list[ast.expr]:
    """Return what a tuple or a union of types says, through its name and `get_args(...)`."""
    if isinstance(node, ast.Call) and called(node) in ("get_args", "tuple") and node.args:
        node = node.args[0]
    return _values(module, node) if isinstance(node, ast.Name) else [node]


def _values(module: Module, name: ast.Name) -> list[ast.expr]:
    values = module.names.values(name.id, name)
    found = module.names.lookup(name.id, name)
    if values or found is None or found[1][-1].kind != "import":
        return values
    holder, _, last = found[1][-1].dotted.rpartition(".")
    path = module.project.find(holder, module.path)
    where = module.project.module(path) if path is not None else None
    assigns = (s for s in where.root.body if isinstance(s, ast.Assign)) if where is not None else ()
    return [s.value for s in assigns if any(key(t) == last for t in s.targets)]
