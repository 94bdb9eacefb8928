"""The objects that a loop takes one after another: `getattr(self, name)`, `for thing in (model, optimizer)`.

Known where the names or the objects are written out, here or where a dictionary or a tuple of them is made, and
nothing adds to it later.
"""

import ast
import re

from ampguard.auditing.reading.calls import assigned, attributes, bases
from ampguard.auditing.reading.copies import items_of
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver


def stands_for_each(module: Module, node: ast.expr) -> list[ast.expr] | None:
    """Return what a loop's variable stands for in turn: objects, or names as constants; None where that is unknown.

    `getattr(self, name)` stands for the names that the loop goes over, the value of a dictionary for its keys.
    """
    if isinstance(node, ast.Call):
        by_name = called(node) == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Name)
        each = stands_for_each(module, node.args[1]) if by_name else None
        return each if each is not None and all(isinstance(one, ast.Constant) for one in each) else None
    if not isinstance(node, ast.Name):
        return None
    found = module.names.lookup(node.id, node)
    last = found[1][-1].node if found is not None and len(found[1]) == 1 else None
    return _of_loop(module, last, node.id) if isinstance(last, ast.For | ast.comprehension) else None


def _of_loop(module: Module, loop: ast.For | ast.comprehension, name: str) -> list[ast.expr] | None:
    held = items_of(loop.iter)
    if held is not None:
        is_value = isinstance(loop.target, ast.Tuple) and key(loop.target.elts[-1]) == name
        return _written_out(module, held, ast.Dict) if is_value else None
    if not isinstance(loop.target, ast.Name):
        return None
    if isinstance(loop.iter, ast.Call) and called(loop.iter) == "values":
        return _written_out(module, receiver(loop.iter), ast.Dict)
    return _written_out(module, loop.iter, ast.Tuple, ast.List)


def _written_out(module: Module, node: ast.expr | None, *shapes: type[ast.expr]) -> list[ast.expr] | None:
    """Return the keys of a dictionary, or the parts of a tuple or list, that nothing adds to."""
    values = [] if node is None else [node] if isinstance(node, shapes) else _given(module, node)
    if len(values) != 1 or not isinstance(values[0], shapes) or _is_added_to(module, key(node)):
        return None
    found = values[0].keys if isinstance(values[0], ast.Dict) else getattr(values[0], "elts", [])
    known: list[ast.expr] = [one for one in found if isinstance(one, ast.Constant | ast.Name | ast.Attribute)]
    return known if len(known) == len(found) else None


def _given(module: Module, node: ast.expr) -> list[ast.expr]:
    """Return what was assigned to a name, or to an attribute of `self` in the nearest class that sets it."""
    values, place = assigned(module, node), key(node) or ""
    cls = module.tree.class_of(node) if place.startswith("self.") and not values else None
    for where, of in ((module, cls), *bases(module, cls)) if cls is not None else ():
        values = values or _of_class(where, of, place.removeprefix("self."))
    return values


def _of_class(module: Module, cls: ast.ClassDef, name: str) -> list[ast.expr]:
    body = [s.value for s in cls.body if isinstance(s, ast.Assign) and any(key(t) == name for t in s.targets)]
    return body + attributes(module, cls).get(name, [])


def _is_added_to(module: Module, place: str | None) -> bool:
    """Whether any file adds to what lies in a place, under the last part of its name."""
    last = (place or "").rpartition(".")[2]
    if not last:
        return False
    adds = rf"\b{re.escape(last)}(\[[^\]\n]*\]\s*=(?!=)|\.(update|setdefault|append|extend|insert)\(|\s*\+=)"
    return module.project.says(re.compile(adds))
