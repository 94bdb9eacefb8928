"""Whether gradients, a learning rate or a weight are divided by k, where the loss is not."""

import ast
import itertools
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.rules.amp._accumulation.divided_loss import DIVIDES, WEIGHT
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, loss_given, names_k
from ampguard.auditing.rules.amp._accumulation.too_late import comes_too_late
from ampguard.auditing.rules.amp._steps import arms, enclosing

_COUNTS = frozenset({"ceil", "int", "round", "floor", "len", "item", "max", "min", "format", "print", "info"})


def divided_elsewhere(module: Module, found: Accumulation) -> bool:
    """Whether gradients, a learning rate or a weight are divided by k in the function, or k by itself in a factor."""
    scopes = {enclosing(module, found.backward), enclosing(module, found.step)}
    divisions = (n for s in scopes for n in walk(s) if _divides(module, n, s, found.count))
    return any(_reaches(module, node, found) for node in divisions)


def _reaches(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division may be of what this backward pass gathers: not of another branch's, nor behind the step."""
    if arms(module, division, found.backward) or _of_a_number(division):
        return False
    if any(isinstance(a, ast.Call) and called(a) == "backward" for a in module.tree.above(division)):
        return module.tree.inside(division, found.backward)
    if _of_another_pass(module, division, found) or _of_another_value(module, division, found):
        return False
    around = enclosing(module, found.step)
    behind = found.test is None and division.lineno > (found.step.end_lineno or 0)  # type: ignore[attr-defined]
    return not (behind and enclosing(module, division) is around and not module.tree.inside(division, found.loop))


def _of_a_number(division: ast.AST) -> bool:
    """Whether what is divided has left the graph: `loss.item() / k`."""
    divided = division.left if isinstance(division, ast.BinOp) else getattr(division, "value", None)
    left = [n for n in walk(divided) if isinstance(n, ast.Call)] if isinstance(divided, ast.expr) else []
    return any(called(n) in ("item", "detach", "tolist") for n in left)


def _of_another_pass(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division is of the loss of another backward pass: in that one's own loop, or under its name."""
    passes = [c for c in module.calls.get("backward", ()) if c is not found.backward]
    for loop in module.tree.loops(division):
        if module.tree.inside(found.backward, loop):
            break
        if any(module.tree.inside(c, loop) for c in passes):
            return True
    loss = loss_given(module, found.backward)
    own = {key(n) for value in (loss, *assigned(module, loss)) for n in walk(value)}
    others = {key(loss_given(module, c)) for c in passes if c.args or receiver(c) is not None}
    statement = module.tree.statement(division)
    places = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return len(places) == 1 and key(places[0]) in others - own - {None}


def _of_another_value(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division's result goes to a name that the loss is not made of: what is printed, a second metric."""
    statement = module.tree.statement(division)
    loss = loss_given(module, found.backward)
    if isinstance(loss, ast.Name) and _binds(statement) == loss.id and comes_too_late(module, statement, loss):
        return True
    above = itertools.takewhile(lambda at: at is not statement, module.tree.above(division))
    if isinstance(statement, ast.Expr) or any(isinstance(at, ast.Call) for at in above):
        return False  # what is handed to a call may be a rate, or a weight
    places = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = [place.id for place in places if isinstance(place, ast.Name)]
    if not names or len(names) != len(places) or any(WEIGHT.search(n) or _SETTING.search(n) for n in names):
        return False
    return not set(names) & _made_of(module, loss_given(module, found.backward))


def _binds(statement: ast.stmt) -> str | None:
    """Return the key that a statement gives a value."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return key(targets[0])


_SETTING = regex(r"lr|rate|grad|scale|param|factor|coef|weight|norm|div|inv", re.IGNORECASE)
"""Names by whose value a step, or a loss, may be divided in another place."""


def _made_of(module: Module, loss: ast.expr) -> set[str]:
    """Return the names that a loss is made of, through the assignments of its file."""
    left, found = [loss], set()
    while left:
        for node in walk(left.pop()):
            if isinstance(node, ast.Name) and node.id not in found:
                found.add(node.id)
                left += assigned(module, node)
    return found


def _divides(module: Module, node: ast.AST, around: ast.AST, count: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return names_k(node.right, count) and not _only_counts(module, node, around)
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Div) and names_k(node.value, count)
    return isinstance(node, ast.Call) and called(node) in DIVIDES and "grad" in ast.unparse(node.func)


def _only_counts(module: Module, node: ast.BinOp, around: ast.AST) -> bool:
    """Whether a division computes a number of steps or a value to print."""
    if any(isinstance(at, ast.Call) and called(at) in ("len", "item") for at in walk(node.left)):
        return True
    for at in module.tree.above(node):
        if at is around:
            return False
        if isinstance(at, ast.Call) and called(at) in _COUNTS:
            return True
    return False
