"""Models that are turned to half precision before their device is chosen, which may be the CPU then.

`if use_fp16: self.model.half()`, and three lines below `device = "cuda" if torch.cuda.is_available() else "cpu"`:
without CUDA the model stays half, where most layers are slow or not there at all. So it does where the device is chosen
above, and nothing at all decides about `model.half()`.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, key, receiver
from ampguard.auditing.rules.amp._devices.refused import tests_outside

_CHOSEN = regex(r"\bif\b.*is_available\(\).*\belse\b.*['\"]cpu['\"]|['\"]cpu['\"].*\bif\b.*is_available\(\)")
_ASKED = regex(r"cuda|gpu|device|cpu|is_available", re.IGNORECASE)


def halved_first(module: Module) -> Iterator[ast.Call]:
    """Walk the `.half()` of models that stand before the choice of the device that the same function moves them to."""
    if ".half()" not in module.text or "is_available" not in module.text:
        return
    for call in module.calls_of("half"):
        function, place = module.tree.function(call), key(receiver(call))
        if function is None or place is None or call.args or not _is_kept(module, call, place):
            continue
        if any(_ASKED.search(ast.unparse(test)) for test, _ in tests_outside(module, call)):
            continue
        whatever = not any(True for _ in tests_outside(module, call)) and not module.tree.class_of(call)
        if _goes_where_chosen(module, function, call, place, above=whatever):
            yield call


def _is_kept(module: Module, call: ast.Call, place: str) -> bool:
    """Whether the model itself is turned: `model.half()`, `model = model.half()`."""
    statement = module.tree.statement(call)
    if isinstance(statement, ast.Assign):
        return statement.value is call and key(statement.targets[0]) == place
    return isinstance(statement, ast.Expr) and statement.value is call


def _goes_where_chosen(module: Module, function: Function, call: ast.Call, place: str, *, above: bool) -> bool:
    """Whether a device is chosen behind a call, or `above`, the model moved to it, and nothing turns the model back."""
    inside = [n for n in module.tree.all(ast.Assign) if module.tree.inside(n, function)]
    chosen = {
        key(n.targets[0]) for n in inside if (above or n.lineno > call.lineno) and _CHOSEN.search(ast.unparse(n.value))
    } - {None}
    moved = [c for c in module.calls_of("to", "float") if key(receiver(c)) == place and module.tree.inside(c, function)]
    turned_back = any(not c.args for c in moved)
    earlier = set() if above else {key(n.targets[0]) for n in inside if n.lineno < call.lineno}
    return not turned_back and any(c.args and key(c.args[0]) in chosen - earlier for c in moved)
