"""Whole-number quotients, fractions of lengths and differences, which are zero where the numbers are small or equal."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.counters import grown_in
from ampguard.auditing.reading.guards import spelled, spelling
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk, walk_scope
from ampguard.auditing.reading.zeros import Zero, is_nothing, is_zeros

_DEPTH = 4
_FEW = 5
"""Halves and quarters of a setting are shapes rather than counts."""


def floored(module: Module, node: ast.BinOp) -> Zero | None:
    """`len(xs) // 10`: 0 for fewer than ten. `batch // micro_batch`: 0 where the second is the greater."""
    if is_one(node.right):
        return None
    what = module.segment(node)
    why = f"is `{what}`, 0 where {module.segment(node.left)} is less than {module.segment(node.right)}"
    if is_length(module, node.left):
        return Zero("floored" if isinstance(node.right, ast.Constant) else "chosen", why, node.lineno)
    few = isinstance(node.right, ast.Constant) and isinstance(node.right.value, int) and node.right.value < _FEW
    if few or isinstance(node.left, ast.Constant) or not _is_setting(node.right) or compares(module, node):
        return None
    return Zero("quotient", why, node.lineno) if _is_setting(node.left) else None


def difference(module: Module, node: ast.BinOp) -> Zero | None:
    """`n - 1`, `len(xs) - 1`: 0 for one. `step - start` in a loop from `start` on: 0 on the first pass."""
    if is_one(node.right) and (is_length(module, node.left) or key(node.left) is not None):
        if _is_compared_at_all(module, node):
            return None
        what = module.segment(node.left, 40)
        return Zero("single", f"is 0 where `{what}` is 1", node.lineno, frozenset({spelling(node)}))
    return _since_start(module, node)


def _since_start(module: Module, node: ast.BinOp) -> Zero | None:
    for loop in module.tree.loops(node):
        over = loop.iter if isinstance(loop, ast.For | ast.AsyncFor) else None
        if not isinstance(over, ast.Call) or called(over) not in ("range", "trange") or len(over.args) < 2:
            continue
        same_index = isinstance(loop, ast.For) and key(loop.target) == key(node.left) is not None
        if same_index and spelling(over.args[0]) == spelling(node.right):
            return Zero("index", f"is 0 on the first pass of the loop at line {loop.lineno}", loop.lineno)
    return None


def _is_compared_at_all(module: Module, node: ast.BinOp) -> bool:
    """Whether some test of the function asks about the number at all."""
    return any(spelling(node.left) in names for names in _tests_of(module, node))


def part_of_length(module: Module, node: ast.expr) -> Zero | None:
    """`int(len(xs) * 0.1)`, `int(len(xs) / 10)`: 0 for few items; `node` is what is made whole."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Div):
        return None
    length, other = node.left, node.right
    if isinstance(node.op, ast.Mult) and not is_length(module, length):
        length, other = other, length
    value = other.value if isinstance(other, ast.Constant) and isinstance(other.value, int | float) else None
    if not is_length(module, length):
        return _small_part(module, node)
    if value is not None and (value >= 1 if isinstance(node.op, ast.Mult) else value <= 1):
        return None
    why = f"is `{module.segment(node)}` cut to a whole number, 0 where `{module.segment(length)}` is small"
    return Zero("floored" if value is not None else "chosen", why, node.lineno)


def _small_part(module: Module, node: ast.BinOp) -> Zero | None:
    """`int(steps * 0.05)` of a number that is set elsewhere."""
    sides = (node.left, node.right)
    part = next((s.value for s in sides if isinstance(s, ast.Constant) and isinstance(s.value, float)), 1.0)
    whole = next((s for s in sides if key(s) is not None), None)
    if not isinstance(node.op, ast.Mult) or whole is None or part * _FEW >= 1:
        return None
    why = f"is `{module.segment(node)}` cut to a whole number, 0 where `{module.segment(whole)}` is small"
    return Zero("quotient", why, node.lineno)


def is_length(module: Module, node: ast.expr, *, depth: int = 0) -> bool:
    """Whether an expression is a length: `len(xs)`, or a name or `self.x` that is nothing else."""
    if isinstance(node, ast.Call):
        return called(node) == "len" and isinstance(node.func, ast.Name)
    if isinstance(node, ast.Name | ast.Attribute) and depth < _DEPTH:
        values = assigned(module, node)
        return bool(values) and all(v is not node and is_length(module, v, depth=depth + 1) for v in values)
    return False


def is_one(node: ast.expr) -> bool:
    """Whether the expression is the literal 1."""
    return isinstance(node, ast.Constant) and node.value == 1


def _is_setting(node: ast.expr) -> bool:
    """Whether an expression is made of plain names, attributes and products of them: what a user may set."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Mult | ast.FloorDiv) and _is_setting(node.left) and _is_setting(node.right)
    if isinstance(node, ast.Call):
        return called(node) == "get_world_size" or (called(node) in ("int", "len") and len(node.args) == 1)
    return isinstance(node, ast.Constant) or key(node) is not None


def compares(module: Module, node: ast.BinOp) -> bool:
    """Whether some test of the function compares the two, or divides one by the other: `a % b == 0`, `a >= b`."""
    asked = {spelling(node.left)} | (set() if isinstance(node.right, ast.Constant) else {spelling(node.right)})
    return any(asked <= names for names in _tests_of(module, node))


def _tests_of(module: Module, node: ast.AST) -> list[set[str]]:
    scope = module.tree.scope(node)
    return module.once(("tests of", scope), lambda: _tests(scope))


def _tests(scope: ast.AST) -> list[set[str]]:
    """Return, for each comparison in a test, the spellings of what it compares; of `a % b` those of both."""
    tests = [n.test for n in walk_scope(scope) if isinstance(n, ast.If | ast.Assert | ast.IfExp | ast.While)]
    compared = [n for test in tests for n in walk(test) if isinstance(n, ast.Compare)]
    return [set().union(*(_spelled_sides(side) for side in (c.left, *c.comparators))) for c in compared]


def _spelled_sides(node: ast.expr) -> set[str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return spelled(node.left) | spelled(node.right)
    return spelled(node)


def share(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`hits / (hits + misses)`, `2 * p * r / (p + r)`: zero where every part of the sum is."""
    parts = _terms(right)
    if len(parts) < 2 or any(number(module, p, defaults=True) for p in parts):
        return None
    if any(grown_in(module, module.tree.scope(p), spelling(p)) for p in parts):
        return None  # counters, of which more is known: every item may count in one or the other
    spelt = [spelling(p) for p in parts]
    within = {spelling(p) for p in walk(left) if isinstance(p, ast.Name | ast.Attribute | ast.Subscript)}
    if spelt[0] not in within and spelt[-1] not in within:
        return None
    why = f"is 0 where {' and '.join(f'`{module.segment(p, 30)}`' for p in parts)} are"
    return Zero("ratio", why, right.lineno, frozenset(spelt) | {spelling(right)})


def _terms(node: ast.expr) -> list[ast.expr]:
    while isinstance(node, ast.Call) and called(node) == "float" and len(node.args) == 1:
        node = node.args[0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_terms(node.left), *_terms(node.right)]
    return [node]


def positives(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`loss.sum() / targets_sum` in a loss: 0 where the batch has no target; only by names, so only where all agree."""
    place = key(right) or ""
    if not _POSITIVES.search(place.rpartition(".")[2]) or not isinstance(left, ast.Call) or called(left) != "sum":
        return None
    around = [n.name for n in module.tree.above(right) if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
    if not any(_LOSS.search(name) for name in around):
        return None
    if any(_RAISED.search(ast.unparse(value)) for value in assigned(module, right)):
        return None
    function = module.tree.function(right)
    text = ast.unparse(function) if function is not None else ""
    if re.search(
        rf"(max|clamp|clip|where)\w*\([^\n]*\b{re.escape(place)}\b|\b{re.escape(place)}( [<>=!]=? |\.(clamp|clip))",
        text,
    ):
        return None
    return Zero("positives", "is 0 for a batch without a target", right.lineno, frozenset({spelling(right)}))


_POSITIVES = regex(
    r"^(num|n|total)_?(pos(itives?)?|fg|foreground|boxes|objects?|objs?|gts?|targets?|matched|valid)$"
    r"|(target|pos|fg|gt|score|valid)s?_(scores?_)?(sum|num|count)$"
)
_LOSS = regex(r"loss|criterion", re.IGNORECASE)
_RAISED = regex(r"max\(|clamp|clip|where\(|eps|1e-|\+ 1\b|reduce_mean|len\(")


def elapsed(module: Module, right: ast.expr) -> Zero | None:
    """`n / timer.elapsed["batch"]`: what an object of another file measured, known by its name alone."""
    if not isinstance(right, ast.Subscript | ast.Attribute) or assigned(module, right):
        return None
    if not _ELAPSED.search(key(right) or ""):
        return None
    return Zero("time", "is a span of time, as its name says", right.lineno, frozenset({spelling(right)}))


def loss_scale(module: Module, right: ast.expr) -> Zero | None:
    """`1 / scaler.get_scale()`: torch's scaler halves the scale at each overflow and knows no least one."""
    values = [right, *assigned(module, right)]
    readings = (v for v in values if isinstance(v, ast.Call) and called(v) == "get_scale")
    reading = next((v for v in readings if is_scaler(module, receiver(v))), None)
    if reading is None:
        return None
    why = "is the loss scale, which overflow after overflow halves down to 0"
    return Zero("scale", why, reading.lineno, frozenset({spelling(right)}))


def per_item(left: ast.expr, right: ast.expr) -> Zero | None:
    """`total_time / len(loader)`: the time of a pass through something that may hold nothing."""
    timed = _TIMES.search(key(left) or "") is not None
    over = right.args[0] if isinstance(right, ast.Call) and called(right) == "len" and right.args else None
    if not timed or key(over) is None:
        return None
    return Zero(
        "empty", "counts what was gone through, which may be nothing", right.lineno, frozenset({spelling(right)})
    )


_TIMES = regex(r"(^|[._])(\w*_)?(time|elapsed|duration|seconds|secs)(_\w*)?$", re.IGNORECASE)
_ELAPSED = regex(r"\.(elapsed|elapsed_time|elapsed_(s|sec|secs|seconds|ms))(\['[\w/.]+'\])?$")


def default_zero(module: Module, node: ast.expr) -> Zero | None:
    """A parameter, or an option of the command line, whose default is 0 and that is not set here."""
    if isinstance(node, ast.Attribute):
        line = module.once("options of zero", lambda: _options_of_zero(module)).get(node.attr)
        plain = isinstance(node.value, ast.Name) and node.value.id != "self"
        return Zero("option", f"is 0 by default (line {line})", line) if line is not None and plain else None
    function = module.tree.function(node)
    if not isinstance(node, ast.Name) or function is None or module.names.values(node.id, node):
        return None
    for parameter, default in parameters(function):
        if parameter.arg == node.id and is_nothing(default):
            return Zero("option", f"is 0 by default (line {parameter.lineno})", parameter.lineno)
    return None


def _options_of_zero(module: Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for call in module.calls_of("add_argument"):
        flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        given = {k.arg: k.value for k in call.keywords}
        named = given.get("dest")
        name = next((f for f in flags if f.startswith("--")), None) if named is None else getattr(named, "value", None)
        if isinstance(name, str) and is_nothing(given.get("default")):
            found[name.lstrip("-").replace("-", "_")] = call.lineno
    return found


def element(module: Module, node: ast.Subscript) -> Zero | None:
    """`total[c]` of a list or dictionary that starts with zeros and is counted at some index: none for that index."""
    base = key(node.value)
    if base is None or _is_fixed(node.slice):
        return None
    filled = [v for v in assigned(module, node.value) if is_zeros(v)]
    if not filled:
        return None
    scope, grown = module.tree.scope(node), []
    for change in module.tree.all(ast.AugAssign):
        if not isinstance(change.target, ast.Subscript) or key(change.target.value) != base:
            continue
        if base.startswith("self.") or module.tree.scope(change) is scope:
            grown.append(change)
    if not grown or any(_every(module, change) for change in grown):
        return None
    why = f"starts at 0 (line {filled[0].lineno}) and is counted only for what occurs (line {grown[0].lineno})"
    return Zero("counted", why, grown[0].lineno, frozenset({spelling(node)}))


def _is_fixed(node: ast.expr) -> bool:
    """Whether an index is a literal or a slice: then it is no place chosen at run time."""
    return isinstance(node, ast.Constant | ast.Slice | ast.Tuple)


def _every(module: Module, change: ast.AugAssign) -> bool:
    """Whether a change goes through every index in turn: `for i in range(n): total[i] += x`."""
    index = change.target.slice if isinstance(change.target, ast.Subscript) else None
    names = {key(n) for n in walk(index)} - {None} if index is not None else set()
    for loop in module.tree.loops(change):
        if isinstance(loop, ast.For | ast.AsyncFor) and names & {key(n) for n in walk(loop.target)}:
            return isinstance(loop.iter, ast.Call) and called(loop.iter) in ("range", "enumerate", "items", "keys")
    return False
