"""Edits of source text that keep every line where it was, so that a place can be named before and after."""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "orelse", "finalbody")


@dataclass(frozen=True)
class Plant:
    """A fault in a text.

    Attributes:
        kind: A kind of `audit_faults.KINDS`.
        text: The whole file with the fault in it.
        lines: Where a reviewer may point, from 1.
    """

    kind: str
    text: str
    lines: tuple[int, ...]


@dataclass
class Page:
    """A file to plant in: its text, tree, parents, and the edits gathered so far."""

    text: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = self.text.encode().split(b"\n")
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node

    def calls(self, name: str) -> Iterator[ast.Call]:
        """Walk the calls whose last name is `name`."""
        return (n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and called(n) == name)

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the statement around a node."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def function(self, node: ast.AST) -> ast.AST:
        """Return the function around a node, or the module."""
        at = self.parents.get(node, node)
        while at in self.parents and not isinstance(at, FUNCTIONS):
            at = self.parents[at]
        return at

    def loop(self, node: ast.AST) -> ast.AST | None:
        """Return the loop around a node in its own function."""
        at = self.parents.get(node)
        while at is not None and not isinstance(at, (*FUNCTIONS, ast.For, ast.While)):
            at = self.parents.get(at)
        return at if isinstance(at, ast.For | ast.While) else None

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Walk from the node's parent to the module."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def source(self, node: ast.AST) -> str:
        """Return the text of a node."""
        return ast.get_source_segment(self.text, node) or ""


Edit = tuple[ast.AST, str]
"""A node, and the text in its place."""


def edited(page: Page, edits: Iterable[Edit]) -> str | None:
    """Return the text with nodes replaced, as many lines as before; None where it is no Python any more."""
    lines = list(page.lines)
    for node, new in sorted(edits, key=lambda e: (-e[0].lineno, -e[0].col_offset)):
        first, last = node.lineno - 1, node.end_lineno - 1
        tail = lines[last][node.end_col_offset :]
        lines[first] = lines[first][: node.col_offset] + new.encode() + tail
        for blank in range(first + 1, last + 1):
            lines[blank] = b""
    return _valid(lines)


def _valid(lines: list[bytes]) -> str | None:
    """Return the text of lines, None where it is no Python."""
    text = b"\n".join(lines).decode()
    try:
        ast.parse(text)
    except SyntaxError:
        return None
    return text


def called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def receiver(call: ast.Call) -> str:
    """Return what a method is called on, as text; "" for a plain function."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def alone(page: Page, node: ast.AST) -> bool:
    """Whether a call is a whole statement."""
    return isinstance(page.parents.get(node), ast.Expr)


def like_scaler(call: ast.Call) -> bool:
    """Whether a method is called on what its name says is a scaler."""
    return "scaler" in receiver(call).rpartition(".")[2].lower() and "lr" not in receiver(call).lower()


def indented_into(page: Page, block: ast.With, rest: list[ast.stmt]) -> str | None:
    """Return the text with the statements right after a `with` taken into it."""
    lines = list(page.lines)
    pad = b" " * (block.body[0].col_offset - block.col_offset)
    for line in range(rest[0].lineno - 1, rest[-1].end_lineno):
        if lines[line].strip():
            lines[line] = pad + lines[line]
    return _valid(lines)


def siblings_after(page: Page, node: ast.stmt) -> list[ast.stmt]:
    """Return the statements after one in its own block."""
    above = page.parents[node]
    for name in BLOCKS:
        block = getattr(above, name, None)
        if isinstance(block, list) and node in block:
            return block[block.index(node) + 1 :]
    return []


Planter = Callable[[Page], Iterator[Plant]]
