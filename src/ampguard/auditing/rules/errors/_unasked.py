"""Searches that answer None where nothing was found, and what does with the answer as if something always were.

A function that goes through candidates and ends in `return None` leaves the question to its callers; where two of them
use the answer at once, it is the function that had better raise. An answer that may be None, put into a dictionary that
is declared to hold none of it, fails for whoever reads that.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional_answers import Answered, uses_of_answers
from ampguard.auditing.flow.optional_plain import admits_none
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk, walk_scope

_LETTERS = 8
"""Letters of a name from which on the files that hold it are taken to speak of the function."""

_CALLERS = 6
"""Files read for the callers of one search. Chosen: what more files call is a library, which tests by itself."""

_ENOUGH = 2
_LARGE = 1000
"""Files of a project from which on it is a library: to look its searches up would take longer than they are worth."""


def searches_unasked(module: Module) -> Iterator[tuple[Function, ast.Return, list[Answered]]]:
    """Walk the searches whose answer other files use at once, with their last `return` and these uses."""
    if "return None" not in module.text or module.role in ("test", "benchmark") or len(module.project.files) > _LARGE:
        return
    returns: list[ast.Return] = module.tree.all(ast.Return)
    for statement in returns:
        function = module.tree.parents[statement]
        if not is_none_literal(statement.value) or not isinstance(function, FUNCTIONS) or not _searches(function):
            continue
        uses = list(_uses(module, function)) if len(function.name) > _LETTERS and "_" in function.name else []
        if len(uses) >= _ENOUGH:
            yield function, statement, uses


def _searches(function: Function) -> bool:
    """Whether a function ends in a loop that returns what it finds, and None behind it."""
    loop = function.body[-2] if len(function.body) > 1 else None
    return isinstance(loop, ast.For) and any(
        isinstance(n, ast.Return) and n.value is not None and not is_none_literal(n.value) for n in walk_scope(loop)
    )


def _uses(module: Module, function: Function) -> Iterator[Answered]:
    """Walk the uses of a function's answer in other files."""
    words = (f".{function.name}(", f"= {function.name}(")
    others = [path for path, _ in module.project.texts(*words) if path != module.path]
    for path in others if len(others) <= _CALLERS else ():
        where = module.project.module(path)
        for use in uses_of_answers(where) if where is not None and where.role != "test" else ():
            if (use.path, use.function) == (module.path, function.name):
                yield use


def stored_as_values(module: Module) -> Iterator[tuple[ast.Assign, Function, ast.Return]]:
    """Walk the items of a returned dictionary, declared to hold no None, that are an answer that may be None."""
    if "Dict[" not in module.text and "dict[" not in module.text:
        return
    for function in module.functions:
        if not _declares_values(function):
            continue
        for node in walk_scope(function):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Subscript):
                continue
            place = target(module, node.value) if isinstance(node.value, ast.Call) else None
            if place is None or place[0] is not module or not admits_none(place[1].returns):
                continue
            nones = (n for n in walk_scope(place[1]) if isinstance(n, ast.Return) and is_none_literal(n.value))
            none = next(nones, None)
            if none is not None and _is_returned_untouched(function, key(node.targets[0].value)):
                yield node, place[1], none


def _declares_values(function: Function) -> bool:
    """Whether a function is declared to answer a dictionary whose values are never None."""
    declared = function.returns
    if not isinstance(declared, ast.Subscript) or key(declared.value) not in ("Dict", "dict", "typing.Dict"):
        return False
    values = declared.slice.elts[-1] if isinstance(declared.slice, ast.Tuple) else declared.slice
    return not admits_none(values) and not re.search(r"None|Optional|Any|object", ast.unparse(values))


def _is_returned_untouched(function: Function, name: str | None) -> bool:
    """Whether a function returns a name, and asks about nothing that it holds."""
    returns = (n for n in walk_scope(function) if isinstance(n, ast.Return))
    returned = name is not None and any(key(n.value) == name for n in returns)
    asks = any(isinstance(n, ast.Compare) and any(map(is_none_literal, n.comparators)) for n in walk(function))
    return returned and not asks
