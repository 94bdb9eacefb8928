"""Devices that a file sets to a GPU by its name and moves things to: `device = "cuda"`, then `model.to(device)`.

The same fault as `model.to("cuda")`, with the name between: also an attribute (`config.device`, `self.device`), and a
constant of the file that others import.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.rules.amp._devices.demands import names_gpu

_SET = regex(r"device\w*(\s*:[^=\n]+)?\s*=\s*(torch\.device\()?f?[\"']cuda", re.IGNORECASE)
_DEVICE = regex(r"(\w+_)?device", re.IGNORECASE)
_MOVES = ("to", "device", "to_device", "move_to_device")


def fixed_devices(module: Module) -> Iterator[ast.expr]:
    """Walk the values that name a GPU, of places that get no other value and that things are moved to."""
    if not _SET.search(module.about("cuda")):
        return
    for node in module.tree.all(ast.Assign, ast.AnnAssign):
        if node.value is None or not names_gpu(node.value) or isinstance(node.value, ast.Lambda):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            place = key(target) or ""
            if not _DEVICE.fullmatch(place.rpartition(".")[2]) or not _is_all(module, target, place):
                continue
            if _is_moved_to(module, target, place) or _is_shared(module, node, place):
                yield node.value


def cuda_where_none_is_told(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk the GPUs that a parameter becomes where nobody says another device: `if device is None: device = "cuda"`."""
    if not _SET.search(module.about("cuda")) or _MAY_BE_ANOTHER.search(module.text):
        return
    for node in module.tree.all(ast.Assign):
        above, place = module.tree.parents[node], key(node.targets[0]) or ""
        if not isinstance(above, ast.If) or not names_gpu(node.value) or not _DEVICE.fullmatch(place):
            continue
        if ast.unparse(above.test) in (f"{place} is None", f"not {place}") and node in above.body:
            yield node.value, place


_MAY_BE_ANOTHER = regex(r"is_available|device_count|nccl|init_process_group|import triton")


def _is_all(module: Module, target: ast.expr, place: str) -> bool:
    """Whether every value that a place gets in the file, or in the scope of a name, is a GPU."""
    values = assigned(module, target) or [v for at, v in _attributes(module) if at == place]
    found = module.names.lookup(place, target) if isinstance(target, ast.Name) else None
    given = found is not None and any(b.kind == "parameter" for b in found[1])
    return not given and bool(values) and all(names_gpu(value) for value in values)


def _attributes(module: Module) -> list[tuple[str, ast.expr]]:
    """Return what attributes of any object are set to, with their keys."""
    return module.once(
        "values of attributes",
        lambda: [
            (key(t) or "", a.value)
            for a in module.tree.all(ast.Assign)
            for t in a.targets
            if isinstance(t, ast.Attribute)
        ],
    )


def _is_moved_to(module: Module, target: ast.expr, place: str) -> bool:
    """Whether something is moved to a place, made on it, or handed it as its device; a name's own scope counts."""
    uses = module.once("places moved to", lambda: _moved_to(module)).get(place, [])
    if not isinstance(target, ast.Name):
        return bool(uses)
    own = module.names.lookup(place, target)
    return own is not None and any((module.names.lookup(place, use) or own)[0] is own[0] for use in uses)


def _moved_to(module: Module) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for calls in module.calls.values():
        for call in calls:
            given = [k.value for k in call.keywords if k.arg in ("device", "map_location", "device_map")]
            for device in (*given, *(call.args[:1] if called(call) in _MOVES else ())):
                found.setdefault(key(device) or "", []).append(device)
    return found


def _is_shared(module: Module, node: ast.stmt, place: str) -> bool:
    """Whether a constant of the file itself is what other files move things to."""
    if module.tree.parents[node] is not module.root or not place.isupper():
        return False
    return module.project.says(re.compile(rf"\bto\(\s*{place}\b|device\s*=\s*{place}\b"), place)
