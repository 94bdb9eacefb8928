"""A result that says what went wrong."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.handlers import tells
from ampguard.auditing.reading.module import Module

_KEYS = frozenset({"error", "errors", "error_message", "exception"})


class StructuredErrorResult(Practice):
    """A function that cannot do its work says so to the user, and returns a result with an `error` in it.

    The caller gets the same shape as on success and can ask for the error; the user reads the reason at once.
    """

    name = "structured-error-result"
    title = "Structured error result"
    words = tuple(f'"{key}"' for key in sorted(_KEYS)) + tuple(f"'{key}'" for key in sorted(_KEYS))

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every return of an error that was told before."""
        for node in module.tree.all(ast.Return):
            key = _error_key(node.value)
            if key is not None and _told_before(module, node):
                where = module.tree.qualname(node)
                message = (
                    f"{where} tells the failure and returns it under {key!r}" if where else "A failure is returned"
                )
                yield self.practice(module, node, message)


def _error_key(value: ast.expr | None) -> str | None:
    """Return the key under which a dict display holds an error; None where there is none."""
    if not isinstance(value, ast.Dict):
        return None
    for key, item in zip(value.keys, value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value in _KEYS and not _is_empty(item):
            return str(key.value)
    return None


def _is_empty(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and not item.value


def _told_before(module: Module, node: ast.Return) -> bool:
    parent = module.tree.parents[node]
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    block = next((b for b in blocks if isinstance(b, list) and node in b), [node])
    return any(
        isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and tells(module, s.value)
        for s in block[: block.index(node)]
    )
