"""Where the path of a checkpoint comes from, and whether it is the same at every save."""

import ast
import re

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key, walk_scope

_DEPTH = 5
_OPTIONS = re.compile(
    r"^(args?|opts?|options|flags?|cfg|config|conf|params|hparams|hydra_cfg|self\.(args|opt|cfg|config|hparams))(\.|\[)"
)
_FETCHES = re.compile(r"download|url|fetch|hub|input|getenv|environ|argv|cached_path|wget", re.I)
_COUNTS = re.compile(
    r"(^|[^a-z])(epochs?|steps?|iters?|iteration|it|itr|idx|index|num|step_?num|global_?step|n_?iter|i|n|k|t|time|timestamp"
    r"|date|uuid|rank|fold|run|trial|round|seed|now|tag|suffix|version|batch|batch_idx|count|counter)"
    r"([^a-z]|$)|epoch|step|iter|time",
    re.I,
)


def parts(module: Module, node: ast.expr | None, *, depth: int = 0) -> list[ast.expr]:
    """Return the expression and those that names in it stand for: all that may decide what a path is."""
    if node is None or depth > _DEPTH:
        return []
    found = [node]
    for inner in (node, *walk_scope(node)):
        if isinstance(inner, ast.Name | ast.Attribute) and isinstance(getattr(inner, "ctx", None), ast.Load):
            for value in assigned(module, inner):
                if value is not node and not module.tree.inside(inner, value):
                    found += parts(module, value, depth=depth + 1)
    return found


def comes_from_outside(module: Module, node: ast.expr | None) -> bool:
    """Whether a path is given to the program or the function: a parameter, an option, an environment value, a URL."""
    return any(_outside(module, inner) for part in parts(module, node) for inner in (part, *walk_scope(part)))


def _outside(module: Module, node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        above = module.tree.parents.get(node)
        if isinstance(above, ast.Subscript) and above.slice is node:
            return False  # which of the known paths, not what path
        found = module.names.lookup(node.id, node)
        return found is not None and node.id not in ("self", "cls") and any(b.kind == "parameter" for b in found[1])
    if isinstance(node, ast.Attribute | ast.Subscript):
        return bool(_OPTIONS.match(key(node) or "")) or key(node) == "sys.argv"
    if isinstance(node, ast.Call):
        return bool(_FETCHES.search(called(node)))
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("http:", "https:"))


def written_here(module: Module, node: ast.expr | None) -> bool:
    """Whether the file itself writes to the same path that it reads."""
    return bool(
        {ast.dump(part) for part in parts(module, node)} & module.once("written paths", lambda: _written(module))
    )


def _written(module: Module) -> set[str]:
    paths = [part for save in torch_saves(module) for part in parts(module, argument(save, 1, "f"))]
    return {
        ast.dump(p)
        for p in paths
        if not (isinstance(p, ast.Name) or (isinstance(p, ast.Constant) and len(str(p.value)) < 4))
    }


def in_memory(module: Module, node: ast.expr | None) -> bool:
    """Whether what is read or written is a buffer and no file."""
    return any(
        isinstance(part, ast.Call)
        and called(part) in ("BytesIO", "SpooledTemporaryFile", "getbuffer", "BufferedReader")
        for part in parts(module, node)
    )


def changes_each_time(module: Module, node: ast.expr | None) -> bool:
    """Whether a path carries an epoch, a step, a time or the like, so that each save makes a file of its own."""
    for part in parts(module, node):
        for inner in (part, *walk_scope(part)):
            if isinstance(inner, ast.Name) and _COUNTS.search(inner.id):
                return True
            if isinstance(inner, ast.Attribute) and _COUNTS.search(inner.attr):
                return True
            if isinstance(inner, ast.Call) and _COUNTS.search(called(inner)):
                return True
    return False


def is_given(module: Module, node: ast.expr | None) -> bool:
    """Whether the last part of a path is a parameter of the function, or made of one: its callers know the name."""
    if isinstance(node, ast.Call) and node.args:
        return is_given(module, node.args[-1])
    if isinstance(node, ast.BinOp):
        return is_given(module, node.right)
    if isinstance(node, ast.JoinedStr):
        inside = [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
        return any(is_given(module, value) for value in (inside if not _ends_in_name(node) else inside[1:]))
    if isinstance(node, ast.Name):
        values = [value for value in assigned(module, node) if value is not node]
        return _outside(module, node) or any(is_given(module, v) for v in values if not module.tree.inside(node, v))
    return False


def _ends_in_name(node: ast.JoinedStr) -> bool:
    """Whether `f"{folder}/last.pt"` ends in a name of its own, so that its first value is but a folder."""
    last = node.values[-1]
    return isinstance(last, ast.Constant) and "/" in str(last.value)


def words_of(module: Module, node: ast.expr | None) -> str:
    """Return the text and the names of a path in one string, for questions about words."""
    return " ".join(ast.unparse(part) for part in parts(module, node))
