"""Uses of items that another file of the project sets to None at times: `data["masks"] = None`, where all are full.

The loader gives the item a value and, under a test, None in its place; whoever reads a batch by the same name and key
and asks nowhere fails in that case.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import is_asked, needed_by
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import FUNCTIONS, key

_SET_TO_NONE = regex(
    r"^([ \t]*)if [^\n]+:[ \t]*\n\1[ \t]+(\w+)\[(['\"])(\w+)\3\][ \t]*=[ \t]*None[ \t]*$", re.MULTILINE
)
_ITEM = regex(r"\b(\w+)\[(['\"])(\w+)\2\][\[.]")


def uses_of_items_left_none(module: Module) -> Iterator[Use]:
    """Walk the first use of each such item in each function."""
    known = _left_none(module.project).keys()
    near = any(f"{name}[" in module.text for name, _ in known)
    left = {(name, item) for name, _, item in _ITEM.findall(module.text)} & known if near else set()
    if not left:
        return
    told: set[tuple[ast.AST | None, str]] = set()
    for node in module.tree.all(ast.Subscript):
        place = key(node) if isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load) else None
        if place is None or not isinstance(node.slice, ast.Constant) or (node.value.id, node.slice.value) not in left:
            continue
        function = module.tree.function(node)
        if function is None or (function, place) in told or node not in needed_by(module.tree.parents[node]):
            continue
        item = str(node.slice.value)
        if _is_given_here(module, place) or is_asked(module, function, place) or _is_tested(module, node, item):
            continue
        told.add((function, place))
        yield Use(place, module.tree.parents[node], node)


def _left_none(project: Project) -> dict[tuple[str, str], str]:
    """Return the items, by name and key, that some file gives a value and then, under a test, None; and that file."""
    if "items left None" not in project.memo:
        found: dict[tuple[str, str], str] = {}
        for path, text in project.texts("] = None"):
            for _, name, _, item in _SET_TO_NONE.findall(text):
                given = re.search(rf"\b{name}\[['\"]{item}['\"]\][ \t]*=[ \t]*(?!None\b)[^=\s]", text)
                if given is not None and "test" not in path:
                    found[name, item] = path
        project.memo["items left None"] = found
    items: dict[tuple[str, str], str] = project.memo["items left None"]
    return items


def _is_given_here(module: Module, place: str) -> bool:
    """Whether the file gives an item its value itself."""
    return any(not isinstance(n.ctx, ast.Load) and key(n) == place for n in module.tree.all(ast.Subscript))


def _is_tested(module: Module, node: ast.AST, item: str) -> bool:
    """Whether a test above a use, or one in its function that leaves, speaks of the item, or a handler catches."""
    if any(guarded.handlers for guarded in module.tree.handlers_around(node)):
        return True
    for above in module.tree.above(node):
        if isinstance(above, ast.If | ast.IfExp | ast.While) and item in ast.unparse(above.test):
            return True
        if isinstance(above, FUNCTIONS):
            return f".get('{item}'" in (text := module.text_of(above)) or f'.get("{item}"' in text
    return False
