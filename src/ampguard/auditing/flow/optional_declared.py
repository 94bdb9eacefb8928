"""Uses of attributes that are None for as long as the object lives: kept from a default, or declared so in the class.

`label_source: Optional[Source] = None` in a configuration, or `self.decay = decay` with `decay=None`, and a method
that asks `if self.label_source is not None`: what no method ever gives a value is None in the other methods as well.
The question may stand in a base or a sister of the class in the same file.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_attributes import runs_untold
from ampguard.auditing.flow.optional_plain import admits_none, asks_about, needed_by
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk

_QUESTION = regex(r"self\.(\w+) is (?:not )?None\b")
_TESTING = (ast.If, ast.IfExp, ast.While)
_SHORT = 3


def uses_of_what_is_declared_none(module: Module) -> Iterator[Use]:
    """Walk the first use, in each method, of such an attribute that the method does not ask about."""
    asked = set(_QUESTION.findall(module.text)) if module.mentions((" is None", " is not None")) else set()
    asked = {name for name in asked if not name.startswith("__")}
    if not asked:
        return
    told: set[tuple[ast.AST | None, str]] = set()
    kept: dict[tuple[ast.ClassDef, str], ast.AST | None] = {}
    for owner in module.tree.all(ast.Attribute):
        if owner.attr not in asked or not isinstance(owner.value, ast.Name) or owner.value.id != "self":
            continue
        function, cls = module.tree.function(owner), module.tree.class_of(owner)
        if function is None or cls is None or module.tree.parents[function] is not cls or function.name == "__init__":
            continue
        if (function, owner.attr) in told or not isinstance(owner.ctx, ast.Load):
            continue
        told.add((function, owner.attr))
        if (cls, owner.attr) not in kept:
            kept[cls, owner.attr] = _none_for_good(module, cls, owner.attr)
        origin = kept[cls, owner.attr]
        use = _first_use(module, function, f"self.{owner.attr}") if origin is not None else None
        if use is not None and origin is not None and runs_untold(module, function, owner.attr):
            yield Use(f"self.{owner.attr}", use, origin)


def _none_for_good(module: Module, cls: ast.ClassDef, name: str) -> ast.AST | None:
    """Return what leaves an attribute None, if no method gives it another value and one of the family asks about it."""
    family = [cls, *_ancestors(module, cls)]
    values = [value for kind in family for value in attributes(module, kind).get(name, ())]
    origin: ast.AST | None = next(filter(None, (_declared(kind, name) for kind in family)), None)
    if origin is None:
        origin = _kept_from_default(module, values[0]) if len(values) == 1 else None
    elif values:
        return None
    if origin is None or _is_given_elsewhere(module, name):
        return None
    question = re.compile(rf"\b(?:if|and|or|elif|not) self\.{name} is (?:not )?None\b")
    return origin if any(question.search(module.text_of(kind)) for kind in family) else None


def _ancestors(module: Module, cls: ast.ClassDef) -> list[ast.ClassDef]:
    """Return the classes of the file that a class builds on."""
    classes: list[ast.ClassDef] = module.tree.all(ast.ClassDef)
    found, names = [], _names_of_bases(cls)
    for kind in reversed(classes):
        if kind.name in names and kind is not cls:
            found.append(kind)
            names |= _names_of_bases(kind)
    return found


def _names_of_bases(cls: ast.ClassDef) -> set[str | None]:
    return {key(base.value if isinstance(base, ast.Subscript) else base) for base in cls.bases}


def _is_given_elsewhere(module: Module, name: str) -> bool:
    """Whether a line of the file gives the attribute to another object, or names it as a word: `setattr`, `state`."""
    text = module.text
    if f'"{name}"' in text or f"'{name}'" in text:
        return True
    stores = re.finditer(rf"\.{name}[ \t]*=(?!=)(?![^\n]*\.{name}\b)", text)
    return any(text[max(0, found.start() - 4) : found.start()] != "self" for found in stores)


def _declared(cls: ast.ClassDef, name: str) -> ast.AnnAssign | None:
    """Return the field of a class that is None by default or by its annotation, or that its maker gives."""
    for item in cls.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == name:
            none = item.value is None or is_none_literal(item.value)
            return item if none or admits_none(item.annotation) else None
    return None


def _kept_from_default(module: Module, value: ast.expr) -> ast.arg | None:
    """Return the parameter of `__init__`, None by default, that is kept as it is by a statement of its own."""
    made, statement = module.tree.function(value), module.tree.statement(value)
    if not isinstance(value, ast.Name) or made is None or made.name != "__init__":
        return None
    if module.tree.parents[statement] is not made:
        return None
    given = next((a for a, d in parameters(made) if a.arg == value.id and d is not None and is_none_literal(d)), None)
    return given if given is not None and not _is_seen_to(module, made, value.id) else None


def _is_seen_to(module: Module, made: Function, name: str) -> bool:
    """Whether `__init__` gives the parameter another value, or asks about it in any way."""
    if any(not isinstance(held.ctx, ast.Load) for held in module.tree.named(name, made)):
        return True
    return any(asks_about(test, place) for place in (name, f"self.{name}") for test in _tests(made))


def _tests(function: Function) -> Iterator[ast.expr]:
    for node in walk(function):
        if isinstance(node, (*_TESTING, ast.Assert)):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.comprehension):
            yield from node.ifs


def _first_use(module: Module, function: Function, place: str) -> ast.AST | None:
    """Return the first use in a method that asks about the place nowhere, under no test that may speak of it."""
    if any(asks_about(test, place) for test in _tests(function)):
        return None
    words = re.compile("|".join(re.escape(w) for w in place[5:].split("_") if len(w) >= _SHORT) or re.escape(place[5:]))
    for node in walk(function):
        if any(key(needed) == place for needed in needed_by(node)):
            return node if _is_open(module, node, function, words) else None
    return None


def _is_open(module: Module, use: ast.AST, function: Function, words: re.Pattern[str]) -> bool:
    """Whether a method gets to a use by no test that may know of the place."""
    if any(True for _ in module.tree.handlers_around(use)):
        return False
    line: int = getattr(use, "lineno", 0)
    for above in module.tree.above(use):
        if above is function:
            break
        if isinstance(above, (*FUNCTIONS, ast.Lambda, *_TESTING, ast.BoolOp, ast.Match)):
            return False
    early = (n for n in walk(function) if isinstance(n, ast.If) and n.lineno < line and leaves(n.body))
    return not any(True for _ in early) and not any(words.search(ast.unparse(d)) for d in function.decorator_list)
