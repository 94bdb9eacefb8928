"""Where the path of a checkpoint comes from, and whether it is the same at every save."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key, receiver, walk_scope

_DEPTH = 5
_OPTIONS = regex(
    r"^(args?|opts?|options|flags?|cfg|config|conf|params|hparams|hydra_cfg|self\.(args|opt|cfg|config|hparams))(\.|\[)"
)
_FETCHES = regex(r"download|url|fetch|hub|input|getenv|environ|argv|cached_path|wget", re.I)
_CACHE = regex(r"cache(_?(dir|path|file|folder|root))?\b")
"""A folder whose files the program makes itself."""

_DOWNLOADS = regex(r"download|fetch|(from|load)_url|url_?retrieve|(from|hf)_hub|hub_|cached_path|wget|curl", re.I)
_COUNTS = regex(
    r"(^|[^a-z])(epochs?|steps?|iters?|iteration|it|itr|idx|index|num|step_?num|global_?step|n_?iter|i|n|k|t|time|timestamp"
    r"|date|uuid|rank|fold|run|trial|round|seed|now|tag|suffix|version|batch|batch_idx|count|counter)"
    r"([^a-z]|$)|epoch|step|iter|time",
    re.I,
)


def parts(module: Module, node: ast.expr | None) -> list[ast.expr]:
    """Return the expression and those that names in it stand for, each once: all that may decide what a path is."""
    return module.once((parts, node), lambda: _parts(module, node)) if node is not None else []


def _parts(module: Module, node: ast.expr) -> list[ast.expr]:
    found, last = {node: None}, [node]
    for _ in range(_DEPTH):
        reached = {value: None for part in last for value in _stand_for(module, part) if value not in found}
        found |= reached
        last = list(reached)
    return list(found)


def _stand_for(module: Module, node: ast.expr) -> Iterator[ast.expr]:
    """Walk what was assigned to the names in an expression."""
    for inner in (node, *walk_scope(node)):
        if isinstance(inner, ast.Name | ast.Attribute) and isinstance(getattr(inner, "ctx", None), ast.Load):
            yield from (value for value in assigned(module, inner) if not module.tree.inside(inner, value))


def comes_from_outside(module: Module, node: ast.expr | None) -> bool:
    """Whether a path is given to the program or the function: a parameter, an option, an environment value, a URL."""
    return any(_outside(module, inner) for part in parts(module, node) for inner in (part, *walk_scope(part)))


def names_file_outside(module: Module, node: ast.expr | None, *, depth: int = 0) -> bool:
    """Whether the file itself is named from outside, not only the folder in which a known name lies, nor a cache."""
    if node is None or depth > _DEPTH or (not depth and _CACHE.search(ast.unparse(node))):
        return False
    inner: list[ast.expr] = []
    if isinstance(node, ast.Call):
        if _DOWNLOADS.search(called(node)):
            return True
        owner = receiver(node)
        inner = node.args[:1] if called(node) == "open" else node.args[-1:] or ([owner] if owner is not None else [])
    elif isinstance(node, ast.BinOp):
        inner = [node.right]
    elif isinstance(node, ast.JoinedStr):
        values = [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
        own_name = _ends_in_name(node) or (depth and len(values) < len(node.values))  # join(folder, f"{key}.pt")
        inner = [] if own_name else values
    elif isinstance(node, ast.IfExp | ast.BoolOp):
        inner = [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values
    elif _outside(module, node):
        return True
    elif isinstance(node, ast.Subscript):
        inner = [node.value]
    elif isinstance(node, ast.Name | ast.Attribute):
        inner = [v for v in assigned(module, node) if not module.tree.inside(node, v)]
    return any(names_file_outside(module, value, depth=depth + 1) for value in inner)


def is_downloaded(module: Module, node: ast.expr | None) -> bool:
    """Whether a path is what a download gave, a URL, or what the same function had a download write."""
    found = parts(module, node)
    if any(_downloads(inner) for part in found for inner in (part, *walk_scope(part))):
        return True
    names = {place for part in found if (place := key(part)) is not None}
    scope = module.tree.scope(node) if node is not None and names else None
    return scope is not None and any(
        isinstance(call, ast.Call) and _downloads(call) and names & {key(a) for a in _given(call)}
        for call in walk_scope(scope)
    )


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _downloads(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return bool(_DOWNLOADS.search(called(node)))
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("http:", "https:"))


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
