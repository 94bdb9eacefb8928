"""Uses right behind a test that sets a name to None in one of its arms, in a loop or not.

`if distilling: scores.append(score)` with `else: scores = None`, and then `len(scores)`: whatever the other arm does,
this one ends in the use. So does `path = found[-1] if found else None` with `path = os.path.join(folder, path)` behind.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, body_text, failing_uses, is_conditional, may_need
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import is_none_literal, walk, walk_scope

_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)


def uses_behind_an_arm(module: Module) -> Iterator[Use]:
    """Walk the first use behind each such test, in its block."""
    yield from _behind_choices(module) if module.mentions(("else None", "= None if")) else ()
    if "= None" not in module.text:
        return
    for node, name in _nones(module):
        branch, function = module.tree.parents[node], module.tree.function(node)
        if not isinstance(branch, ast.If) or function is None or not may_need(name, body_text(module, function)):
            continue
        arm = branch.body if node in branch.body else branch.orelse
        if leaves(arm) or _is_changed(arm[arm.index(node) + 1 :], name):
            continue
        use = _first_use(module, _outermost(module, branch), name)
        if use is not None:
            yield Use(name, use, node)


def _behind_choices(module: Module) -> Iterator[Use]:
    """Walk the first use behind each `name = value if test else None`, where it always runs."""
    for node in module.tree.all(ast.Assign):
        target, chosen = node.targets[0], node.value
        if not isinstance(chosen, ast.IfExp) or not isinstance(target, ast.Name) or len(node.targets) != 1:
            continue
        function = module.tree.function(node)
        if function is None or not (is_none_literal(chosen.body) or is_none_literal(chosen.orelse)):
            continue
        if may_need(target.id, body_text(module, function)):
            use = _first_use(module, node, target.id)
            if use is not None:
                yield Use(target.id, use, node)


def _nones(module: Module) -> Iterator[tuple[ast.Assign, str]]:
    """Walk the assignments of None, alone or side by side (`a, b = None, None`), with each name that gets it."""
    for node in module.tree.all(ast.Assign):
        target, value = node.targets[0], node.value
        if isinstance(value, ast.Tuple):
            targets = target.elts if isinstance(target, ast.Tuple) else []
            pairs = list(zip(targets, value.elts, strict=False))
        else:
            pairs = [(target, value)] if len(node.targets) == 1 else []
        for at, given in pairs:
            if isinstance(at, ast.Name) and is_none_literal(given):
                yield node, at.id


def _outermost(module: Module, branch: ast.If) -> ast.If:
    """Return the `if` whose `elif` a test is."""
    above = module.tree.parents[branch]
    while isinstance(above, ast.If) and above.orelse == [branch]:
        branch, above = above, module.tree.parents[above]
    return branch


def _is_changed(statements: list[ast.stmt], name: str) -> bool:
    """Whether statements give a name a value."""
    held = (n for s in statements for n in walk(s) if isinstance(n, ast.Name) and n.id == name)
    return any(not isinstance(n.ctx, ast.Load) for n in held)


def _first_use(module: Module, branch: ast.stmt, name: str) -> ast.AST | None:
    """Return the first use behind a statement that always runs, if nothing asks or gives a value before it."""
    for statement in module.tree.behind(branch):
        found = _at_once(module, statement, name)
        if found is not None:
            return found if not any(True for _ in module.tree.handlers_around(found)) else None
        nodes = [statement, *walk_scope(statement)]
        asks = any(asks_about(n.test, name) for n in nodes if isinstance(n, _TESTING))
        if asks or _is_changed([statement], name) or leaves([statement]) or _leaves_within(nodes):
            return None
    return None


def _leaves_within(nodes: list[ast.AST]) -> bool:
    return any(isinstance(n, ast.Return | ast.Raise | ast.Continue | ast.Break) for n in nodes)


def _at_once(module: Module, statement: ast.stmt, name: str) -> ast.AST | None:
    """Return the first use in a statement that runs wherever the statement does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    block = module.tree.parents[statement]
    for use in failing_uses(module, statement, name):
        if not is_conditional(module, use, block):
            return use
    return None
