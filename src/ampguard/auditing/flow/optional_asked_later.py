"""Uses of what the same function asks about further down: by then it is too late.

`if labels and config["sampler"]["name"] in KNOWN`, and three lines on `make(config["sampler"]) if config["sampler"] is
not None else None`: whoever wrote the question knew that it may be None. Told only where each way that reads the
object goes on to the question, and nothing gives it a value in between.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_answered import questions_for_none
from ampguard.auditing.flow.optional_has_attribute import is_none_by_default, option
from ampguard.auditing.flow.optional_plain import asks_about, failing_uses, is_stub, may_need
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, key, walk_scope

_TESTING = (ast.If, ast.IfExp, ast.While)
_MADE = (ast.List, ast.Dict, ast.Set, ast.Tuple, ast.ListComp, ast.DictComp, ast.SetComp, ast.JoinedStr)
_APART = (ast.Lambda, ast.comprehension, ast.ExceptHandler, ast.Match, ast.Try)


def uses_of_what_is_asked_later(module: Module) -> Iterator[Use]:
    """Walk the first such use of each place in each function."""
    asked = module.once("questions for None", lambda: group(module, questions_for_none(module)))
    for function in module.functions:
        questions: list[ast.Compare] = [q for q in asked.get(function, ()) if isinstance(q, ast.Compare)]
        questions = [] if is_stub(function) else questions
        for place in dict.fromkeys(key(q.left) or "" for q in questions):
            own = [q for q in questions if key(q.left) == place]
            before = "\n".join(module.lines[function.lineno : min(q.lineno for q in own)])
            name = place.partition(".")[0].partition("[")[0]
            if not may_need(place, before.replace('"', "'")):
                continue
            own = [q for q in own if _decides(module, q)]
            if own:
                use = _use_before(module, function, place, min(own, key=lambda q: q.lineno))
                if use is not None and not (_is_given(module, function, place, name, use) or _is_set(module, place)):
                    yield Use(place, use, own[0])


def _decides(module: Module, question: ast.AST) -> bool:
    """Whether a question is a test of its own, and not one that is asserted or kept."""
    below = question
    for above in module.tree.above(question):
        if not isinstance(above, ast.BoolOp | ast.UnaryOp):
            return isinstance(above, _TESTING) and above.test is below
        below = above
    return False


def _use_before(module: Module, function: Function, place: str, question: ast.Compare) -> ast.AST | None:
    """Return the first use that stands above a question, in its block or in one around it, and under no doubt."""
    for use in failing_uses(module, function, place):
        line: int = use.lineno  # type: ignore[attr-defined]
        if line < question.lineno and _leads_to(module, use, place, question):
            return None if _is_doubted_before(function, place, line) else use
    return None


def _leads_to(module: Module, use: ast.AST, place: str, question: ast.AST) -> bool:
    below = use
    for above in module.tree.above(use):
        if isinstance(above, ast.If) and below is above.test and _is_inside_any(module, question, above.orelse):
            return True  # `if x.kind == "a"`, and `elif x is None` behind it
        if isinstance(below, ast.stmt) and module.tree.inside(question, above):
            return any(module.tree.inside(question, later) for later in module.tree.behind(below))
        if isinstance(above, (*FUNCTIONS, *_APART)) or (
            isinstance(below, ast.stmt) and not isinstance(above, ast.With)
        ):
            return False
        if isinstance(above, ast.BoolOp) and _speaks_of(above.values[: above.values.index(below)], place):  # type: ignore[arg-type]
            return False
        if isinstance(above, ast.IfExp) and below is not above.test:
            return False
        below = above
    return False


def _is_inside_any(module: Module, node: ast.AST, statements: list[ast.stmt]) -> bool:
    return any(module.tree.inside(node, statement) for statement in statements)


def _is_set(module: Module, place: str) -> bool:
    """Whether a place is an option that the file's own parser, or one of another file, may never leave None."""
    owner, _, name = place.rpartition(".")
    if owner not in ("args", "opt", "opts", "flags", "FLAGS"):
        return False
    declared = option(module, name)
    return declared is None or not is_none_by_default(declared)


def _is_made(module: Module, held: ast.Name) -> bool:
    """Whether a name is given a list or the like, and not what may be None."""
    statement = module.tree.statement(held)
    return isinstance(statement, ast.Assign) and isinstance(statement.value, _MADE)


def _speaks_of(parts: list[ast.expr], place: str) -> bool:
    words = set(place.replace("]", "").replace("[", ".").replace("'", "").split(".")[-1].split("_"))
    return any(word in ast.unparse(part).lower() for part in parts for word in words if word)


def _is_doubted_before(function: Function, place: str, line: int) -> bool:
    """Whether any test at or above a line already mentions the place itself."""
    for node in walk_scope(function):
        if getattr(node, "lineno", line + 1) > line:
            continue
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert) and asks_about(node.test, place):
            return True
        if isinstance(node, ast.BoolOp) and any(asks_about(value, place) for value in node.values):
            return True
    return False


def _is_given(module: Module, function: Function, place: str, name: str, use: ast.AST) -> bool:
    """Whether the place, or what holds it, gets a value behind the use; or a handler sees to the use."""
    if any(True for _ in module.tree.handlers_around(use)):
        return True
    line = module.tree.statement(use).lineno
    stores = [held for held in module.tree.named(name, function) if not isinstance(held.ctx, ast.Load)]
    if any(held.lineno >= line or _is_made(module, held) for held in stores):
        return True
    stored = (n for n in walk_scope(function) if isinstance(n, ast.Attribute | ast.Subscript))
    return name != place and any(not isinstance(n.ctx, ast.Load) and key(n) == place for n in stored)
