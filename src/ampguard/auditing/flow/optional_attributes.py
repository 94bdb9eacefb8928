"""Uses of attributes that `__init__` makes only where an option says so, or keeps as they are given.

No path is walked: nothing in the class asks about the object, and the use stands under no test.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing
from ampguard.auditing.flow.optional_plain import failing_uses, is_asked, is_conditional, is_touched
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, bases
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk_scope

_CHOSEN = regex(r"^[ \t]*self\.(\w+)[ \t]*(?::[^=\n]+)?=(?!=)[^\n]*\) if [^\n]+ else None[ \t]*$", re.MULTILINE)
_BEGUN = regex(
    r"self\.(\w+)[ \t]*(?::[^=\n]+)?=[ \t]*None[ \t]*\n[ \t]*if [^\n]+:[ \t]*\n[ \t]+self\.\1[ \t]*=",
)
"""Attributes of any name that a line makes only where an option says so, asked of the text before the tree is."""

_THEN_ASKED = regex(r"None[ \t]*\n[ \t]*if ")
"""What such a beginning holds, and few files do: a pattern that starts with fixed text is found as fast as text."""

_ONE_RANK = regex(r"main|rank|master", re.IGNORECASE)


def uses_of_attributes(module: Module) -> Iterator[Use]:
    """Walk the uses of objects of `self` that `__init__` makes only where an option says so, or is given at will."""
    told: set[tuple[ast.AST | None, str]] = set()
    begun = _BEGUN.findall(module.text) if _THEN_ASKED.search(module.text) else ()
    chosen = {*_CHOSEN.findall(module.about("else none")), *begun}
    for owner in module.tree.all(ast.Attribute):
        if not (isinstance(owner.value, ast.Name) and owner.value.id == "self"):
            continue
        named = is_thing(f"self.{owner.attr}")
        if not named and owner.attr not in chosen:
            continue
        above = module.tree.parents[owner]
        walked = isinstance(above, ast.For) and above.iter is owner
        if (
            not isinstance(above, ast.Attribute)
            and not walked
            and not (isinstance(above, ast.Call) and above.func is owner)
        ):
            continue
        place, function = f"self.{owner.attr}", module.tree.function(owner)
        if function is None or function.name == "__init__" or (function, place) in told:
            continue
        told.add((function, place))
        if any(_ONE_RANK.search(ast.unparse(decorator)) for decorator in function.decorator_list):
            continue  # run by the rank alone that has the object
        made = _made_by_choice(module, function, place) or (_kept_as_given(module, function, place) if named else None)
        uses = failing_uses(module, function, place) if made is not None else ()
        use = next((u for u in uses if not is_conditional(module, u, function, loops=True)), None)
        if made is None or use is None or not (named or _runs_always(module, function, owner.attr)):
            continue
        if not _is_seen_to_by_bases(module, function, place):
            yield Use(place, use, made)


def _runs_always(module: Module, function: Function, name: str) -> bool:
    """Whether nothing says that a method runs only where the object is there: its own name, or a test of its caller.

    Not in a class with bases: what a module leaves out, the shape of its input leaves out too.
    """
    cls = module.tree.class_of(function)
    if cls is None or cls.bases:
        return False
    calls = [c for c in module.calls.get(function.name, ()) if module.tree.function(c) is not function]
    return bool(calls or _ENTRIES.search(function.name)) and runs_untold(module, function, name)


def runs_untold(module: Module, function: Function, name: str) -> bool:
    """Whether neither the name of a method nor a test of its callers says that it runs where an attribute is there."""
    words = [w for w in name.split("_") if len(w) > _SHORT]
    calls = [c for c in module.calls.get(function.name, ()) if module.tree.function(c) is not function]
    is_inner = function.name.startswith("_") and not function.name.startswith("__")
    if any(w in function.name for w in words) or (is_inner and not calls):
        return False
    return not any(True for c in calls for _ in _tests_above(module, c))


_SHORT = 3
_ENTRIES = regex(r"^_*(train|fit|run|main|forward|evaluate|validate|test|__call__)(_|$)|_step$|_epoch$")


def _tests_above(module: Module, node: ast.AST) -> Iterator[ast.expr]:
    for above in module.tree.above(node):
        if isinstance(above, FUNCTIONS):
            return
        if isinstance(above, ast.If | ast.IfExp | ast.BoolOp):
            yield above.test if not isinstance(above, ast.BoolOp) else above


def _made_by_choice(module: Module, function: Function, place: str) -> ast.expr | None:
    """Return what leaves an attribute None for some option, where no method of the class itself asks about it.

    `Scaler() if half else None`, or None in `__init__` with an object under an `if` behind it.
    """
    cls = module.tree.class_of(function)
    values = attributes(module, cls).get(place.removeprefix("self."), []) if cls is not None else []
    made = _choice(values) or _begun_as_none(module, values)
    return made if made is not None and cls is not None and not _asks(module, cls, place) else None


def _asks(module: Module, cls: ast.ClassDef, place: str) -> bool:
    return any(isinstance(item, FUNCTIONS) and is_asked(module, item, place) for item in cls.body)


def _is_seen_to_by_bases(module: Module, function: Function, place: str) -> bool:
    """Whether a base of the class gives the attribute or asks about it: bases are read last, in whatever file."""
    cls = module.tree.class_of(function)
    found = bases(module, cls) if cls is not None else ()
    name = place.removeprefix("self.")
    return any(name in attributes(where, base) or _asks(where, base, place) for where, base in found)


def _choice(values: list[ast.expr]) -> ast.IfExp | None:
    made = values[0] if len(values) == 1 else None
    if not isinstance(made, ast.IfExp) or not any(isinstance(a, ast.Call) for a in (made.body, made.orelse)):
        return None
    nothing = [a for a in (made.body, made.orelse) if isinstance(a, ast.Constant) and a.value in (None, False)]
    return made if nothing else None


def _begun_as_none(module: Module, values: list[ast.expr]) -> ast.expr | None:
    """Return the None of `__init__` that only an `if` without an `else` replaces: `if amp: self.scaler = Scaler()`."""
    if len(values) != 2 or not is_none_literal(values[0]) or not isinstance(values[1], ast.Call):
        return None
    begun, given = (module.tree.parents.get(value) for value in values)
    if not (isinstance(begun, ast.Assign | ast.AnnAssign) and isinstance(given, ast.Assign)):
        return None  # of a base class in another file
    made, branch = module.tree.parents[begun], module.tree.parents[given]
    chosen = isinstance(branch, ast.If) and not branch.orelse and module.tree.parents[branch] is made
    return values[0] if chosen and isinstance(made, FUNCTIONS) and made.name == "__init__" else None


def _kept_as_given(module: Module, function: Function, place: str) -> ast.arg | None:
    """Return the parameter, None by default, that `__init__` keeps as it is and a method uses without a question.

    Another method may ask about it, as long as it does not see to it: neither raises nor gives it a new value.
    """
    cls = module.tree.class_of(function)
    if cls is None or any(True for _ in bases(module, cls)):
        return None  # what a base of the project does with it is not read
    made = next((m for m in cls.body if isinstance(m, FUNCTIONS) and m.name == "__init__"), None)
    values = attributes(module, cls).get(place.removeprefix("self."), [])
    first = [v for v in values if module.tree.function(v) is made]
    if made is None or len(first) != 1 or any(place not in ast.unparse(v) for v in values if v not in first):
        return None
    name = key(first[0])
    given = next((arg for arg, d in parameters(made) if arg.arg == name and d is not None and is_none_literal(d)), None)
    if given is None or name is None or is_touched(module, made, name):
        return None
    asking = [m for m in cls.body if isinstance(m, FUNCTIONS) and is_asked(module, m, place)]
    seen_to = any(m is function or any(isinstance(n, ast.Raise) for n in walk_scope(m)) for m in asking)
    return None if seen_to else given
