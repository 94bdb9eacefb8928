"""Models that get their weights in a file and run there, where nothing puts them into evaluation mode."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.models_here import runs_of
from ampguard.auditing.rules.amp._evaluation.modes import SETTLES, runs
from ampguard.auditing.rules.amp._evaluation.restored_elsewhere import restored_elsewhere
from ampguard.auditing.rules.amp._evaluation.runs import (
    mode_calls,
    off_around,
    source,
)
from ampguard.auditing.rules.amp._evaluation.unswitched import SETS_MODE, SWITCHED_WITH
from ampguard.auditing.rules.amp._steps import bound_to, enclosing


def loaded_and_run(module: Module) -> Iterator[tuple[ast.Call, str, int]]:
    """Walk the runs, without gradients, of models that only read their weights: the run, the model, the line of that.

    For files that do not train.
    """
    seen: set[str] = set()
    for load, place in _loads(module):
        if place in seen:
            continue
        handed = list(_handed_on(module, place, load))
        for call, name in (*((c, place) for c in runs_of(module, place)), *handed):
            used = off_around(module, call) or _settles(module, call)
            met = name != place or (call, name) in handed or _meet(module, place, load, call)
            if used and met and not mode_said(module, place, call) and not mode_said(module, name, call):
                seen.add(place)
                yield call, name, load.lineno
                break


def _loads(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls that read a model's weights, or a whole model, with the model's key."""
    for load in module.calls.get("load_state_dict", ()):
        if place := key(receiver(load)):
            yield load, place
    yield from restored_elsewhere(module)
    for load in module.calls.get("load", ()):
        if "torch.load" in module.names.dotted(load.func) and (place := _loaded_whole(module, load)):
            yield load, place
    for node in (n for n in module.tree.all(ast.Assign) if isinstance(n.value, ast.Call)):
        place = key(node.targets[0])
        made = None
        if place and runs(module, place):
            made = target(module, node.value, ("load_state_dict",))
        if made is None or not place or made[1].name == "__init__" or SETS_MODE.search(source(*made)):
            continue
        if _gives_loaded(made[1]):
            yield node.value, place


def _gives_loaded(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function returns a model into which it has read weights, and nothing else."""
    inner = [n for n in walk_scope(function) if isinstance(n, ast.Call)]
    loaded = {key(receiver(c)) for c in inner if called(c) == "load_state_dict"}
    given = [n.value for n in walk_scope(function) if isinstance(n, ast.Return)]
    return bool(given) and all(v is not None and key(v) is not None and key(v) in loaded for v in given)


def _loaded_whole(module: Module, load: ast.Call) -> str | None:
    """Return the name of what `model = torch.load(path)` gives, `.to(device)` and the like behind it."""
    statement = module.tree.statement(load)
    value = statement.value if isinstance(statement, ast.Assign) else None
    while isinstance(value, ast.Call) and value is not load and called(value) in ("to", "cuda", "cpu", "float"):
        value = receiver(value)
    return bound_to(module, load) if value is load else None


def _handed_on(module: Module, place: str, load: ast.Call) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, the model's key there) in functions of the file that are handed a model behind its load."""
    for call in (n for n in walk_scope(enclosing(module, load)) if isinstance(n, ast.Call) and n.lineno > load.lineno):
        given = (*call.args, *(k.value for k in call.keywords))
        if called(call) not in module.function_names or place not in map(key, given):
            continue
        found = target(module, call)
        if found is None or found[0] is not module:
            continue
        for arg, _ in parameters(found[1]):
            if key(argument_for(call, found[1], arg.arg)) == place:
                yield from ((c, arg.arg) for c in runs_of(module, arg.arg) if module.tree.function(c) is found[1])


def mode_said(module: Module, place: str, run: ast.Call) -> bool:
    """Whether anything in a file puts a model of that name into a mode, or something in the function around its run."""
    around = enclosing(module, run)
    text = source(module, around) if isinstance(around, FUNCTIONS) else module.text
    if SETS_MODE.search(text) or _SWITCHES_BY_NAME.search(text):
        return True
    said = [key(receiver(c)) or "" for c in (*mode_calls(module, "eval"), *mode_calls(module, "train"))]
    names = {name.removesuffix(".module").rpartition(".")[2] for name in said}
    return bool(names & {place.rpartition(".")[2], "", "self", "m", "module"})


_SWITCHES_BY_NAME = regex(r"\b(set|to|make|switch|put|turn)\w*eval\w*\(|\.train\(|training\s*=")


def _settles(module: Module, call: ast.Call) -> bool:
    """Whether a file that trains nothing takes values out of what its models give."""
    around = enclosing(module, call)
    text = source(module, around) if isinstance(around, FUNCTIONS) else module.text
    return not re.search(r"optim|[lL]oss|[tT]rainer", module.text) and bool(SETTLES.search(text))


def _meet(module: Module, place: str, one: ast.Call, other: ast.Call) -> bool:
    if place.startswith("self."):
        owner = module.tree.class_of(one)
        parts = owner is not None and any(SWITCHED_WITH.search(ast.unparse(b)) for b in owner.bases)
        return owner is not None and not parts and module.tree.class_of(other) is owner
    return enclosing(module, one) is enclosing(module, other) and one.lineno < other.lineno
