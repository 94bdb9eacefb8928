"""Uses of what a call without arguments answers, where the file asks elsewhere whether the same call answers None.

`if self.masker() is not None: self.masker().enable()` in one method, `self.masker().disable()` in another: the call is
the same, and so is what it may answer. So it is where the answer gets a name: `state = game.get_state()`, asked in one
place, and read at once in another.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, is_none_literal, key

_QUESTION = regex(r"\bself\.(\w+)\(\) is (?:not )?None\b")
_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)


def uses_of_the_same_answer(module: Module) -> Iterator[Use]:
    """Walk the first use, in each method, of what such a call answers."""
    asked = set(_QUESTION.findall(module.about("() is ")))
    if not asked:
        return
    origins: dict[tuple[ast.ClassDef, str], ast.AST] = {}
    for test in module.tree.all(ast.Compare):
        if is_none_literal(test.comparators[0]) and (name := _called(test.left)) in asked:
            cls = module.tree.class_of(test)
            if cls is not None:
                origins.setdefault((cls, name), test)
    told: set[Function] = set()
    for node in module.tree.all(ast.Attribute):
        name, function, cls = _called(node.value), module.tree.function(node), module.tree.class_of(node)
        origin = origins.get((cls, name)) if name and cls is not None else None
        if origin is None or function is None or function in told or module.tree.function(origin) is function:
            continue
        if any(True for _ in module.tree.handlers_around(node)) or _is_told(module, node, function, name):
            continue
        told.add(function)
        yield Use(f"self.{name}()", node, origin)


def _called(node: ast.AST) -> str:
    """Return the name of the method of `self` that is called without arguments."""
    if not isinstance(node, ast.Call) or node.args or node.keywords or not isinstance(node.func, ast.Attribute):
        return ""
    return node.func.attr if key(node.func.value) == "self" else ""


def _is_told(module: Module, use: ast.AST, function: Function, name: str) -> bool:
    """Whether the method, or all that call it, ask something of the kind."""
    text = module.text_of(function)
    if f"self.{name}() is " in text or f"if self.{name}()" in text or f"and self.{name}()" in text:
        return True
    return any(isinstance(above, (*_TESTING, ast.BoolOp)) for above in module.tree.above(use))
