"""Plain steps near a scaler: whether unscaled gradients are looked through for inf, and steps past a scaler."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._steps import arms, enclosing, tests_above

_ASKS = regex(r"found_inf|isfinite|isnan|isinf|nan_to_num|overflow|error_if_nonfinite|\binf\b", re.IGNORECASE)
"""What a step holds that looks for inf and NaN by itself."""

_LOSS = regex(r"loss", re.IGNORECASE)
_GRADIENTS = regex(r"grad|norm", re.IGNORECASE)


def looked_through(module: Module, step: ast.AST, unscaled: ast.AST | None) -> bool:
    """Whether something between the `unscale_` and the step looks at the gradients for inf and NaN.

    Where the two stand in different functions, all of the loop around the step counts.
    """
    if unscaled is None or enclosing(module, unscaled) is not enclosing(module, step):
        return bool(_ASKS.search(_text_around(module, step)))
    first, last = getattr(unscaled, "lineno", 0), getattr(step, "end_lineno", 0)
    asking = (n for n in ast.walk(enclosing(module, step)) if _asks(module, n) and first <= n.lineno <= last)  # type: ignore[attr-defined]
    return any(not arms(module, n, step) for n in asking)


def _asks(module: Module, node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        compared = isinstance(node.value, str) and any(isinstance(at, ast.Compare) for at in module.tree.above(node))
        return compared and bool(_ASKS.search(str(node.value)))
    if not isinstance(node, ast.Name | ast.Attribute | ast.keyword):
        return False
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and not node.value.value:
        return False  # error_if_nonfinite=False
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.arg or ""
    if not _ASKS.search(name):
        return False
    call = module.tree.parents.get(node)
    given = ast.unparse(call.args[0]) if isinstance(call, ast.Call) and call.func is node and call.args else ""
    return not (_LOSS.search(given) and not _GRADIENTS.search(given))


def _text_around(module: Module, node: ast.AST) -> str:
    """Return the source of the loop around a node, else of its function."""
    around = next(module.tree.loops(node), None) or module.tree.function(node)
    return module.text if around is None else module.text_of(around)


def updated_after_plain_steps(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the plain step, the `update` behind it) of branches in which no scaler steps, nor looks for inf itself."""
    for update in module.calls.get("update", ()):
        owner, around = receiver(update), enclosing(module, update)
        if update.args or owner is None or not is_scaler(module, owner) or _is_handed(module, owner, around):
            continue
        steps = [c for c in module.calls.get("step", ()) if enclosing(module, c) is around]
        if any("scaler" in ast.unparse(c).lower() for c in steps if not arms(module, c, update)):
            continue
        plain = [c for c in steps if is_optimizer(module, receiver(c)) and c.lineno <= update.lineno and not c.args]
        tests = list(tests_above(module, update))
        step = next((c for c in plain if list(tests_above(module, c)) == tests), None)
        if step is None or not _one_loop(module, step, update):
            continue
        unscales = [c for c in module.calls.get("unscale_", ()) if enclosing(module, c) is around]
        if not any(looked_through(module, step, c) for c in unscales if not arms(module, c, step)):
            yield step, update


def _one_loop(module: Module, step: ast.Call, update: ast.Call) -> bool:
    return next(module.tree.loops(step), None) is next(module.tree.loops(update), None)


def _is_handed(module: Module, owner: ast.expr, around: ast.AST) -> bool:
    """Whether a function hands the scaler to something, which may step with it."""
    place = key(owner)
    calls = (c for named in module.calls.values() for c in named)
    given = (a for c in calls if enclosing(module, c) is around for a in (*c.args, *(k.value for k in c.keywords)))
    return any(key(a) == place for a in given)
