"""The old names of AMP: which there are, where a file names one without calling it, and what is a fallback to them."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import absolute
from ampguard.auditing.reading.tree import FUNCTIONS

SYMBOLS = {
    f"torch.{device}.amp.{name}": (device, name)
    for device in ("cuda", "cpu")
    for name in ("autocast", "GradScaler", "custom_fwd", "custom_bwd")
    if not (device == "cpu" and name.startswith("custom"))
}
SYMBOLS |= {
    f"torch.{device}.amp.{part}.{name}": (device, name)
    for device in ("cuda", "cpu")
    for part, name in (("autocast_mode", "autocast"), ("grad_scaler", "GradScaler"))
}
NAMES = dict.fromkeys(name for _, name in SYMBOLS.values())

_OF_OTHER_DEVICES = regex(r"(torch|torch_\w+)\.(?!amp\b)\w+\.amp\.\w+")
_VERSION_TEST = regex(r"(?i:version|hasattr|torch_?\d|_(ge|gt|lt|le)_|at_?least)|TORCH_")
_NEW = regex(r"torch\.(amp\b|autocast|GradScaler)|from torch import (amp|autocast|GradScaler)\b")
_MISSING = frozenset({"ImportError", "ModuleNotFoundError", "AttributeError", "TypeError"})
"""What the new name raises where torch does not have it yet."""


def deprecated(names: tuple[str, ...]) -> str | None:
    """Return the old name that an expression stands for; its other names may only be those of further devices."""
    old = [name for name in names if name in SYMBOLS]
    others = (name for name in names if name not in SYMBOLS)
    return old[0] if len(old) == 1 and all(_OF_OTHER_DEVICES.fullmatch(name) for name in others) else None


def is_fallback(module: Module, node: ast.AST) -> bool:
    """Whether a use stands under a test of the version, or in the handler of what an older torch raises."""
    below = node
    for at in module.tree.above(node):
        if isinstance(at, ast.If | ast.IfExp) and _VERSION_TEST.search(ast.unparse(at.test)):
            return True
        if isinstance(at, ast.Try) and isinstance(below, ast.ExceptHandler) and _for_old_versions(at, below):
            return True
        if isinstance(at, FUNCTIONS) and any(_VERSION_TEST.search(ast.unparse(d)) for d in at.decorator_list):
            return True
        below = at
    return False


def _for_old_versions(around: ast.Try, handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    caught = {ast.unparse(kind).rpartition(".")[2] for kind in kinds if kind is not None}
    return bool(caught & _MISSING) or any(_NEW.search(ast.unparse(statement)) for statement in around.body)


def mentioned_and_not_called(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """Walk the first attribute of each old name, as in `isinstance(scaler, torch.cuda.amp.GradScaler)`."""
    if _NEW.search(module.about("torch.amp", "import amp")):
        return
    told = set()
    for node in module.tree.all(ast.Attribute):
        dotted = deprecated(module.names.dotted(node)) if node.attr in NAMES else None
        if dotted is not None and dotted not in told and not is_fallback(module, node):
            told.add(dotted)
            yield dotted, node


def imported_and_not_called(module: Module) -> Iterator[tuple[str, ast.alias]]:
    """Walk the imports of old names, for types, base classes and what is handed on; but for those that may fail."""
    for node in module.tree.all(ast.ImportFrom):
        holder = absolute(node, module.package)
        for alias in node.names:
            dotted = f"{holder}.{alias.name}"
            if dotted in SYMBOLS and not is_fallback(module, node) and not _may_fail(module, node):
                bound = module.names.lookup(alias.asname or alias.name, node)
                if bound is None or deprecated(tuple(b.dotted for b in bound[1] if b.kind == "import")) is not None:
                    yield dotted, alias


def _may_fail(module: Module, node: ast.ImportFrom) -> bool:
    """Whether the file goes on without the name where it cannot be imported."""
    handlers = (handler for around in module.tree.handlers_around(node) for handler in around.handlers)
    return any(handler.type is None or _MISSING & set(_words(handler.type)) for handler in handlers)


def _words(node: ast.expr) -> list[str]:
    return [*re.findall(r"\w+", ast.unparse(node)), *(["ImportError"] if "Exception" in ast.unparse(node) else [])]
