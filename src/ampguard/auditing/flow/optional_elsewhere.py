"""What may be None by the word of other code: of a caller that doubts it, of a maker, of a framework's trainer.

A function that is handed a scheduler uses it as if it were always there; its caller asks `if scheduler is not None`
around its own uses and hands it on without asking. A maker returns a global that is None until somebody sets it. A
trainer that is given no logger has none.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing, may_be_none, protected, tested_in_method
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, same_function, target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import lines_about
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, walk_scope

_HANDED = regex(r"[(,=]\s*(self\.)?(lr_)?(scaler|scheduler|writer|logger|tracker|ema)\s*[,)\n]")
_DOUBTED = regex(
    r"\b(scaler|scheduler|writer|logger|tracker|ema) (is (not )?None|and\b)"
    r"|\bif (not )?\w*(scaler|scheduler|writer|logger|tracker|ema):"
)
_THINGS = ("scaler", "scheduler", "writer", "logger", "tracker", "ema")
_CALLED = regex(r"\b(\w+)\(")
_IMPORTS = regex(r"^[ \t]*(?:from|import)\s[^\n(]*(?:\([^)]*\))?", re.MULTILINE)
_WORDS = regex(r"\w+")
_CALLERS = 8
"""Files read for the callers of one function. Chosen: what more files call is a library, which tests by itself."""

_GOT = regex(r"self\.\w*(scaler|logger|writer|tracker|scheduler|tb|tensorboard|ema|run|sched)\s*=\s*[\w.]*get_\w+\(")
_TAKEN = regex(r"def \w+\([^)]*\b(lr_)?(scaler|scheduler|writer|logger|tracker|ema)\b")


def uses_of_doubted_arguments(module: Module) -> Iterator[Use]:
    """Walk the first use of each parameter that a caller in the project takes to be None at times."""
    if not _TAKEN.search(module.text):
        return
    for function in module.functions:
        names = [a.arg for a, default in parameters(function) if default is None and is_thing(a.arg)]
        for name in names:
            if name in tested_in_method(module, function):
                continue
            use = _first_use(function, name)
            origin = _doubting_call(module, function, name) if use is not None else None
            if use is not None and origin is not None and not protected(module, use, origin):
                yield Use(name, use, origin)


def _first_use(function: Function, name: str) -> ast.Attribute | None:
    """Return the first use of a parameter that nothing else is given to; None where the function gives it a value."""
    uses = []
    for node in walk_scope(function):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            uses.append(node)
    return min(uses, key=lambda n: n.lineno, default=None)


def _doubting_call(module: Module, function: Function, name: str) -> ast.Call | None:
    for where in _callers_in_doubt(module, function):
        for call in where.calls_of(function.name):
            place = target(where, call)
            if place is None or not same_function(place, (module, function)):
                continue
            given = argument_for(call, function, name)
            if given is not None and _is_doubted(where, call, given):
                return call
    return None


def _callers_in_doubt(module: Module, function: Function) -> Iterator[Module]:
    """Walk the files that may call a function and doubt what they hand over: its own, and a few that import it."""
    stem = module.path.removesuffix("/__init__.py").rpartition("/")[2].removesuffix(".py")
    found = _doubting_files(module.project).get(function.name, ())
    if any(path == module.path for path, _ in found):
        yield module
    others = [path for path, imported in found if path != module.path and imported & {stem, function.name}]
    for path in others[:_CALLERS]:
        where = module.project.module(path)
        if where is not None:
            yield where


def _is_doubted(where: Module, call: ast.Call, given: ast.expr) -> bool:
    """Whether the function around a call tests what it hands over for None, but not for this call."""
    place, around = key(given), where.tree.function(call)
    if place is None or around is None or place not in tested_in_method(where, around):
        return False
    above = [at.test for at in where.tree.above(call) if isinstance(at, ast.If | ast.IfExp | ast.While)]
    if any(place in ast.unparse(test) for test in above) or protected(where, call, call):
        return False
    return not any(_settles(node, place) for node in walk_scope(around))


def _settles(node: ast.AST, place: str) -> bool:
    """Whether a statement gives the place a value, or leaves where it has none."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        bound = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(key(t) == place for t in bound)
    if isinstance(node, ast.Assert):
        return place in ast.unparse(node.test)
    leaves = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Raise | ast.Continue)
    return leaves and place in ast.unparse(node.test)  # type: ignore[attr-defined]


_Doubting = dict[str, list[tuple[str, frozenset[str]]]]
"""By the name of what is called: the files, and the words of their imports."""


def _doubting_files(project: Project) -> _Doubting:
    """Return the files that doubt such a thing and hand one over, by what they call; read, not parsed."""
    if "doubting files" not in project.memo:
        found: _Doubting = {}
        for path, text in project.texts():
            if "test" not in path and _doubts(text) and _HANDED.search(text):
                imported = frozenset(word for line in _IMPORTS.findall(text) for word in _WORDS.findall(line))
                for name in set(_CALLED.findall(text)):
                    found.setdefault(name, []).append((path, imported))
        project.memo["doubting files"] = found
    known: _Doubting = project.memo["doubting files"]
    return known


def _doubts(text: str) -> bool:
    return _DOUBTED.search(lines_about(text, _THINGS)) is not None


def uses_of_what_a_maker_left_out(module: Module) -> Iterator[Use]:
    """Walk the first use, in each method, of what `__init__` took from a maker that returns a global set elsewhere."""
    for cls in module.tree.all(ast.ClassDef) if _GOT.search(module.text) else ():
        for name, values in attributes(module, cls).items():
            place = f"self.{name}"
            made = next((v for v in values if is_thing(place) and _returns_unset_global(module, v)), None)
            if made is None:
                continue
            for method in (item for item in cls.body if isinstance(item, FUNCTIONS) and item.name != "__init__"):
                uses = [
                    n
                    for n in walk_scope(method)
                    if isinstance(n, ast.Attribute) and key(n.value) == place and isinstance(n.ctx, ast.Load)
                ]
                first = min(uses, key=lambda n: n.lineno, default=None)
                if first is None or place in tested_in_method(module, method) or protected(module, first, made):
                    continue
                yield Use(place, first, made)


def _returns_unset_global(module: Module, value: ast.expr) -> bool:
    """Whether a call runs a function that returns a name of its file which begins as None."""
    place = target(module, value) if isinstance(value, ast.Call) and called(value).startswith("get_") else None
    if place is None:
        return False
    where, function = place
    returned = [n.value for n in walk_scope(function) if isinstance(n, ast.Return)]
    names = {v.id for v in returned if isinstance(v, ast.Name)}
    if not names or len(returned) > 1 or any(isinstance(n, ast.If) for n in walk_scope(function)):
        return False
    own = (s for s in where.root.body if isinstance(s, ast.Assign | ast.AnnAssign) and s.value is not None)
    return any(
        may_be_none(s.value) and (key(t) or "") in names  # type: ignore[arg-type]
        for s in own
        for t in (s.targets if isinstance(s, ast.Assign) else [s.target])
    )


def uses_of_a_trainers_logger(module: Module) -> Iterator[Use]:
    """Walk the uses of `trainer.logger` in a file that gives its trainer no logger on some path."""
    if "trainer.logger." not in module.text:
        return
    origin = _no_logger(module)
    if origin is None:
        return
    told: set[ast.AST | None] = set()
    for node in sorted(module.tree.all(ast.Attribute), key=lambda n: n.lineno):
        place = key(node.value) or ""
        function = module.tree.function(node)
        if not place.endswith("trainer.logger") or function in told:
            continue
        tests = [at.test for at in module.tree.above(node) if isinstance(at, ast.If | ast.IfExp)]
        if any("logger" in ast.unparse(test) for test in tests) or any(module.tree.handlers_around(node)):
            continue
        if function is not None and place in tested_in_method(module, function):
            continue
        told.add(function)
        yield Use(place, node, origin)


def _no_logger(module: Module) -> ast.AST | None:
    """Return the assignment that leaves `logger=...` of a trainer None or an empty list."""
    given = {key(k.value) for calls in module.calls.values() for c in calls for k in c.keywords if k.arg == "logger"}
    stored: set[str | None] = set()
    for node in module.tree.all(ast.Assign):
        target_ = node.targets[0]
        index = target_.slice if isinstance(target_, ast.Subscript) else None
        if isinstance(index, ast.Constant) and index.value == "logger":
            stored.add(key(node.value))
    names = (given | stored) - {None}
    for node in module.tree.all(ast.Assign, ast.AnnAssign):
        bound = node.targets[0] if isinstance(node, ast.Assign) else node.target
        empty = isinstance(node.value, ast.List) and not node.value.elts
        if node.value is not None and key(bound) in names and (empty or may_be_none(node.value)):
            return node  # type: ignore[no-any-return]
    return None
