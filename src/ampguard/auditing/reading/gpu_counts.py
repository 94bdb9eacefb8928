"""How many GPUs there are, where a constant of the file, another file or a tuple of a function's answers holds it."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.constants_elsewhere import given_elsewhere
from ampguard.auditing.reading.guards import spelling, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import Binding
from ampguard.auditing.reading.tree import called, key, walk_scope
from ampguard.auditing.reading.zeros import Zero

_COUNTS = regex(r"gpu|device|world|replica|cuda|ranks?$|workers?$", re.IGNORECASE)
_WORDS = ("device_count",)
_ASKED = regex(r"is_available|cuda|ddp|distributed|DDP")


def gpu_count(module: Module, right: ast.expr) -> Zero | None:
    """`batch / N_GPUS`, where `N_GPUS = torch.cuda.device_count()` stands outside of the function or of the file."""
    if not isinstance(right, ast.Name | ast.Attribute) or not _COUNTS.search((key(right) or "").rpartition(".")[2]):
        return None
    where = next((place for place, value in _given(module, right) if _counts(place, value)), None)
    if where is None or any(_ASKED.search(ast.unparse(test)) for test, _ in tests_before(module, right)):
        return None
    at = "" if where is module else f" (from {where.path})"
    why = f"is the number of GPUs{at}, 0 on a machine without one"
    return Zero("devices", why, right.lineno, frozenset({spelling(right)}))


def _given(module: Module, node: ast.Name | ast.Attribute) -> list[tuple[Module, ast.expr | None]]:
    """Return what a constant is given, of this file or of another, with the file that says so."""
    if isinstance(node, ast.Attribute):
        return given_elsewhere(module, node, _WORDS) if module.names.dotted(node) else []
    found = module.names.lookup(node.id, node)
    if found is None or found[0] is not module.root:
        return []
    last = found[1][-1]
    if last.kind == "import":
        return given_elsewhere(module, node, _WORDS)
    if last.kind == "assign":
        return [(module, last.value)]
    return _unpacked(module, node.id, last)


def _unpacked(module: Module, name: str, binding: Binding) -> list[tuple[Module, ast.expr | None]]:
    """Return what stands at the place of a name in the tuple that a function of the project answers with."""
    made = binding.node
    if not isinstance(made, ast.Assign) or not isinstance(made.targets[0], ast.Tuple):
        return []
    index = next((i for i, e in enumerate(made.targets[0].elts) if key(e) == name), None)
    place = target(module, made.value, _WORDS) if isinstance(made.value, ast.Call) else None
    if index is None or place is None:
        return []
    where, function = place
    answers = [n.value for n in walk_scope(function) if isinstance(n, ast.Return)]
    tuples = [a.elts for a in answers if isinstance(a, ast.Tuple) and index < len(a.elts)]
    return [(where, elements[index]) for elements in tuples]


def _counts(module: Module, value: ast.expr | None) -> bool:
    """Whether a value is `torch.cuda.device_count()`, by itself or by the name that is given it, and nothing asks."""
    values = assigned(module, value) if isinstance(value, ast.Name) else [value]
    if len(values) != 1 or not isinstance(values[0], ast.Call) or called(values[0]) != "device_count":
        return False
    call = values[0]
    asked = any("is_available" in ast.unparse(test) for test, _ in tests_before(module, call))
    return not asked and any(n.endswith("cuda.device_count") for n in module.names.dotted(call.func))
