"""What is changed for a while and put back behind the lines that may fail, with no `finally`.

Two shapes: a context manager made of a generator, whose lines behind `yield` put something back; and a function that
keeps an attribute's value under a name, sets another, works, and gives the kept value back.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, walk_scope

WORDS = (
    "contextmanager",
    "getcwd",
    ".training",
    "get_rng_state",
    "old",
    "orig",
    "prev",
    "saved",
    "save_",
    "backup",
    "before",
)

_GIVES_BACK = regex(
    r"(un|re)(set|patch|hook|register|freeze|store|load|lock|mount|wrap|apply)\w*|\w*_(restore|unpatch|cleanup|exit)"
    r"|restore\w*|release|close|shutdown|cleanup\w*|clean_up\w*|unlink|rmtree|rmdir|remove\w*|terminate|kill|stop|disable"
    r"|pop|destroy\w*|detach_\w+|chdir|seek|setattr|__exit__|set_state|setstate|set_rng_state|train|eval|update|copy_"
)
"""What a call is named that puts something back behind a `yield`."""

_KEPT = regex(r"(^|_)(old|orig(inal)?|prev(ious)?|saved?|backup|before|was|initial|former)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Restored:
    """One thing that is put back only where nothing fails: what, the line that changes it, the line that puts it back.

    Attributes:
        what: The place, or what the call does.
        change: The statement that needs undoing.
        back: The statement that an error skips.
        by_yield: Whether the failing lines are those of a `with` block.
    """

    what: str
    change: ast.stmt
    back: ast.stmt
    by_yield: bool


def restored_unsafely(module: Module) -> Iterator[Restored]:
    """Walk what is put back without `finally`, the first of each function."""
    told: set[Function] = set()
    for function in module.functions if module.mentions(("contextmanager",)) else ():
        found = _around_yield(module, function)
        if found is not None:
            told.add(function)
            yield found
    for node in module.tree.all(ast.Assign):
        kept, setter = _keeps(node), _setter(node.value)
        around = module.tree.function(node) if kept is not None or setter else None
        if around is None or around in told:
            continue
        block = module.tree.behind(node)
        found = (_kept_for_later(module, block, *kept) if kept is not None else None) or (
            _set_again(module, block, node, setter) if setter else None
        )
        if found is not None:
            told.add(around)
            yield found


def _around_yield(module: Module, function: Function) -> Restored | None:
    if not any("contextmanager" in ast.unparse(d) for d in function.decorator_list):
        return None
    for node in walk_scope(function):
        if isinstance(node, ast.Yield) and not _protected(module, node):
            change = module.tree.statement(node)
            back = next((s for s in _behind(module, change) if _puts_back(function, s, change)), None)
            if back is not None:
                return Restored(module.segment(back, 40), change, back, by_yield=True)
    return None


def _protected(module: Module, node: ast.AST) -> bool:
    """Whether a `try` with a `finally` (or that catches what comes) stands around a node in its function."""
    return any(
        t.finalbody or any(h.type is None or "Exception" in ast.unparse(h.type) for h in t.handlers)
        for t in module.tree.handlers_around(node)
    )


def _behind(module: Module, statement: ast.stmt) -> list[ast.stmt]:
    """Return the statements behind one, in its own block and, through `with`, in the blocks around it."""
    found: list[ast.stmt] = []
    at: ast.AST = statement
    while True:
        above = module.tree.parents.get(at)
        for name in ("body", "orelse"):
            block = getattr(above, name, None)
            if isinstance(block, list) and at in block:
                for behind in block[block.index(at) + 1 :]:
                    if isinstance(behind, ast.Return | ast.Raise | ast.Continue | ast.Break):
                        return found
                    found.append(behind)
        if not isinstance(above, ast.With | ast.If):
            return found
        at = above


def _puts_back(function: Function, statement: ast.stmt, change: ast.stmt) -> bool:
    """Whether a statement behind the `yield` undoes what one before it did."""
    if isinstance(statement, ast.If):
        return any(_puts_back(function, inner, change) for inner in statement.body)
    if isinstance(statement, ast.For):
        return any(_puts_back(function, inner, change) for inner in statement.body)
    if isinstance(statement, ast.Assign):
        place = key(statement.targets[0])
        shared = isinstance(statement.targets[0], ast.Attribute | ast.Subscript)
        return shared and place is not None and _changed_before(function, place, change)
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and bool(_GIVES_BACK.fullmatch(called(call).lstrip("_")))


def _changed_before(function: Function, place: str, change: ast.stmt) -> bool:
    return any(
        isinstance(n, ast.Assign) and n.lineno < change.lineno and any(key(t) == place for t in n.targets)
        for n in walk_scope(function)
    )


def _kept_for_later(module: Module, behind: list[ast.stmt], name: str, place: str) -> Restored | None:
    """Return an attribute that is kept (`old = x.mode`), changed, and given back behind calls."""
    sets = [_sets(statement, place, name) for statement in behind]
    if False not in sets or True not in sets:
        return None
    change, back = sets.index(False), sets.index(True)
    if back <= change + 1 or _protected(module, behind[back]) or not _works(behind[change + 1 : back]):
        return None
    return Restored(place, behind[change], behind[back], by_yield=False)


def _set_again(module: Module, behind: list[ast.stmt], node: ast.Assign, setter: set[str]) -> Restored | None:
    """Return a state of the process or of a model that is read (`os.getcwd()`), changed, and set again by a call."""
    name = key(node.targets[0])
    calls = [_call_of(statement) for statement in behind]
    back = next(
        (i for i, c in enumerate(calls) if c is not None and called(c) in setter and name in map(key, c.args)), None
    )
    change = next((i for i, c in enumerate(calls) if c is not None and called(c) in setter | {"eval"}), None)
    if name is None or back is None or change is None or change >= back - 1 or _protected(module, behind[back]):
        return None
    if not _works(behind[change + 1 : back]):
        return None
    return Restored(module.segment(behind[back], 40), behind[change], behind[back], by_yield=False)


def _works(between: list[ast.stmt]) -> bool:
    """Whether anything is called in between: what may fail."""
    return any(isinstance(n, ast.Call) for s in between for n in (s, *walk_scope(s)))


def _setter(value: ast.expr | None) -> set[str]:
    """Return the names of the calls that set what an expression reads."""
    if isinstance(value, ast.Attribute):
        return {"train"} if value.attr == "training" else set()
    name = called(value) if isinstance(value, ast.Call) else ""
    if name in ("getcwd", "cwd"):
        return {"chdir"}
    if name == "is_grad_enabled":
        return {"set_grad_enabled"}
    return {f"set_{name[4:]}", f"set{name[3:]}"} if name.startswith("get_") and _OF_A_PROCESS.search(name) else set()


_OF_A_PROCESS = regex(r"rng_state|default_dtype|num_threads|printoptions|verbosity|start_method|level|backend|locale")


def _call_of(statement: ast.stmt) -> ast.Call | None:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value if isinstance(value, ast.Call) else None


def _keeps(statement: ast.stmt) -> tuple[str, str] | None:
    """Return (name, place) of `old = thing.attribute`, where the name says that the value is kept."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Attribute | ast.Subscript):
        return None
    name = key(statement.targets[0]) if len(statement.targets) == 1 else None
    if name is None or not _KEPT.search(name.rpartition(".")[2]):
        return None
    place = key(statement.value)
    return (name, place) if place is not None else None


def _sets(statement: ast.stmt, place: str, name: str) -> bool | None:
    """Whether a statement gives the place its kept value back; False for another value, None for another statement."""
    if not isinstance(statement, ast.Assign) or key(statement.targets[0]) != place:
        return None
    return key(statement.value) == name
