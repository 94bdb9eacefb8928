"""Which optimizer takes a model's parameters, directly or through lists and filters, and when a dtype is float16."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_optimizer
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.rules.amp._precision.cast_models import made_again, stands_for
from ampguard.auditing.rules.amp._steps import arms, enclosing, tests_above

_GATHERS = frozenset({"append", "extend", "add"})


def optimizer_of(module: Module, place: str, cast: ast.Call) -> ast.Call | None:
    """Return the construction that takes the parameters of the model that a cast is of, or None.

    A module is cast in place, so the optimizer may be older than the cast; then a backward pass must follow the cast.
    """
    for call in module.calls_of("parameters", "named_parameters"):
        if not stands_for(module, receiver(call), place, cast) or not _together(module, place, call, cast):
            continue
        for optimizer in _optimizers_taking(module, call):
            if arms(module, optimizer, cast) or made_again(module, place, cast, optimizer):
                continue
            if optimizer.lineno < cast.lineno and (place.startswith("self.") or not _trains_after(module, cast)):
                continue
            if not _only_what_was_added(module, place, optimizer, call):
                return optimizer
    return None


def _together(module: Module, place: str, call: ast.Call, cast: ast.Call) -> bool:
    """Whether the parameters are taken where the cast is: in the same function, for `self.model` the same class."""
    if enclosing(module, call) is enclosing(module, cast):
        return True
    own = module.tree.class_of(cast)
    if not place.startswith("self.") or own is None or module.tree.class_of(call) is not own:
        return False
    return getattr(enclosing(module, cast), "name", "") == "__init__"


def _optimizers_taking(module: Module, call: ast.Call) -> Iterator[ast.Call]:
    """Walk the constructions that are handed what a call gives, or a name that it was gathered under."""
    below: ast.AST = call
    for at in module.tree.above(call):
        if isinstance(at, ast.Call) and _makes_optimizer(module, at):
            yield at
            return
        if isinstance(at, ast.stmt):
            names = set(_gathered(at, below))
            break
        below = at
    else:
        return
    around = enclosing(module, call)
    for calls in module.calls.values() if names else ():
        for other in calls:
            if other.lineno <= call.lineno or enclosing(module, other) is not around:
                continue
            given = [*other.args, *(k.value for k in other.keywords if k.arg == "params")]
            if any(key(at) in names for a in given for at in walk(a)) and _makes_optimizer(module, other):
                yield other


def _gathered(statement: ast.stmt, part: ast.AST) -> Iterator[str]:
    """Walk the keys that a statement gathers parameters under: what it assigns, what its loop appends to."""
    if isinstance(statement, ast.Assign):
        yield from (k for t in statement.targets if (k := key(t)))
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign) and (place := key(statement.target)):
        yield place
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        if called(statement.value) in _GATHERS and (place := key(receiver(statement.value))):
            yield place
    elif isinstance(statement, ast.For) and part is statement.iter:
        taken = {n.id for n in walk(statement.target) if isinstance(n, ast.Name)}
        for node in walk(statement):
            if not isinstance(node, ast.Call) or called(node) not in _GATHERS:
                continue
            given = {at.id for a in node.args for at in walk(a) if isinstance(at, ast.Name)}
            if given & taken and (place := key(receiver(node))):
                yield place


def _only_what_was_added(module: Module, place: str, optimizer: ast.Call, call: ast.Call) -> bool:
    """Whether the model is frozen and only what still asks for gradients is trained, as added layers do."""
    around = enclosing(module, call)
    frozen = [
        c
        for c in module.calls.get("requires_grad_", ())
        if c.args
        and isinstance(c.args[0], ast.Constant)
        and c.args[0].value is False
        and stands_for(module, receiver(c), place, call)
    ]
    if not any(enclosing(module, c) is around for c in frozen):
        return False
    wakes = [n for n in module.tree.all(ast.Assign) if isinstance(n.value, ast.Constant) and n.value.value is True]
    return not any(
        isinstance(t, ast.Attribute) and t.attr == "requires_grad" and n.lineno < optimizer.lineno
        for n in wakes
        for t in n.targets
        if enclosing(module, n) is around
    )


def _trains_after(module: Module, cast: ast.Call) -> bool:
    """Whether the function of a cast trains in a loop behind it."""
    around = enclosing(module, cast)
    return any(
        c.lineno > cast.lineno and enclosing(module, c) is around and any(True for _ in module.tree.loops(c))
        for c in module.calls.get("backward", ())
    )


def _makes_optimizer(module: Module, call: ast.Call) -> bool:
    if any(name.startswith("torch.optim.") for name in module.names.dotted(call.func)):
        return True
    statement = module.tree.statement(call)
    return isinstance(statement, ast.Assign) and call is statement.value and is_optimizer(module, statement.targets[0])


def half_where(module: Module, node: ast.expr) -> Iterator[ast.expr]:
    """Walk the tests under which an expression is float16, where it is another dtype else."""
    if isinstance(node, ast.IfExp):
        if dtypes_of(module, node.body) == {"float16"}:
            yield node.test
        elif isinstance(node.orelse, ast.IfExp):
            yield from half_where(module, node.orelse)
        elif dtypes_of(module, node.orelse) == {"float16"}:
            yield _opposite(node.test)
        return
    found = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    for binding in found[1] if found is not None else ():
        value = binding.value if binding.kind == "assign" else None
        if isinstance(value, ast.IfExp):
            yield from half_where(module, value)
        elif isinstance(value, ast.Attribute) and dtypes_of(module, value) == {"float16"}:
            above = list(tests_above(module, value))[:1]
            yield from (test if inside else _opposite(test) for test, inside in above)


def _opposite(test: ast.expr) -> ast.expr:
    """Return the test that holds where this one does not."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def asks_for_fp16(test: ast.expr) -> str | None:
    """Return what a test compares with "fp16", as it is spelled: `args.mixed_precision`; None where it asks else."""
    for node in walk(test):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) and len(node.comparators) == 1:
            word = node.comparators[0]
            if isinstance(word, ast.Constant) and re.fullmatch(r"fp16|float16|16|16-mixed", str(word.value)):
                return ast.unparse(node.left)
    return None
