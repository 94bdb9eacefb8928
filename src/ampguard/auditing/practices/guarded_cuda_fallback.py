"""A scaler, an autocast or a device that is only for CUDA where there is CUDA."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, walk
from ampguard.auditing.rules.amp._steps import tests_above

_TELLS = frozenset(
    {"print", "warn", "warning", "info", "error", "log", "debug", "secho", "echo", "print0", "rank_zero_warn"}
)


class GuardedCudaFallback(Practice):
    """The scaler is only made, or only enabled, where CUDA is available.

    The same code then runs on a machine without a GPU. Better still where the fallback is told: an `if` that
    looks for missing CUDA, says so and switches mixed precision off.
    """

    name = "guarded-cuda-fallback"
    title = "CUDA fallback"
    words = ("is_available",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every scaler that depends on CUDA, with the fallback that tells about it."""
        for call in scaler_constructions(module):
            if not _depends_on_cuda(module, call):
                continue
            told = _told_after(module, call)
            statement = module.tree.statement(call)
            if told is None:
                yield self.practice(module, statement, "the scaler is on only where CUDA is available")
            else:
                first, last = sorted((statement, told), key=lambda s: s.lineno)
                message = "the scaler is on only where CUDA is available, and the fallback is told"
                yield self.practice(module, first, message, end=last)


def asks_for_cuda(module: Module, node: ast.AST, depth: int = 0) -> bool:
    """Whether an expression depends on `torch.cuda.is_available()`, directly or through a name."""
    for at in walk(node):
        if isinstance(at, ast.Call) and called(at) == "is_available" and "cuda" in ast.unparse(at.func):
            return True
        if isinstance(at, ast.Name) and depth < 2:
            values = module.names.values(at.id, at)
            if any(v is not node and asks_for_cuda(module, v, depth + 1) for v in values):
                return True
    return False


def tells(statement: ast.AST) -> bool:
    """Whether a statement prints, logs or warns."""
    return any(isinstance(at, ast.Call) and called(at) in _TELLS for at in walk(statement))


def _depends_on_cuda(module: Module, call: ast.Call) -> bool:
    if any(k.arg == "enabled" and asks_for_cuda(module, k.value) for k in call.keywords):
        return True
    return any(asks_for_cuda(module, test) for test, _ in tests_above(module, call))


def _told_after(module: Module, call: ast.Call) -> ast.If | None:
    """Return the `if` beside the construction that tells of missing CUDA."""
    statement = module.tree.statement(call)
    above = module.tree.parents[statement]
    while isinstance(above, ast.If):
        if tells(above) and asks_for_cuda(module, above.test) and above.orelse:
            return above
        statement, above = above, module.tree.parents[above]
    block = next((b for b in (getattr(above, "body", []), getattr(above, "orelse", [])) if statement in b), [])
    at = block.index(statement) if block else 0
    near = block[max(0, at - 3) : at + 4]
    return next((s for s in near if isinstance(s, ast.If) and asks_for_cuda(module, s.test) and tells(s)), None)
