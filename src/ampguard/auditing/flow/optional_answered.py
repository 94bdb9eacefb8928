"""Uses of what a call answers that the same function takes to be None on another way.

`duration, pitch = self.model(x)`, then `duration.round()` where the model infers and `if duration is not None` where
it trains: whoever wrote the question knew that it may be None. Only plain questions count (`is None`), and only those
on the other side of a test that the use stands under, or behind it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_one_armed import leaves
from ampguard.auditing.flow.optional_plain import body_text, failing_uses, is_stub, may_need
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, is_none_literal, key, walk

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_ELSEWHERE = (*FUNCTIONS, ast.Lambda, ast.ExceptHandler, ast.Match, *_COMPREHENSIONS)
_Test = ast.If | ast.IfExp | ast.While
_TESTING = (ast.If, ast.IfExp, ast.While)
_GOES_ON = (ast.Continue, ast.Break)


def uses_of_what_is_asked_elsewhere(module: Module) -> Iterator[Use]:
    """Walk the first such use of each place in each function."""
    asked = module.once("questions for None", lambda: group(module, questions_for_none(module)))
    for function in module.functions:
        questions = asked.get(function, ())
        text = body_text(module, function) if questions and not is_stub(function) else ""
        for place in dict.fromkeys(key(q.left) or "" for q in questions):  # type: ignore[attr-defined]
            own = [q for q in questions if key(q.left) == place]  # type: ignore[attr-defined]
            name = place.partition(".")[0].partition("[")[0]
            bound = _bound(module, function, place, name) if may_need(name, text) else None
            if bound is None or any(q.lineno <= bound.lineno for q in own):  # type: ignore[attr-defined]
                continue
            use = _first_use(module, function, place, bound, own)
            if use is not None:
                yield Use(place, use, bound)


def questions_for_none(module: Module) -> list[ast.AST]:
    """Return the comparisons of a place with None, but for those of `self`, whose class is read instead."""
    compared: list[ast.Compare] = module.tree.all(ast.Compare) if "None" in module.text else []
    asking = (n for n in compared if isinstance(n.ops[0], ast.Is | ast.IsNot) and is_none_literal(n.comparators[0]))
    return [n for n in asking if (key(n.left) or "self.").partition(".")[0] != "self"]


def _bound(module: Module, function: Function, place: str, name: str) -> ast.AST | None:
    """Return the one line that binds a place, to what a call answers."""
    held = [n for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load)]
    if not held or any(arg.arg == name for arg, _ in parameters(function)):
        return None  # which parameters go together is the caller's to say
    statement = module.tree.statement(held[0])
    if len(held) > 1 or not isinstance(statement, ast.Assign) or module.tree.function(held[0]) is not function:
        return None
    if not _is_answer(module, statement.value) or (name != place and _is_stored(module, place)):
        return None
    return statement


def _is_stored(module: Module, place: str) -> bool:
    """Whether an attribute or item of that key is assigned anywhere in the file."""
    nodes: list[ast.Attribute | ast.Subscript] = module.tree.all(ast.Attribute, ast.Subscript)
    return any(not isinstance(n.ctx, ast.Load) and key(n) == place for n in nodes)


def _is_answer(module: Module, value: ast.expr) -> bool:
    """Whether a value is what a call answers, or a name that holds one; not an object that a class makes."""
    values = module.names.values(value.id, value) if isinstance(value, ast.Name) else []
    value = values[0] if len(values) == 1 else value
    return isinstance(value, ast.Call) and not called(value)[:1].isupper()


def _first_use(
    module: Module, function: Function, place: str, bound: ast.AST, questions: list[ast.AST]
) -> ast.AST | None:
    decided = all(_decides(module, question) for question in questions)  # or a flag is made: `has = x is not None`
    for use in failing_uses(module, function, place) if decided else ():
        line: int = use.lineno  # type: ignore[attr-defined]
        behind = line > bound.lineno and not _is_settled(function, place, line)  # type: ignore[attr-defined]
        if behind and _is_open(module, function, use, place, bound=bound, questions=questions):
            return use
    return None


def _decides(module: Module, question: ast.AST) -> bool:
    below = question
    for above in module.tree.above(question):
        if not isinstance(above, ast.BoolOp | ast.UnaryOp):
            return isinstance(above, ast.If | ast.IfExp | ast.While) and above.test is below
        below = above
    return False


def _is_settled(function: Function, place: str, line: int) -> bool:
    """Whether a statement before a line leaves where the place is None, asserts it, or hands it to a check."""
    for node in (n for statement in function.body for n in walk(statement)):
        if getattr(node, "lineno", line) >= line:
            continue
        if isinstance(node, ast.Assert) and _speaks_of(node.test, place):
            return True
        arms = (node.body, node.orelse) if isinstance(node, ast.If) and _speaks_of(node.test, place) else ()
        if any(arm and (leaves(arm[-1]) or isinstance(arm[-1], _GOES_ON)) for arm in arms):
            return True
    return False


def _speaks_of(node: ast.AST, place: str) -> bool:
    return any(key(n) == place for n in walk(node) if isinstance(n, ast.expr))


def _is_open(
    module: Module, function: Function, use: ast.AST, place: str, *, bound: ast.AST, questions: list[ast.AST]
) -> bool:
    """Whether a use stands on one side of a test whose other side asks about the place, and no question is above it."""
    if any(guarded.handlers for guarded in module.tree.handlers_around(use)):
        return False
    below, opposite = use, False
    for above in module.tree.above(use):
        if above is function:
            return opposite or _is_behind(module, function, use, place, questions)
        if isinstance(above, _ELSEWHERE):
            return False
        if isinstance(above, ast.BoolOp):
            if above.values[0] is not below:
                return False
        elif isinstance(above, _TESTING) and below is not above.test and not module.tree.inside(bound, above):
            if _speaks_of(above.test, place) or not _is_opposed(module, above, below, questions):
                return False
            opposite = True
        below = above
    return False


def _is_opposed(module: Module, above: _Test, below: ast.AST, questions: list[ast.AST]) -> bool:
    """Whether the place is asked about on the other side of a test, or behind it where the side of the use returns."""
    arms = [arm if isinstance(arm, list) else [arm] for arm in (above.body, getattr(above, "orelse", []))]
    others = [statement for arm in arms if below not in arm for statement in arm]
    if any(module.tree.inside(question, statement) for question in questions for statement in others):
        return True
    arm = above.body if isinstance(above, ast.If) and below in above.body else []
    returns = bool(arm) and isinstance(arm[-1], ast.Return)
    return returns and any(q.lineno > (above.end_lineno or 0) for q in questions)  # type: ignore[attr-defined]


def _is_behind(module: Module, function: Function, use: ast.AST, place: str, questions: list[ast.AST]) -> bool:
    """Whether a side of a test that asks about the place returns, before a use that runs where it did not."""
    sides = (s for s in function.body if isinstance(s, ast.If) and isinstance(s.body[-1], ast.Return))
    before = [s for s in sides if s.lineno < use.lineno and not _speaks_of(s.test, place)]  # type: ignore[attr-defined]
    return any(module.tree.inside(q, s) and not module.tree.inside(use, s) for q in questions for s in before)
