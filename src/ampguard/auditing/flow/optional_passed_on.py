"""Uses of a parameter, None by default, that its function passes on to what asks about it.

`train(..., kfac=None)` hands `kfac=kfac` to a function that asks `if kfac is not None`, and itself calls
`kfac.reset()` under a test of something else, or joins `os.path.join(cache_dir, name)` in one arm alone.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing
from ampguard.auditing.flow.optional_plain import (
    asks_about,
    body_text,
    failing_uses,
    is_conditional,
    is_stub,
    may_need,
    plainly_asked,
)
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk

_QUESTION = regex(r" is (?:not )?None")
_LAST = regex(r"(?<![\w.])(\w+)$")
_TESTING = (ast.If, ast.IfExp, ast.While)
_SHORT = 3
_MANY = 6
"""Files that ask about a name, from which on it is a common word (`args`, `mask`) that means other things elsewhere."""


def uses_of_what_is_passed_on(module: Module) -> Iterator[Use]:
    """Walk the first use of each such parameter in each function."""
    for function in module.functions:
        nones = [arg for arg, default in parameters(function) if default is not None and is_none_literal(default)]
        text = body_text(module, function) if nones else ""
        for arg in nones:
            name = arg.arg
            if f"{name}={name}" not in text or not may_need(name, text) or plainly_asked(name, text):
                continue
            use = _first_use(module, function, name)
            if use is not None and not is_stub(function) and _asks_somewhere(module, name):
                yield Use(name, use, arg)


def _first_use(module: Module, function: Function, name: str) -> ast.AST | None:
    """Return the first use under tests of other things; None where anything asks or gives a value first.

    What always needs the name, all its callers give.
    """
    for node in walk(function):
        tests = [node.test] if isinstance(node, (*_TESTING, ast.Assert)) else []
        tests = node.values if isinstance(node, ast.BoolOp) else tests
        if any(asks_about(test, name) for test in tests):
            return None
    words = re.compile("|".join(re.escape(w) for w in name.split("_") if len(w) >= _SHORT) or re.escape(name))
    scopes = [n for n in walk(function) if isinstance(n, FUNCTIONS)]
    stores = [n.lineno for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load)]
    for scope in scopes:
        if scope is not function and any(a.arg == name for a, _ in parameters(scope)):
            continue
        for use in failing_uses(module, scope, name):
            line: int = use.lineno  # type: ignore[attr-defined]
            if any(at < line for at in stores):
                return None
            if not _is_tied(module, use, function, words):
                return use if is_conditional(module, use, function) else None
    return None


def _is_tied(module: Module, use: ast.AST, function: Function, words: re.Pattern[str]) -> bool:
    """Whether a test around a use, or the function around it, speaks of the name; or a handler sees to it."""
    if any(True for _ in module.tree.handlers_around(use)):
        return True
    below = use
    for above in module.tree.above(use):
        if above is function:
            return False
        if isinstance(above, FUNCTIONS) and words.search(above.name):
            return True
        if isinstance(above, ast.Lambda | ast.ExceptHandler | ast.Match):
            return True
        tests = [above.test] if isinstance(above, _TESTING) else above.values if isinstance(above, ast.BoolOp) else []
        if any(words.search(ast.unparse(test)) for test in tests):
            return True
        if isinstance(above, ast.If | ast.IfExp) and below is not above.test and _is_instead(above, below, function):
            return True
        below = above
    return True


def _is_instead(above: ast.If | ast.IfExp, below: ast.AST, function: Function) -> bool:
    """Whether a use stands where another parameter is None, and this one takes its place."""
    given = {arg.arg for arg, _ in parameters(function)}
    body = above.body if isinstance(above.body, list) else [above.body]
    sign = ast.Is if below in body else ast.IsNot
    return any(
        isinstance(n, ast.Compare) and isinstance(n.ops[0], sign) and key(n.left) in given for n in walk(above.test)
    )


def _asks_somewhere(module: Module, name: str) -> bool:
    """Whether a function of the project asks whether what has that name is None."""
    return 0 < _asking(module.project)[name] <= _MANY and not is_thing(name)


def _asking(project: Project) -> Counter[str]:
    """Return in how many files of a project each plain name is asked whether it is None."""
    if "names asked for None" not in project.memo:
        found: Counter[str] = Counter()
        for path, text in project.texts(" is None", " is not None"):
            found.update(_asked_in(text) if "test" not in path else ())
        project.memo["names asked for None"] = found
    counted: Counter[str] = project.memo["names asked for None"]
    return counted


def _asked_in(text: str) -> set[str]:
    """Return the plain names that a text asks about, outside of comments."""
    found: set[str] = set()
    for question in _QUESTION.finditer(text):
        line = text[text.rfind("\n", 0, question.start()) + 1 : question.start()]
        named = _LAST.search(line) if "#" not in line else None
        if named is not None:
            found.add(named[1])
    return found
