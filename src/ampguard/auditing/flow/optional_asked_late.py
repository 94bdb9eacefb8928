"""Uses of settings and items that the same function asks about further down: the question comes too late.

`config["sampler"]["name"]` first, `if config["sampler"] is not None` eight lines below.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import needed_by
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk

_SETTINGS = regex(r"^(self\.)?(args?|opts?|options?|cfg|conf|configs?|hparams|params|settings?|hps?|flags?)\b", flags=2)
_ASKED = regex(r"[\w\]]+ is (?:not )?none")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def uses_asked_late(module: Module) -> Iterator[Use]:
    """Walk the first use of each such place in each function."""
    lines = module.about("is none", "is not none")
    if not any(word in lines for word in ("cfg", "conf", "args.", "opt", "params", "[", "setting", "flags")):
        return
    questions: dict[tuple[Function, str], list[ast.Compare]] = {}
    for test in module.tree.all(ast.Compare):
        place = _place(test)
        function = module.tree.function(test) if place is not None else None
        if function is not None and place is not None:
            questions.setdefault((function, place), []).append(test)
    for (function, place), asked in questions.items():
        first = min(asked, key=lambda test: test.lineno)
        use = _use_before(module, function, place, first)
        if use is not None:
            yield Use(place, use, first)


def _place(test: ast.Compare) -> str | None:
    """Return the setting or item that a comparison asks about."""
    if not isinstance(test.ops[0], ast.Is | ast.IsNot) or not is_none_literal(test.comparators[0]):
        return None
    if not isinstance(test.left, ast.Attribute | ast.Subscript):
        return None
    place = key(test.left)
    item = isinstance(test.left, ast.Subscript) and place is not None and place.endswith("']")
    return place if place is not None and (item or _SETTINGS.search(place)) else None


def _use_before(module: Module, function: Function, place: str, question: ast.Compare) -> ast.AST | None:
    """Return the first use before a question, that must run where the question runs, and that nothing guards."""
    word = _last(place)
    held = (n for n in module.tree.named(_root(place), function) if n.lineno <= question.lineno)
    for name in held:
        node = _spelled(module, name, place)
        if node is None or not isinstance(node.ctx, ast.Load):
            continue
        above = module.tree.parents[node]
        if node not in needed_by(above) or module.tree.inside(node, module.tree.statement(question)):
            continue
        if node.lineno >= question.lineno or module.tree.function(node) is not function:
            continue
        if _is_open(module, function, node, question, word) and not _is_given(module, function, place, node, question):
            return above
    return None


def _spelled(module: Module, name: ast.Name, place: str) -> ast.Attribute | ast.Subscript | None:
    """Return the expression of a place that begins with a name, None where it is another."""
    at: ast.AST = name
    while (spelled := key(at)) is not None and len(spelled) < len(place):
        at = module.tree.parents[at]
    return at if isinstance(at, ast.Attribute | ast.Subscript) and key(at) == place else None


def _root(place: str) -> str:
    return place.partition(".")[0].partition("[")[0]


def _last(place: str) -> str:
    return place.rpartition(".")[2].rpartition("[")[2].strip("]'\"")


def _is_open(module: Module, function: Function, use: ast.AST, question: ast.AST, word: str) -> bool:
    """Whether no test above a use speaks of the place, no handler catches, and the question is on no other side."""
    if any(guarded.handlers for guarded in module.tree.handlers_around(use)):
        return False
    below = use
    for above in module.tree.above(use):
        if above is function:
            return not _is_asked_before(function, use, word)
        if isinstance(above, (*FUNCTIONS, ast.Lambda, ast.Match)):
            return False
        tests: list[ast.expr] = []
        if isinstance(above, ast.If | ast.IfExp | ast.While) and below is not above.test:
            arm = above.body if isinstance(above.body, list) and below in above.body else getattr(above, "orelse", [])
            if not isinstance(arm, list) or not any(module.tree.inside(question, s) for s in arm):
                return False  # what two sides have in common is not known
            tests = [above.test]
        elif isinstance(above, ast.BoolOp):
            tests = above.values[: above.values.index(below)]  # type: ignore[arg-type]
        elif isinstance(above, _COMPREHENSIONS):
            tests = [test for g in above.generators for test in g.ifs]
        if any(word in ast.unparse(test) for test in tests):
            return False
        below = above
    return False


def _is_asked_before(function: Function, use: ast.AST, word: str) -> bool:
    line: int = use.lineno  # type: ignore[attr-defined]
    tests = (n.test for n in walk(function) if isinstance(n, ast.If | ast.Assert | ast.IfExp) and n.lineno < line)
    return any(word in ast.unparse(test) for test in tests)


def _is_given(module: Module, function: Function, place: str, use: ast.AST, question: ast.AST) -> bool:
    """Whether a place, or what it is read from, gets a value between its use and the question."""
    first, last = use.lineno, question.lineno  # type: ignore[attr-defined]
    for name in module.tree.named(_root(place), function):
        if not first <= name.lineno <= last:
            continue
        at: ast.AST = name
        while isinstance(at, ast.Name | ast.Attribute | ast.Subscript):
            if not isinstance(at.ctx, ast.Load) and place.startswith(key(at) or place):
                return True
            at = module.tree.parents[at]
    return False
