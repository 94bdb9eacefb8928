"""States of a scaler that are asked for by what is no key of them: a method, or a name that nothing is saved under.

`{"scaler": scaler.state_dict}` holds the method itself, and `scaler.load_state_dict = states["scaler"]` puts the state
in the method's place; `if "grad_scaler" in states: ...` is never true where the key is "scaler".
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import STATE_WORDS, restored
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, walk

_NOT_CALLED = regex(r"scaler\w*\.(load_)?state_dict\b(?!\s*\()", re.IGNORECASE)
_SAVED_AS = regex(r"[\"'](\w+)[\"']\s*(:|\]\s*=)\s*[\w.]*scaler\w*\.state_dict\(", re.IGNORECASE)
"""A key under which the state of a scaler is put away."""

_TAKES = frozenset({"save", "get", "pop", "load_state_dict"})


def methods_for_states(module: Module) -> Iterator[ast.Attribute]:
    """Walk the `scaler.state_dict` that nobody calls, where a state, a key or a call should stand."""
    if not _NOT_CALLED.search(module.text):
        return
    for node in module.tree.all(ast.Attribute):
        if node.attr not in ("state_dict", "load_state_dict") or not is_scaler(module, node.value):
            continue
        if _is_put_over(module, node) if isinstance(node.ctx, ast.Store) else _stands_for_a_state(module, node):
            yield node


def _is_put_over(module: Module, node: ast.Attribute) -> bool:
    """Whether an item of a checkpoint is assigned to the method, which should have been called with it."""
    above = module.tree.parents[node]
    return isinstance(above, ast.Assign) and any(True for _ in _keys(above.value))


def _stands_for_a_state(module: Module, node: ast.Attribute) -> bool:
    above = module.tree.parents[node]
    if node.attr == "load_state_dict":
        return False
    if isinstance(above, ast.Dict | ast.List | ast.Tuple):
        return True
    if isinstance(above, ast.Call):
        return above.func is not node and called(above) in _TAKES
    if isinstance(above, ast.Assign):
        return any(isinstance(target, ast.Subscript) for target in above.targets)
    return isinstance(above, ast.Subscript) and above.slice is node


def keys_never_saved(module: Module) -> Iterator[tuple[ast.Call, str, str, bool]]:
    """Walk the loads of a scaler's state by a key that no code writes: that key, the one saved, whether it is here."""
    for load in restored(module).get("scaler", ()):
        given = [part for given in load.args for part in (given, *assigned(module, given))]
        asked = [name for part in given for name in _keys(part)]
        if len(asked) != 1 or _is_written(module, asked[0]):
            continue
        here = [name for name, _ in _SAVED_AS.findall(module.text)]
        kept = here or [n for _, text in module.project.texts(*STATE_WORDS) for n, _ in _SAVED_AS.findall(text)]
        if kept and asked[0] not in kept:
            yield load, asked[0], kept[0], bool(here)


def _keys(node: ast.expr) -> Iterator[str]:
    """Walk the last literal keys of `states["scaler"]` and `states.get("scaler")`."""
    for part in walk(node):
        index = part.slice if isinstance(part, ast.Subscript) else None
        if isinstance(part, ast.Call) and called(part) in ("get", "pop") and part.args:
            index = part.args[0]
        if isinstance(index, ast.Constant) and isinstance(index.value, str):
            yield index.value


def _is_written(module: Module, name: str) -> bool:
    """Whether any file may write the key: in a dictionary, by an item, as a keyword, or in a list of keys."""
    quoted = rf"[\"']{re.escape(name)}[\"']"
    written = re.compile(rf"(?<!get\()(?<!pop\(){quoted}\s*[:,)]|{quoted}\]\s*=(?!=)|\b{re.escape(name)}\s*=(?!=)")
    return module.project.says(written)
