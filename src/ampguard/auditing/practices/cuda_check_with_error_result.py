"""Missing CUDA is found first and answered with a result that says so."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.practices.guarded_cuda_fallback import asks_for_cuda
from ampguard.auditing.reading.module import Module


class CudaCheckWithErrorResult(Practice):
    """A function that needs a GPU looks for one first, and returns or raises what is wrong instead of crashing later.

    Credited are `return {"error": ...}` and other results that name the fault, and a raised exception with a text.
    """

    name = "cuda-check-with-error-result"
    title = "CUDA check with a structured result"
    words = ("is_available",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every such check."""
        for node in module.tree.all(ast.If):
            last = node.body[-1]
            if not isinstance(last, (ast.Return, ast.Raise)) or not _missing(module, node.test):
                continue
            if isinstance(last, ast.Return) and last.value is not None and _names_the_fault(last.value):
                yield self.practice(
                    module, node, "missing CUDA is answered with a result that names the fault", end=last
                )
            elif isinstance(last, ast.Raise) and isinstance(last.exc, ast.Call) and last.exc.args:
                yield self.practice(module, node, "missing CUDA raises an exception that says so", end=last)


def _missing(module: Module, test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and asks_for_cuda(module, test.operand)


def _names_the_fault(value: ast.expr) -> bool:
    """Whether a result carries an error: a dictionary with such a key, an object built with a text."""
    if isinstance(value, ast.Dict):
        keys = [k.value for k in value.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
        return any(word in k.lower() for k in keys for word in ("error", "reason", "message", "status", "skipped"))
    if isinstance(value, ast.Call):
        given = [*value.args, *(k.value for k in value.keywords)]
        return any(isinstance(a, ast.Constant | ast.JoinedStr) and _is_text(a) for a in given)
    return False


def _is_text(node: ast.Constant | ast.JoinedStr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node.value, str) and " " in node.value)
