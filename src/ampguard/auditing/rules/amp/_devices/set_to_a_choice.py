"""A device that may be the CPU, made the current GPU: `device = "cuda" if ok else "cpu"`, then `set_device(device)`."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk
from ampguard.auditing.rules.amp._devices.demands import runtime_calls
from ampguard.auditing.rules.amp._steps import tests_above

_ASKS = regex(r"cuda|gpu|cpu|device|is_available", re.IGNORECASE)


def set_to_a_choice(module: Module) -> Iterator[ast.Call]:
    """Walk the `torch.cuda.set_device` of devices that the same block has just chosen, under no test of its own."""
    if "set_device(" not in module.text:
        return
    for call in runtime_calls(module, "set_device"):
        place = key(call.args[0]) if call.args else None
        chosen = [n for n in module.tree.all(ast.Assign) if place and key(n.targets[0]) == place]
        if any(_is_chosen_before(module, given, call) for given in chosen):
            yield call


def _is_chosen_before(module: Module, given: ast.Assign, call: ast.Call) -> bool:
    """Whether a statement chooses between a GPU and the CPU, and no test for it lies between it and the call."""
    cpu = any(isinstance(n, ast.Constant) and n.value == "cpu" for n in walk(given.value))
    if not cpu or not any(isinstance(n, ast.IfExp) for n in walk(given.value)):
        return False
    if module.tree.function(given) is not module.tree.function(call) or given.lineno > call.lineno:
        return False
    around = {id(test) for test, _ in tests_above(module, given)}
    own = [test for test, _ in tests_above(module, call) if id(test) not in around]
    above = {id(test) for test, _ in tests_above(module, call)}
    return around <= above and not any(_ASKS.search(ast.unparse(test)) for test in own)
