"""What a name in a file stands for: bindings per scope, and dotted names through aliases.

`from torch.cuda import amp as A; scaler = A.GradScaler()`: `A.GradScaler` is "torch.cuda.amp.GradScaler". A name
with several bindings (an import and the fallback of its `except ImportError`) has several dotted names: a rule
asks whether one of them fits. Flow inside a scope is not followed here: every binding of the scope counts.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ampguard.auditing.reading.tree import FUNCTIONS, Function, Scope, Tree

_DEPTH = 8
_BINDERS: tuple[type[ast.AST], ...] = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign),
    *(ast.NamedExpr, ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension, ast.withitem, ast.ExceptHandler),
    *(ast.MatchAs, ast.MatchStar),
)
"""The nodes that can bind a name."""


@dataclass(frozen=True)
class Binding:
    """One place where a scope gives a name a meaning.

    Attributes:
        node: The statement or expression that binds.
        kind: "import", "function", "class", "assign", "parameter", "loop", "with", "except", "other" (unpacking,
            augmented assignment, walrus in a comprehension, `global`).
        value: What is bound where that is one expression: an assignment's right side, a parameter's default, a
            context manager; for an unpacking, a loop and an augmented assignment what the name is a part of.
        dotted: For an import, the absolute dotted name.
    """

    node: ast.AST
    kind: str
    value: ast.expr | None = None
    dotted: str = ""


class Names:
    """The names of one file.

    Args:
        tree: The file's syntax tree.
        package: The dotted package that relative imports start from, "" where unknown.
    """

    def __init__(self, tree: Tree, package: str) -> None:
        self.tree = tree
        self.package = package
        self._scopes: dict[Scope, dict[str, list[Binding]]] = {}
        self._dotted: dict[tuple[Scope, str], tuple[str, ...]] = {}

    def bindings_in(self, scope: Scope) -> dict[str, list[Binding]]:
        """Return every binding of one scope by name, in source order."""
        if scope not in self._scopes:
            found: dict[str, list[Binding]] = {}
            for name, binding in self._bound(scope):
                found.setdefault(name, []).append(binding)
            self._scopes[scope] = found
        return self._scopes[scope]

    @cached_property
    def _binders(self) -> dict[Scope, list[ast.AST]]:
        """Return the nodes that may bind a name, by the scope that they bind it in, in source order."""
        found: dict[Scope, list[ast.AST]] = {}
        for node in sorted(self.tree.all(*_BINDERS), key=_position):
            found.setdefault(self.tree.scope(node), []).append(node)
        return found

    def lookup(self, name: str, at: ast.AST) -> tuple[Scope, list[Binding]] | None:
        """Return the scope that gives `name` its meaning at a node, with its bindings there; None if none does.

        Python's order: the function, the functions around it, the module; class bodies only for their own level.
        """
        scope_of, scopes = self.tree.scope, self._scopes
        scope = scope_of(at)
        first = True
        while True:
            if first or scope.__class__ is not ast.ClassDef:
                bound = (scopes[scope] if scope in scopes else self.bindings_in(scope)).get(name)
                if bound:
                    return scope, bound
            if scope.__class__ is ast.Module:
                return None
            scope, first = scope_of(scope), False

    def values(self, name: str, at: ast.AST) -> list[ast.expr]:
        """Return the right sides of the plain assignments to `name` that its scope holds."""
        found = self.lookup(name, at)
        return [b.value for b in found[1] if b.kind in ("assign", "with") and b.value is not None] if found else []

    def dotted(self, node: ast.AST | None) -> tuple[str, ...]:
        """Return the dotted names that an expression may stand for, () where it is not a name of something global.

        Names of this file's own functions and classes come as "<package.module>" is not known here: as themselves.
        """
        return self._dotted_at(node, 0)

    def stands_for(self, node: ast.AST | None, *wanted: str) -> bool:
        """Whether one of the expression's dotted names is `wanted`, or ends with it where it starts with "."."""
        return any(
            name.endswith(w) if w.startswith(".") else name == w for name in self._dotted_at(node, 0) for w in wanted
        )

    def _dotted_at(self, node: ast.AST | None, depth: int) -> tuple[str, ...]:
        if depth > _DEPTH:
            return ()
        if isinstance(node, ast.Attribute):
            return tuple(f"{base}.{node.attr}" for base in self._dotted_at(node.value, depth + 1))
        if isinstance(node, ast.Name):
            return self._dotted_name(node.id, node, depth)
        if isinstance(node, ast.IfExp):
            return self._dotted_at(node.body, depth + 1) + self._dotted_at(node.orelse, depth + 1)
        if isinstance(node, ast.Call) and self._is_partial(node, depth):
            return self._dotted_at(node.args[0], depth + 1)
        return ()

    def _is_partial(self, node: ast.Call, depth: int) -> bool:
        return bool(node.args) and "functools.partial" in self._dotted_at(node.func, depth + 1)

    def _dotted_name(self, name: str, at: ast.AST, depth: int) -> tuple[str, ...]:
        found = self.lookup(name, at)
        if found is None:
            return (name,)
        scope, bindings = found
        memo = (scope, name)
        if memo not in self._dotted:
            self._dotted[memo] = ()  # a name that is bound to itself stands for nothing
            self._dotted[memo] = tuple(dict.fromkeys(d for b in bindings for d in self._dotted_binding(b, depth)))
        return self._dotted[memo]

    def _dotted_binding(self, binding: Binding, depth: int) -> tuple[str, ...]:
        if binding.kind == "import":
            return (binding.dotted,)
        if binding.kind in ("function", "class"):
            return (self.tree.qualname(binding.node),)
        if binding.kind == "assign" and isinstance(binding.value, ast.Name | ast.Attribute | ast.IfExp | ast.Call):
            return self._dotted_at(binding.value, depth + 1)
        return ()

    def _bound(self, scope: Scope) -> Iterator[tuple[str, Binding]]:
        if isinstance(scope, (*FUNCTIONS, ast.Lambda)):
            yield from _parameters(scope)
        for node in self._binders.get(scope, ()):
            yield from self._bound_by(node)

    def _bound_by(self, node: ast.AST) -> Iterator[tuple[str, Binding]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                yield bound, Binding(node, "import", dotted=alias.name if alias.asname else bound)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, self.package)
            for alias in node.names:
                yield alias.asname or alias.name, Binding(node, "import", dotted=f"{base}.{alias.name}".lstrip("."))
        elif isinstance(node, FUNCTIONS):
            yield node.name, Binding(node, "function")
        elif isinstance(node, ast.ClassDef):
            yield node.name, Binding(node, "class")
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _targets(target, node, "assign", node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            yield from _targets(node.target, node, "assign", node.value)
        elif isinstance(node, ast.AugAssign):
            yield from _targets(node.target, node, "other", node.value)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            yield from _targets(node.target, node, "loop", node.iter)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            yield from _targets(node.optional_vars, node, "with", node.context_expr)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, Binding(node, "except")
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, Binding(node, "other")


def _position(node: ast.AST) -> tuple[int, int]:
    at = node
    if isinstance(node, ast.comprehension):
        at = node.target
    elif isinstance(node, ast.withitem):
        at = node.context_expr
    return (at.lineno, at.col_offset)  # type: ignore[attr-defined]


def absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute dotted module of a `from` import; what is above the package is left out."""
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    above = parts[: len(parts) - node.level + 1] if node.level <= len(parts) else []
    return ".".join([*above, *filter(None, [node.module])])


def parameters(function: Function | ast.Lambda) -> list[tuple[ast.arg, ast.expr | None]]:
    """Return the function's parameters with their defaults: positional ones first, then keyword-only ones."""
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(a.defaults))
    return [*zip(plain, [*missing, *a.defaults], strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]


def _parameters(function: Function | ast.Lambda) -> Iterator[tuple[str, Binding]]:
    for arg, default in parameters(function):
        yield arg.arg, Binding(arg, "parameter", default)
    for star in (function.args.vararg, function.args.kwarg):
        if star is not None:
            yield star.arg, Binding(star, "parameter")


def _targets(target: ast.expr, node: ast.AST, kind: str, value: ast.expr | None) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Name):
        yield target.id, Binding(node, kind, value)
    elif isinstance(target, ast.Starred):
        yield from _targets(target.value, node, "other", value)
    elif isinstance(target, ast.Tuple | ast.List):
        values = value.elts if isinstance(value, ast.Tuple | ast.List) and kind == "assign" else ()
        paired = len(values) == len(target.elts) and not any(isinstance(v, ast.Starred) for v in values)
        for position, element in enumerate(target.elts):
            one, its = (kind, values[position]) if paired else ("other" if kind == "assign" else kind, value)
            yield from _targets(element, node, one, its)
