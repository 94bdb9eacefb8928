"""Pairs of a flag and a value, `(False, None)` on failure, whose value is used where the flag says that it failed."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, is_none_literal, walk, walk_scope

_ANSWER = "return False, None"


@dataclass(frozen=True)
class UsedAsFailed:
    """A use of a value that is None there: the use, the function that answers it, and whether that is certain."""

    use: ast.AST
    function: str
    sure: bool


def used_as_failed(module: Module) -> Iterator[UsedAsFailed]:
    """Walk the uses of a value in the arm of its flag that says that it failed, where a function answers None there."""
    if not module.mentions(("else:", "if not ")):
        return
    for node in module.tree.all(ast.If):
        flag, arm = _failing_arm(node)
        call, value = _pair(module, node, flag) if flag is not None else (None, "")
        use = _use(module, arm, value) if call is not None else None
        if call is None or use is None:
            continue
        place = target(module, call)
        if place is not None and _answers_none(place[1]):
            yield UsedAsFailed(use, called(call), sure=True)
        elif place is None and _answered_somewhere(module, called(call)):
            yield UsedAsFailed(use, called(call), sure=False)


def _failing_arm(node: ast.If) -> tuple[ast.Name | None, list[ast.stmt]]:
    """Return the flag that a condition asks, and the lines that run where it is False."""
    if isinstance(node.test, ast.Name):
        return node.test, node.orelse
    negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
    operand = node.test.operand if negated else None  # type: ignore[attr-defined]
    return (operand, node.body) if isinstance(operand, ast.Name) else (None, [])


def _pair(module: Module, node: ast.If, flag: ast.Name) -> tuple[ast.Call | None, str]:
    """Return the call that gave `flag, value = ...` right before a condition, and the value's name."""
    found = module.names.lookup(flag.id, flag)
    bound = found[1][-1].node if found is not None and len(found[1]) == 1 else None
    goal = bound.targets[0] if isinstance(bound, ast.Assign) else None
    if not isinstance(goal, ast.Tuple) or len(goal.elts) != 2 or not isinstance(bound, ast.Assign):
        return None, ""
    first, second = goal.elts
    named = isinstance(first, ast.Name) and isinstance(second, ast.Name) and first.id == flag.id
    if not named or bound.lineno > node.lineno:
        return None, ""
    given = bound.value
    if isinstance(given, ast.Name):
        values = module.names.values(given.id, given)
        given = values[0] if len(values) == 1 else given
    return (given, second.id) if isinstance(given, ast.Call) else (None, "")  # type: ignore[attr-defined]


def _use(module: Module, arm: list[ast.stmt], name: str) -> ast.AST | None:
    """Return the first use of a name as a value in an arm that neither asks about it nor gives it another."""
    first: ast.AST | None = None
    for node in (n for statement in arm for n in walk(statement)):
        if isinstance(node, ast.Name) and node.id == name:
            parent = module.tree.parents[node]
            if isinstance(node.ctx, ast.Store) or _asks(node, parent):
                return None
            first = first or (parent if _needs_value(node, parent) else None)
    return first


def _asks(node: ast.Name, parent: ast.AST) -> bool:
    if isinstance(parent, ast.Compare):
        return any(isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) for op in parent.ops)
    if isinstance(parent, ast.Call):
        return called(parent) == "isinstance"
    return isinstance(parent, ast.BoolOp | ast.UnaryOp) or getattr(parent, "test", None) is node


def _needs_value(node: ast.Name, parent: ast.AST) -> bool:
    if isinstance(parent, ast.Compare):
        return node in parent.comparators and any(isinstance(op, ast.In | ast.NotIn) for op in parent.ops)
    if isinstance(parent, ast.For | ast.comprehension):
        return parent.iter is node
    return isinstance(parent, ast.Subscript | ast.Attribute) and parent.value is node


def _answers_none(function: Function) -> bool:
    returns = [n.value for n in walk_scope(function) if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)]
    return any(len(r.elts) == 2 and _is_false(r.elts[0]) and is_none_literal(r.elts[1]) for r in returns)


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _answered_somewhere(module: Module, name: str) -> bool:
    """Whether a function of that name, or its private part (`_step` of `step`), answers `False, None` somewhere."""
    own_lines = r"(?:(?!^\1(?:def|class|@)\b).*\n)*?"
    body = re.compile(rf"^( *)(?:async )?def _*{re.escape(name)}\({own_lines}.*{_ANSWER}\b(?! *,)", re.MULTILINE)
    return any(body.search(text) for _, text in module.project.texts(_ANSWER))
