"""Autocast for CUDA as the answer of a function that is not told the device: `return torch.cuda.amp.autocast`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import walk

_FOR_CUDA = "torch.cuda.amp.autocast"
_ASKED = regex(r"cuda|gpu|device|cpu")


def regions_handed_out(module: Module) -> Iterator[ast.expr]:
    """Walk the first region for CUDA that each function returns unopened, where no device decides about it."""
    if not module.mentions(("cuda.amp",)) or not module.mentions(("return torch.cuda", "autocast")):
        return
    told: set[ast.AST] = set()
    for answer in (node.value for node in module.tree.all(ast.Return) if node.value is not None):
        function = module.tree.function(answer) if _is_handed_out(module, answer) else None
        if function is None or function in told:
            continue
        told.add(function)
        asked = any(_ASKED.search(arg.arg) for arg, _ in parameters(function))
        if not asked and not _ASKED.search(" ".join(ast.unparse(t) for t in _tests(function))):
            yield answer


def _is_handed_out(module: Module, value: ast.expr) -> bool:
    """Whether an answer is the class of the regions itself, or a lambda that makes one."""
    if isinstance(value, ast.Lambda):
        value = value.body.func if isinstance(value.body, ast.Call) else value.body
    return isinstance(value, ast.Attribute | ast.Name) and _FOR_CUDA in module.names.dotted(value)


def _tests(function: ast.AST) -> list[ast.expr]:
    return [n.test for n in walk(function) if isinstance(n, ast.If | ast.IfExp)]
