"""One walk over a syntax tree, after which every question about it is a lookup: nodes by type, parents.

The walk is what the analysis of a file costs beside parsing, so it visits each node once and skips what no
rule asks about (contexts such as Load, operators, constants' kinds).
"""

import ast
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

_SKIPPED = frozenset(
    {"ctx", "op", "ops", "kind", "type_comment", "type_ignores", "type_params"}
    | {
        "id",
        "attr",
        "name",
        "asname",
        "arg",
        "module",
        "level",
        "conversion",
        "simple",
        "is_async",
        "rest",
        "kwd_attrs",
    }
)
"""Fields that hold no node that anybody asks about: contexts, operators, and plain strings and numbers."""

_PLAIN = (ast.Constant, ast.Global, ast.Nonlocal, ast.MatchSingleton)
"""Nodes without nodes below."""


def _fields_of_all() -> dict[type, tuple[str, ...]]:
    kinds = [kind for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.AST)]
    return {
        kind: () if issubclass(kind, _PLAIN) else tuple(f for f in kind._fields if f not in _SKIPPED) for kind in kinds
    }


_FIELDS = _fields_of_all()

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.AsyncFor | ast.While
Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_SCOPES = frozenset({ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda})
_LOOPS = frozenset({ast.For, ast.AsyncFor, ast.While})
_FUNCTIONS = frozenset(FUNCTIONS)

_NAME, _ATTRIBUTE = ast.Name, ast.Attribute
"""Looked up by every question for a place: a module's own names are found faster."""

_OWN_SCOPES = _SCOPES - {ast.Module}

_WALKED_OFTEN = frozenset({ast.stmt, *ast.stmt.__subclasses__(), ast.Module})
"""Nodes that many rules walk: what is below them is kept on the node, and goes with it."""

_NEVER: list[ast.AST] = []


class Tree:
    """The indexed syntax tree of one file.

    Attributes:
        root: The module node.
        parents: The parent of each node but the root.
    """

    def __init__(self, root: ast.Module) -> None:
        self.root = root
        self.parents: dict[ast.AST, ast.AST] = {}
        self._nodes: dict[type, list[ast.AST]] = defaultdict(list)
        self._scopes: dict[ast.AST, Scope] = {}
        self._names: dict[str, list[ast.Name]] = {}
        self._lines: dict[str, list[int]] = {}
        self._index()

    def _index(self) -> None:
        parents, nodes, fields = self.parents, self._nodes, _FIELDS
        stack: list[ast.AST] = [self.root]
        while stack:
            node = stack.pop()
            kind = node.__class__
            nodes[kind].append(node)
            names = fields[kind]
            if not names:
                continue
            below: list[ast.AST] = []
            for name in names:
                child = getattr(node, name, None)
                if child.__class__ is list:
                    below += child
                elif child is not None:
                    below.append(child)
            if None in below:
                below = [item for item in below if item is not None]
            for item in below:
                parents[item] = node
            below.reverse()
            stack += below

    def all(self, *kinds: type[ast.AST]) -> list[Any]:
        """Return the nodes of these types, in source order where one type is asked for."""
        return [node for kind in kinds for node in self._nodes.get(kind, ())]

    def named(self, name: str, within: ast.AST) -> list[ast.Name]:
        """Return where a bare name stands below a node, nested functions included, in source order."""
        if not self._names:
            for node in self._nodes.get(ast.Name, ()):
                self._names.setdefault(node.id, []).append(node)  # type: ignore[attr-defined, arg-type]
        held = self._names.get(name)
        if held is None:
            return []
        lines = self._lines.get(name)
        if lines is None:
            held.sort(key=_line)  # a decorator is indexed behind what it decorates
            lines = self._lines[name] = [node.lineno for node in held]
        if within is self.root:
            return list(held)
        first, last = within.lineno, within.end_lineno or within.lineno  # type: ignore[attr-defined]
        decorators = getattr(within, "decorator_list", None)
        if decorators:
            first = min(first, decorators[0].lineno)
        near = held[bisect_left(lines, first) : bisect_right(lines, last)]
        return [n for n in near if first < n.lineno < last or self.inside(n, within)]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Walk from the node's parent to the root."""
        parents = self.parents
        at = parents.get(node)
        while at is not None:
            yield at
            at = parents.get(at)

    def nearest(self, node: ast.AST, *kinds: type[ast.AST]) -> Any:
        """Return the closest node above `node` of one of these types, within any scope."""
        parents = self.parents
        at = parents.get(node)
        while at is not None and not isinstance(at, kinds):
            at = parents.get(at)
        return at

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the statement that the node is in; the node itself if it is one."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def function(self, node: ast.AST) -> Function | None:
        """Return the function around the node, or None where no function is; also from inside a class in a function."""
        at = self.scope(node)
        while at.__class__ not in _FUNCTIONS:
            if at.__class__ is ast.Module:
                return None
            at = self.scope(at)
        return at

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        """Return the class whose method (or body) the node is in, looking through nested functions."""
        at = self.scope(node)
        while at.__class__ is not ast.ClassDef:
            if at.__class__ is ast.Module:
                return None
            at = self.scope(at)
        return at

    def scope(self, node: ast.AST) -> Scope:
        """Return the scope in which the node's names are looked up first."""
        found = self._scopes.get(node)
        if found is None:
            parents = self.parents
            at = parents.get(node)
            while at is not None and at.__class__ not in _SCOPES:
                at = parents.get(at)
            found = self._scopes[node] = at or self.root  # type: ignore[assignment]
        return found  # type: ignore[return-value]

    def loops(self, node: ast.AST) -> Iterator[Loop]:
        """Walk the loops around the node inside its own function, innermost first.

        A node in a loop's `iter` or `orelse` is not inside that loop.
        """
        below: ast.AST = node
        for at in self.above(node):
            if at.__class__ in _SCOPES:
                return
            if at.__class__ in _LOOPS and (below in at.body or (isinstance(at, ast.While) and below is at.test)):  # type: ignore[attr-defined]
                yield at  # type: ignore[misc]
            below = at

    def handlers_around(self, node: ast.AST) -> Iterator[ast.Try | ast.TryStar]:
        """Walk the `try` statements whose body holds the node, inside its own function, innermost first."""
        below: ast.AST = node
        for at in self.above(node):
            if at.__class__ in _SCOPES:
                return
            if isinstance(at, (ast.Try, ast.TryStar)) and below in at.body:
                yield at
            below = at

    def inside(self, node: ast.AST, top: ast.AST) -> bool:
        """Whether `top` stands above the node (or is it)."""
        parents = self.parents
        at: ast.AST | None = node
        while at is not None and at is not top:
            at = parents.get(at)
        return at is top

    def behind(self, statement: ast.stmt) -> list[ast.stmt]:
        """Return the statements behind one in its block."""
        above = self.parents[statement]
        for name in ("body", "orelse", "finalbody"):
            block = getattr(above, name, None)
            if isinstance(block, list) and statement in block:
                return block[block.index(statement) + 1 :]
        return []

    def qualname(self, node: ast.AST) -> str:
        """Return the dotted name of the function or class around the node ("Trainer.fit"), "" at module level."""
        names = [at.name for at in (node, *self.above(node)) if isinstance(at, (*FUNCTIONS, ast.ClassDef))]
        return ".".join(reversed(names))


def _line(node: ast.Name) -> int:
    return node.lineno


def walk_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what is below the node in its own scope, in source order.

    Nested functions, classes and lambdas are yielded but not entered.
    """
    if node.__class__ not in _WALKED_OFTEN:
        return _in_scope(node)
    held = node.__dict__
    found: list[ast.AST] | None = held.get("_in_scope", _NEVER)
    if found is _NEVER:  # most are walked once, and left early
        held["_in_scope"] = None
        return _in_scope(node)
    if found is None:
        found = held["_in_scope"] = list(_in_scope(node))
    return iter(found)


def _in_scope(node: ast.AST) -> Iterator[ast.AST]:
    stack = children(node)[::-1]
    while stack:
        at = stack.pop()
        yield at
        kind = at.__class__
        if kind not in _OWN_SCOPES and _FIELDS[kind]:
            below = children(at)
            below.reverse()
            stack += below


def walk(top: ast.AST) -> Iterator[ast.AST]:
    """Walk a node and all that is below it, level by level, without contexts and operators."""
    if top.__class__ not in _WALKED_OFTEN:
        return _below(top)
    held = top.__dict__
    found: list[ast.AST] | None = held.get("_below", _NEVER)
    if found is _NEVER:
        held["_below"] = None
        return _below(top)
    if found is None:
        found = held["_below"] = list(_below(top))
    return iter(found)


def _below(top: ast.AST) -> Iterator[ast.AST]:
    left: list[ast.AST] = [top]
    for node in left:  # the list grows while it is walked
        yield node
        if _FIELDS[node.__class__]:
            left += children(node)


def children(node: ast.AST) -> list[ast.AST]:
    """Return the nodes right below, in source order, without contexts and operators."""
    found: list[ast.AST] = []
    for name in _FIELDS[node.__class__]:
        child = getattr(node, name, None)
        if child.__class__ is list:
            found += child
        elif child is not None:
            found.append(child)
    return [item for item in found if item is not None] if None in found else found


def key(node: ast.AST | None) -> str | None:
    """Return the one spelling of a place: "scaler", "self.scaler", "env['scaler']"; None for anything else.

    Two expressions of one key name the same object as long as nothing is assigned in between.
    """
    at: Any = node  # its class is asked, which is faster than `isinstance` and tells a type checker nothing
    kind = at.__class__
    name: str
    if kind is _NAME:
        name = at.id
        return name
    if kind is _ATTRIBUTE:
        base = at.value.id if at.value.__class__ is _NAME else key(at.value)
        return None if base is None else f"{base}.{at.attr}"
    if kind is ast.Subscript and isinstance(at.slice, ast.Constant):
        base = key(at.value)
        return None if base is None else f"{base}[{at.slice.value!r}]"
    return None


def is_none_literal(node: ast.AST | None) -> bool:
    """Whether an expression is the literal None."""
    return isinstance(node, ast.Constant) and node.value is None


def called(node: ast.Call) -> str:
    """Return the last name of what is called: "step" for `a.b.step()`, "print" for `print()`, else ""."""
    func = node.func
    kind = func.__class__
    if kind is _ATTRIBUTE:
        return func.attr  # type: ignore[attr-defined, no-any-return]
    return func.id if kind is _NAME else ""  # type: ignore[attr-defined]


def receiver(node: ast.Call) -> ast.expr | None:
    """Return what a method is called on: `a.b` in `a.b.step()`; None for a plain function."""
    return node.func.value if isinstance(node.func, ast.Attribute) else None


def argument(node: ast.Call, position: int | None, name: str) -> ast.expr | None:
    """Return the argument given by keyword or at the position (from 0), or None."""
    for keyword in node.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is not None and position < len(node.args):
        found = node.args[position]
        return None if any(isinstance(a, ast.Starred) for a in node.args[: position + 1]) else found
    return None
