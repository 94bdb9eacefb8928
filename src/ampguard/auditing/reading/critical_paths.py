"""What stands along the critical paths of one file, as facts: training steps, precision, trackers, checkpoints.

A fact is (name, "LINE text"), where the text is a phrase for a reader. Nothing is judged here: whether a handler
around a step is right or wrong is what the rules say.
"""

import ast
from collections.abc import Iterable, Iterator

from ampguard.auditing.reading.checkpoints import renames
from ampguard.auditing.reading.critical import critical_calls
from ampguard.auditing.reading.handlers import Catch, catch_of, catches
from ampguard.auditing.reading.kinds import TRACKERS, critical_operation, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import UNKNOWN, Region, regions_in
from ampguard.auditing.reading.scenario_places import tracker_called
from ampguard.auditing.reading.tree import Function, argument, key, walk_scope

STEP, HANDLER = "path: training step", "path: handler around critical operations"
PRECISION = "path: precision set-up"
TRACKER, TRACKER_HANDLED = "path: tracker call", "path: tracker call with a handler"
SAVE, LOAD = "path: checkpoint save", "path: checkpoint load"

_STEPS = ("backward", "optimizer step", "scaler step", "scaler update")
_WORDS = ("backward(", "GradScaler", "autocast", "torch.save", "torch.load", "checkpoint", ".step(", *TRACKERS, "riter")


def critical_path_facts(module: Module) -> list[tuple[str, str]]:
    """Return the facts of one file, by name and line; [] for a test."""
    if module.role == "test" or not module.mentions(_WORDS):
        return []
    found = [*_steps(module), *_handlers(module), *_precision(module), *_trackers(module), *_checkpoints(module)]
    return [(name, f"{line} {text}") for name, line, text in found]


Told = Iterator[tuple[str, int, str]]


def told(catch: Catch) -> str:
    """Return what a handler does with what it catches, as a phrase."""
    if catch.leaves:
        return "which tells and raises" if catch.logs else "which raises"
    if catch.raises:
        return "which raises in some cases"
    if catch.tells:
        return "which tells and goes on"
    return "which tells nobody"


def _steps(module: Module) -> Told:
    """Yield each function that runs parts of a training step itself."""
    for function, calls in _by_function(module, module.calls_of("backward", "step", "update")):
        operations = dict.fromkeys(critical_operation(module, call) or "" for call in calls)
        parts = [name for name in operations if name in _STEPS]
        if parts and ("backward" in parts or len(parts) > 1):
            around = _around(module, [call for call in calls if critical_operation(module, call) in _STEPS])
            name = f"`{function.name}`" if function else "module level"
            yield STEP, function.lineno if function else calls[0].lineno, f"{name} ({', '.join(parts)}): {around}"


def _around(module: Module, calls: list[ast.Call]) -> str:
    handlers = {
        handler: None for call in calls for block in module.tree.handlers_around(call) for handler in block.handlers
    }
    if not handlers:
        return "no handler inside, errors reach the caller"
    return "; ".join(
        f"{catch.label} at line {catch.node.lineno}, {told(catch)}" for catch in _catches(module, handlers)
    )


def _catches(module: Module, handlers: Iterable[ast.ExceptHandler]) -> list[Catch]:
    return [catch_of(module, handler) for handler in handlers]


def _handlers(module: Module) -> Told:
    """Yield each handler whose block runs a critical operation by a call of the project's functions."""
    for catch in catches(module) if module.mentions(("except", "suppress")) else ():
        for critical in critical_calls(module, catch.guarded):
            if not critical.direct:
                helper = f"`{module.segment(critical.call.func)}()`"
                within = f"around {helper} (critical: its first operation is a {critical.operation})"
                yield HANDLER, catch.node.lineno, f"{catch.label} {within}, {told(catch)}"
                break


def _precision(module: Module) -> Told:
    """Yield each scaler that is made and each autocast that is entered, with what decides about it."""
    for call in scaler_constructions(module) if module.mentions(("GradScaler",)) else ():
        yield PRECISION, call.lineno, f"`{module.segment(call)}`, {_condition(module, call)}"
    for region in regions_in(module) if module.mentions(("autocast",)) else ():
        yield PRECISION, region.call.lineno, f"`{module.segment(region.call)}`, {_enabled(module, region)}"


def _condition(module: Module, call: ast.Call) -> str:
    """Return on what the construction of a scaler depends, as it is written around it."""
    flag = argument(call, None, "enabled")
    if flag is not None:
        return f"enabled by `{module.segment(flag)}`"
    below: ast.AST = call
    for above in module.tree.above(call):
        if isinstance(above, ast.IfExp) and below is not above.test:
            other = above.orelse if below is above.body else above.body
            condition = f"`{module.segment(above.test)}`"
            return f"{'if' if below is above.body else 'unless'} {condition}, else `{module.segment(other)}`"
        if isinstance(above, ast.If) and below is not above.test:
            return f"{'under' if below in above.body else 'in the else branch of'} `if {module.segment(above.test)}`"
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
        below = above
    return "always"


def _enabled(module: Module, region: Region) -> str:
    if region.enabled is False:
        return "switched off"
    dtype = "its dtype is not written here" if region.certain == UNKNOWN else f"computes in {region.certain}"
    depends = region.flag is not None and not isinstance(region.flag, ast.Constant)
    return f"{dtype}, enabled by `{module.segment(region.flag)}`" if depends and region.flag is not None else dtype


def _trackers(module: Module) -> Told:
    """Yield each call of a tracker, with the handlers around it."""
    for call, done in tracker_called(module):
        handlers = [h for block in module.tree.handlers_around(call) for h in block.handlers]
        broad = next((c for c in _catches(module, handlers) if c.broad), None)
        if broad is not None:
            yield TRACKER_HANDLED, call.lineno, f"`{done}`: {broad.label} at line {broad.node.lineno}, {told(broad)}"
        else:
            loop = " in a loop" if any(True for _ in module.tree.loops(call)) else ""
            yield TRACKER, call.lineno, f"`{done}`{loop}: no handler of any exception in this function"


def _checkpoints(module: Module) -> Told:
    """Yield each checkpoint that is written or read."""
    for _, calls in _by_function(module, module.calls_of("save", "save_file", "load", "load_file")):
        for call in calls:
            operation = critical_operation(module, call)
            if operation == "checkpoint save":
                moved = _moved(module, call)
                how = f"then moved into place at line {moved}" if moved else "written where it stays"
                yield SAVE, call.lineno, f"`{module.segment(call)}`, {how}; {_around(module, [call])}"
            elif operation == "checkpoint load":
                yield LOAD, call.lineno, f"`{module.segment(call)}`; {_around(module, [call])}"


def _moved(module: Module, save: ast.Call) -> int | None:
    """Return the line of a later rename, in the same function, of what a save has written."""
    path = save.args[1] if len(save.args) > 1 else argument(save, None, "f")
    if path is None:
        return None
    opened = module.names.values(path.id, path) if isinstance(path, ast.Name) else []
    written = {mark for one in (path, *opened) for mark in _marks(module, one)}
    scope = module.tree.function(save) or module.root
    later = (c for c in module.tree.all(ast.Call) if c.lineno >= save.lineno and renames(module, c))
    return next((c.lineno for c in later if module.tree.scope(c) is scope and written & _marks(module, c)), None)


def _marks(module: Module, node: ast.AST) -> set[str]:
    """Return what says which file an expression is about: names that are no functions or modules, and written paths."""
    found = set()
    for inner in (node, *walk_scope(node)):
        above = module.tree.parents.get(inner)
        place = None if isinstance(above, ast.Call) and above.func is inner else key(inner)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and "." in inner.value:
            found.add(inner.value)
        elif place and not _is_imported(module, inner):
            found.add(place)
    return found - {"self"}


def _is_imported(module: Module, node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    return bound is not None and any(binding.kind == "import" for binding in bound[1])


def _by_function(module: Module, calls: Iterable[ast.Call]) -> list[tuple[Function | None, list[ast.Call]]]:
    """Return the critical ones of the calls, by the function they stand in, in source order."""
    found: dict[Function | None, list[ast.Call]] = {}
    for call in sorted(calls, key=lambda c: (c.lineno, c.col_offset)):
        if critical_operation(module, call) is not None:
            found.setdefault(module.tree.function(call), []).append(call)
    return sorted(found.items(), key=lambda item: item[1][0].lineno)
