"""Whether an expression is a plain Python number: dividing one by zero raises, dividing a tensor gives inf or NaN."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.measures import allocator, clock, span
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.reaching import Definition, reaching
from ampguard.auditing.reading.tree import called, key, receiver, walk, walk_scope
from ampguard.auditing.reading.zeros import is_zeros

_DEPTH = 6
_NUMBERS = frozenset(
    {"len", "int", "float", "round", "item", "count", "total_seconds", "numel", "size", "elapsed_time"}
) | {
    "perf_counter",
    "getsize",
    "get_world_size",
    "nelement",
}
_VIEWS = frozenset({"values", "keys", "items", "range", "map", "filter", "zip"})
_ARRAYS = frozenset({"torch", "numpy", "np", "jax", "tf", "tensorflow", "cupy", "pandas"})
_ARRAY_METHODS = frozenset(
    {"sum", "mean", "std", "var", "detach", "cpu", "cuda", "float", "half", "double", "to", "clone", "view", "reshape"}
    | {"squeeze", "unsqueeze", "norm", "exp", "log", "sqrt", "argmax", "clamp", "numpy", "permute", "backward"}
)


def is_number(module: Module, node: ast.expr, *, depth: int = 0) -> bool | None:
    """Whether the expression is a number of plain Python; None where that cannot be told."""
    if depth > _DEPTH:
        return None
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.UnaryOp):
        return is_number(module, node.operand, depth=depth + 1)
    if isinstance(node, ast.BinOp):
        return _both(
            is_number(module, node.left, depth=depth + 1), is_number(module, node.right, depth=depth + 1), node
        )
    if isinstance(node, ast.IfExp):
        return _both(is_number(module, node.body, depth=depth + 1), is_number(module, node.orelse, depth=depth + 1))
    if isinstance(node, ast.Call):
        return _called(module, node, depth)
    if isinstance(node, ast.Compare):
        return True if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn | ast.Is | ast.IsNot) else None
    place = key(node)
    if place is None and isinstance(node, ast.Subscript):
        return True if any(is_zeros(v) for v in assigned(module, node.value)) else None
    return _kept(module, place, node, depth) if place is not None else None


def _both(left: bool | None, right: bool | None, node: ast.BinOp | None = None) -> bool | None:
    """A result is a number where both sides are, and none where one side is an array."""
    if left is False or right is False:
        return False
    del node
    return True if left and right else None


def _called(module: Module, node: ast.Call, depth: int) -> bool | None:
    name = called(node)
    if clock(module, node) or span(module, node) or allocator(module, node):
        return True
    dotted = module.names.dotted(node.func)
    if any(d.split(".")[0] in _ARRAYS for d in dotted):
        return False
    if name in ("int", "float", "round") and receiver(node) is not None:
        return False  # `x.float()` of a tensor
    if name in _NUMBERS:
        return True
    if receiver(node) is None and name in ("sum", "max", "min", "abs") and node.args:
        return _reduced(module, name, node, depth)
    return False if receiver(node) is not None and name in _ARRAY_METHODS else None


def _reduced(module: Module, name: str, node: ast.Call, depth: int) -> bool | None:
    """`sum(x.item() for x in xs)`, `max(a, b)`; `sum(xs)` of unknown items is 0 where there are none."""
    summed = node.args[0]
    if name == "sum" and len(node.args) == 1 and (not isinstance(summed, ast.Call) or called(summed) in _VIEWS):
        return True  # the sum of nothing is the number 0: the case in question
    parts = [is_number(module, a, depth=depth + 1) for a in node.args]
    return False if False in parts else (True if all(parts) else None)


def _kept(module: Module, place: str, node: ast.expr, depth: int) -> bool | None:
    definitions = reaching(module, (place,), node)
    if len(definitions) == 1 and definitions[0].kind == "start":
        return _from_outside(module, place, node, depth)
    if any(_starts_as_number(d) for d in definitions):
        return True  # on the way on which nothing was added it is still the literal number
    found = [_defined(module, place, d, depth) for d in definitions]
    return False if False in found else (True if found and all(found) else None)


def _from_outside(module: Module, place: str, node: ast.expr, depth: int) -> bool | None:
    """A parameter by its annotation or its default, `self.x` by what its class assigns to it."""
    function = module.tree.function(node)
    if isinstance(node, ast.Name) and function is not None:
        marked, default = next(((a.annotation, d) for a, d in parameters(function) if a.arg == place), (None, None))
        if marked is None and default is not None:
            return True if _is_literal(default) else None
        kind = (key(marked) or "").rpartition(".")[2] if marked is not None else ""
        return True if kind in ("int", "float") else False if kind in ("Tensor", "ndarray") else None
    values = assigned(module, node) if place.startswith("self.") else []
    found = [is_number(module, v, depth=depth + 2) for v in values]
    return False if False in found else (True if found and all(found) else None)


def _starts_as_number(definition: Definition) -> bool:
    return definition.kind == "assign" and _is_literal(definition.value)


def _is_literal(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float)


def _defined(module: Module, place: str, definition: Definition, depth: int) -> bool | None:
    value = definition.value
    if definition.kind == "loop" and isinstance(value, ast.Call) and called(value) in ("range", "trange"):
        return True  # of a comprehension too
    if definition.kind == "loop" and isinstance(definition.node, ast.For):
        return True if is_index(definition.node, place) else None
    if value is None or definition.kind not in ("assign", "add", "change"):
        return None
    return is_number(module, value, depth=depth + 1)


def feeds_math(module: Module, node: ast.AST) -> bool:
    """Whether a result goes into a function of `math`, at once or by its name: then it is a plain number."""
    if "math." not in module.text:
        return False
    statement = module.tree.statement(node)
    if any(isinstance(at, ast.Call) and _is_math(module, at) for at in module.tree.above(node)):
        return True
    place = key(statement.targets[0]) if isinstance(statement, ast.Assign) else None
    if place is None:
        return False
    calls = (n for n in walk_scope(module.tree.scope(node)) if isinstance(n, ast.Call) and _is_math(module, n))
    return any(key(part) == place for call in calls for a in call.args for part in walk(a))


def _is_math(module: Module, call: ast.Call) -> bool:
    return key(receiver(call)) == "math" and any(n.startswith("math.") for n in module.names.dotted(call.func))


def is_index(loop: ast.For | ast.AsyncFor, place: str) -> bool:
    """Whether the place is the index that a loop over `range(...)` or `enumerate(...)` counts."""
    over, index = loop.iter, loop.target
    if not isinstance(over, ast.Call):
        return False
    if called(over) == "enumerate" and isinstance(index, ast.Tuple):
        return key(index.elts[0]) == place
    return called(over) in ("range", "trange") and key(index) == place
