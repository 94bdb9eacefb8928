"""Schedules that move in a hook that a trainer runs before the optimizer's step: their first value is never used.

That a hook comes first is told by its name (`on_batch_begin`, `before_train_iter`), or by the loop of another file
that calls it (`callbacks.on_sample(state)`) before it steps the optimizer.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, receiver, walk_scope
from ampguard.auditing.rules.amp._hooks import in_hook
from ampguard.auditing.rules.amp._schedules.known import moves
from ampguard.auditing.rules.amp._steps import tests_above

_UNIT = r"(train(ing)?_?)?(batch|step|iter|iteration|epoch|forward|backward|optimizer_step|optim_step|update)"
_BEGINS = regex(rf"_*((on|at)_)?{_UNIT}_?(start|begin)(ed|ing)?|_*(on_)?(before|pre)_{_UNIT}|begin_{_UNIT}")
_OTHERS = regex(r"val|test|eval|predict|infer", re.IGNORECASE)
_EVENT = regex(r"\b(ITERATION|EPOCH)_STARTED\b")
_OPTIMIZER = regex(r"optim", re.IGNORECASE)
_OF_OTHERS = regex(r"spars|compress|prun|quant|curricul|noise|tensorflow|keras", re.IGNORECASE)
"""What schedules are of that move no learning rate."""

_COUNTER = regex(r"_*(cur(rent)?_|global_|n_|num_)?(epoch|iter|iteration|step|it|batch)(_?(idx|num|count|id))?")


def schedules_moved_at_the_beginning(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the moves of a schedule in such hooks, each with the hook's name."""
    for move in moves(module) if module.role != "test" else ():
        function = module.tree.function(move)
        if function is None or next(module.tree.loops(move), None) is not None or _OTHERS.search(function.name):
            continue
        if _is_of_others(module, move):
            continue
        if _is_first(module, move, function) and not _held_back(module, move, function):
            yield move, function.name


def _is_of_others(module: Module, move: ast.Call) -> bool:
    """Whether a schedule is none of the learning rate, by its name, its class, its file or the folder of that."""
    cls = module.tree.class_of(move)
    near = "/".join(module.path.split("/")[-3:])
    return bool(_OF_OTHERS.search(f"{cls.name if cls is not None else ''} {ast.unparse(move)} {near}"))


def _is_first(module: Module, move: ast.Call, function: Function) -> bool:
    if any(_EVENT.search(ast.unparse(decorator)) for decorator in function.decorator_list):
        return True
    named = bool(_BEGINS.fullmatch(function.name))
    if not in_hook(module, move):
        return named and module.tree.class_of(move) is not None and module.mentions(("LightningModule",))
    return named or _is_called_before_steps(module, function.name)


def _held_back(module: Module, move: ast.Call, function: Function) -> bool:
    """Whether something may keep the first move from running, or the schedule is one of the project's own."""
    if target(module, move) is not None:
        return True
    if any(isinstance(n, ast.Return | ast.Raise) and n.lineno < move.lineno for n in walk_scope(function)):
        return True
    return any(_counts(test) for test, _ in tests_above(module, move))


def _counts(test: ast.expr) -> bool:
    """Whether a test asks for a number: of batches, of epochs, of what was done."""
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            words = any(isinstance(c, ast.Constant) and isinstance(c.value, str | None) for c in node.comparators)
            if not words and not isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn):
                return True
        elif isinstance(node, ast.BinOp) or (isinstance(node, ast.Name | ast.Attribute) and _is_counter(node)):
            return True
    return False


def _is_counter(node: ast.Name | ast.Attribute) -> bool:
    return bool(_COUNTER.fullmatch(node.id if isinstance(node, ast.Name) else node.attr))


def _is_called_before_steps(module: Module, name: str) -> bool:
    """Whether a file of the project calls a hook in a loop before anything in that loop steps an optimizer."""
    for path, text in module.project.texts(f".{name}("):
        other = module.project.module(path) if "test" not in path and ".step(" in text else None
        if other is not None and any(_comes_before_steps(other, call) for call in other.calls.get(name, ())):
            return True
    return False


def _comes_before_steps(module: Module, call: ast.Call) -> bool:
    loop = next(module.tree.loops(call), None)
    inside = [c for c in module.calls_of("step") if loop is not None and module.tree.inside(c, loop)]
    lines = [c.lineno for c in inside if _steps(module, c)]
    return bool(lines) and call.lineno < min(lines)


def _steps(module: Module, call: ast.Call) -> bool:
    owner = receiver(call)
    known = is_optimizer(module, owner) or is_scaler(module, owner)
    return owner is not None and (known or bool(_OPTIMIZER.search(ast.unparse(owner))))
