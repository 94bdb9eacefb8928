"""What a name or an attribute is given where another file, a base class or the body of its own class gives it."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import attributes, bases, class_of_object
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key

Given = tuple[Module, ast.expr | None]
"""A value with the file it stands in; None for one that says nothing."""


def given_elsewhere(module: Module, node: ast.expr, words: tuple[str, ...]) -> list[Given]:
    """Return the values of an imported constant, or of an attribute that a class of the project gives, else [].

    Args:
        module: The file.
        node: A name or an attribute that nothing in its own scope gives a value to.
        words: Other files are read only where their text holds one of these.
    """
    if isinstance(node, ast.Attribute) and (key(node.value) or "").split(".")[0] in ("self", "cls"):
        own = class_of_object(module, node.value, words)
        return next((found for place in _line_of(own) if (found := list(_of_class(*place, node.attr)))), [])
    if not isinstance(node, ast.Name | ast.Attribute):
        return []
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    if bound is not None and bound[1][-1].kind != "import":
        return []
    return next((values for d in module.names.dotted(node) if (values := _of_file(module, d, words))), [])


def _line_of(own: tuple[Module, ast.ClassDef] | None) -> Iterator[tuple[Module, ast.ClassDef]]:
    if own is not None:
        yield own
        yield from bases(*own)


def _of_class(where: Module, cls: ast.ClassDef, name: str) -> Iterator[Given]:
    """Walk what a class gives an attribute, in its methods or its body."""
    given = attributes(where, cls).get(name, [])
    yield from ((where, value) for value in given)
    for item in cls.body if not given else ():
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        if isinstance(item, ast.Assign | ast.AnnAssign) and key(target) == name and item.value is not None:
            yield where, item.value


def _of_file(module: Module, dotted: str, words: tuple[str, ...]) -> list[Given]:
    """Return what the file of a dotted name gives the last part of it."""
    home, _, name = dotted.rpartition(".")
    path = module.project.find(home, module.path) if home else None
    where = module.project.module(path) if path and path != module.path and _may_hold(module, path, words) else None
    bound = where.names.bindings_in(where.root).get(name, []) if where is not None else []
    return [(where, b.value if b.kind == "assign" else None) for b in bound] if where is not None else []


def _may_hold(module: Module, path: str, words: tuple[str, ...]) -> bool:
    return not path.endswith("__init__.py") and module.project.holds(path, words)
