"""What exists only where CUDA is there, and is read all the same: attributes of an object, names of a function.

`if torch.cuda.is_available(): scaler = GradScaler("cuda")`, then `scaler.scale(loss)` under no test: on a CPU the name
has no value.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional_one_armed import leaves, one_armed
from ampguard.auditing.flow.optional_plain import is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function

_AVAILABLE = "is_available()"


@dataclass(frozen=True, eq=False)
class MissingOnCpu:
    """One reading of what a CPU leaves without a value.

    Attributes:
        use: Where it is read.
        place: What is read, as the code spells it.
        branch: The test for CUDA.
        line: Where the side of the CPU leaves it out.
    """

    use: ast.expr
    place: str
    branch: ast.If
    line: int


def missing_on_cpu(module: Module) -> Iterator[MissingOnCpu]:
    """Walk the first reading of each such attribute in its class, and of each such name in its function."""
    for found in one_armed(module):
        if found.asks_for_cuda:
            yield MissingOnCpu(found.use, f"self.{found.name}", found.branch, found.arm.lineno)
    branches: list[ast.If] = module.tree.all(ast.If) if _AVAILABLE in module.text else []
    for branch in branches:
        function = module.tree.parents[branch]
        if isinstance(function, ast.FunctionDef) and ast.unparse(branch.test) == f"torch.cuda.{_AVAILABLE}":
            yield from _names_of(module, function, branch)


def _names_of(module: Module, function: Function, branch: ast.If) -> Iterator[MissingOnCpu]:
    """Walk the names that the body of a test alone gives, and that its function reads behind it under no test."""
    if branch.orelse and leaves(branch.orelse[-1]):
        return
    given = {arg.arg for arg, _ in parameters(function)}
    bound = [t.id for s in branch.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)]
    for name in dict.fromkeys(n for n in bound if n not in given):
        held = module.tree.named(name, function)
        stored = [n for n in held if not isinstance(n.ctx, ast.Load)]
        if not all(any(module.tree.inside(n, s) for s in branch.body) for n in stored):
            continue
        end = branch.end_lineno or branch.lineno
        behind = (n for n in held if n.lineno > end and module.tree.scope(n) is function)
        use = next((n for n in behind if not is_conditional(module, n, function, loops=True)), None)
        if use is not None and not _is_left_between(function, branch, use):
            yield MissingOnCpu(use, name, branch, (branch.orelse or [branch])[0].lineno)


def _is_left_between(function: Function, branch: ast.If, use: ast.Name) -> bool:
    between = (s for s in function.body if isinstance(s, ast.If | ast.Global) and s.lineno < use.lineno)
    return any(isinstance(s, ast.Global) or (s is not branch and leaves(s.body[-1])) for s in between)
