"""Schedules that another file steps than the one that saves: in a derived class, or in the script that calls the saver.

And those that stand beside the state of a `fabric.save(path, state)`, which holds the objects themselves.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.checkpoints import SAVES, Save
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope

_STEPPED = regex(r"^[^#\n]*?((?:self\.)?\w*(?:sched|scheduler)\w*)\.step\(\s*\)", re.MULTILINE)
_BASES = regex(r"^\s*class \w+\(([^)]*)\)", re.MULTILINE)
_STATED = regex(
    r"sched\w*[\])\"']*\.(load_)?state_dict\(|[(,]\s*last_epoch\s*=\s*(?!-\s*1\b|last_epoch\b)|sched\w*\.last_epoch\s*=[^=]|[\"']\w*(sched|lr_s)\w*[\"']\s*:\s*\w*sched"
)
_MOVER = regex(r"sched\w*_?(step|update)|(step|update)\w*_?sched", re.IGNORECASE)


def stepped_elsewhere(module: Module, save: Save) -> str | None:
    """Return the schedule, as its file calls it, that goes with what a save holds and whose state nothing keeps."""
    if "test" in module.path or kept_anywhere(module.project):
        return None
    cls, function = module.tree.class_of(save.call), module.tree.function(save.call)
    if cls is not None:
        held = [f"self.{name}" for name, values in attributes(module, cls).items() if "sched" in name and values]
        near = [(found, words) for found, words in _steps(module.project) if cls.name in words]
        beside = (place for place in held if any(place in found for found, _ in near))
        derived = (place for found, words in near if f"({cls.name})" in words for place in sorted(found))
        told = _by_its_users(module, save, cls)
        return next(iter((*beside, *(place for place in derived if place.startswith("self.")), *told)), None)
    if function is None or not SAVES.search(function.name):
        return None
    stem = module.path.removesuffix(".py").rpartition("/")[2]
    callers = (found for found, words in _steps(module.project) if {f"{function.name}(", stem} <= words)
    return next((place for found in callers for place in sorted(found)), None)


def _by_its_users(module: Module, save: Save, cls: ast.ClassDef) -> Iterator[str]:
    """Walk the schedules of the files that make an object of a class which only saves, and call its saver."""
    saver = module.tree.function(save.call)
    if saver is None or not SAVES.search(saver.name) or _holds_optimizer(module, cls):
        return
    for found, words in _steps(module.project):
        if {f"{saver.name}(", f"{cls.name}("} <= words:
            yield from sorted(found)


def _holds_optimizer(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class keeps an optimizer, and so may be the one that trains."""
    return any("optim" in name for name in attributes(module, cls))


def moved_by_others(module: Module) -> str | None:
    """Return the method, with its object, that moves the schedules of a class of another file: by its name there."""
    if not module.mentions(("sched",)) or "test" in module.path or kept_anywhere(module.project):
        return None
    for name, calls in module.calls.items():
        if not _MOVER.search(name) or name == "step" or receiver(calls[0]) is None:
            continue
        body = re.compile(rf"def {name}\(\s*self\b[^\n]*\n(?:[^\n]*\n){{0,15}}?[^\n#]*sched\w*(\[\w+\])?\.step\(\)")
        if any(f"def {name}(" in text and body.search(text) for _, text in module.project.texts("sched")):
            return f"{key(receiver(calls[0]))}.{name}()"
    return None


def kept_anywhere(project: Project) -> bool:
    """Whether any file speaks of a schedule's state."""
    if "keeps a schedule" not in project.memo:
        near = (text for path, text in project.texts() if "test" not in path and "sched" in text)
        project.memo["keeps a schedule"] = any(_STATED.search(text) for text in near)
    return bool(project.memo["keeps a schedule"])


def _steps(project: Project) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Return, for each file that steps a schedule, how it calls it, and the words and calls in the file."""
    if "files that step a schedule" not in project.memo:
        found = []
        for path, text in project.texts():
            places = frozenset(_STEPPED.findall(text)) if "test" not in path and "sched" in text else frozenset()
            if places:
                found.append((places, _words(text)))
        project.memo["files that step a schedule"] = found
    known: list[tuple[frozenset[str], frozenset[str]]] = project.memo["files that step a schedule"]
    return known


def _words(text: str) -> frozenset[str]:
    """Return the words of a file, calls as `name(`, and the bases of its classes as `(Base)`."""
    bases = (f"({base})" for given in _BASES.findall(text) for base in re.findall(r"\w+", given))
    return frozenset((*re.findall(r"\b\w+\(?", text), *re.findall(r"\w+", text), *bases))


def states_of_fabric(module: Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Walk (the state, the schedule stepped beside it) of a Fabric's checkpoint that holds model and optimizer."""
    if "abric" not in module.text or "last_epoch" in module.text:
        return
    for step in module.calls_of("step"):
        schedule, function = receiver(step), module.tree.function(step)
        if schedule is None or function is None or step.args or not is_scheduler(module, schedule):
            continue
        handed = {key(v) for c in walk_scope(function) if isinstance(c, ast.Call) for v in _saved_by(c)}
        for node in walk_scope(function):
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            bound = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if key(bound) in handed and _lacks_schedule(module, node.value) and not _added(function, key(bound) or ""):
                yield node.value, schedule
        return


def _saved_by(call: ast.Call) -> list[ast.expr]:
    if not SAVES.search(called(call)) or called(call) == "state_dict":
        return []
    return [*call.args, *(k.value for k in call.keywords)]


def _lacks_schedule(module: Module, value: ast.expr) -> bool:
    """Whether a state holds the objects of model and optimizer under names, and no schedule."""
    if isinstance(value, ast.Dict):
        names = [(getattr(k, "value", None), v) for k, v in zip(value.keys, value.values, strict=True)]
    elif isinstance(value, ast.Call) and not value.args:
        names = [(k.arg, k.value) for k in value.keywords]
    else:
        return False
    if any(not isinstance(name, str) for name, _ in names):
        return False
    kinds = set().union(*(kinds_of_word(str(name)) for name, _ in names)) if names else set()
    objects = any(is_optimizer(module, v) for _, v in names)
    return (
        objects and {"model", "optimizer"} <= kinds and "scheduler" not in kinds and "sched" not in ast.unparse(value)
    )


def _added(function: ast.AST, place: str) -> bool:
    """Whether a schedule is put into a state afterwards."""
    return any(
        isinstance(n, ast.Subscript) and key(n.value) == place and "sched" in ast.unparse(n.slice)
        for n in walk_scope(function)
    )
