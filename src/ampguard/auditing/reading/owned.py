"""Which objects with state a file's training code owns: optimizers and schedules, by their places (`object_places`)."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.object_places import Place, last_name, places_of
from ampguard.auditing.reading.source import lines_about
from ampguard.auditing.reading.tree import called, key, receiver

_METRIC = regex(r"loss|metric|acc|score|val|err|mean|avg|ppl|bleu|auc|f1|reward|miou|dice|best", re.IGNORECASE)
_WHEN = regex(r"epoch|step|iter|\bit\b|\bi\b", re.IGNORECASE)
_OF_OTHERS = regex(
    r"(^|[._])(pp|pipe\w*|noise|mask|ema|beta|temp\w*|kl|batch|sampl\w*|curricul\w*|diffusion|ddim|ddpm|flow|eps\w*"
    r"|train_noise|task|data|job|ray|tf|teacher\w*|prof\w*)_?\w*sched|diffusion|\.scheduler\.step\(",
    re.IGNORECASE,
)
"""Schedules of pipelines, of noise and the like move no learning rate."""

_TRAINS = regex(r"train|fit|epoch|run|step|update|learn|optimi[sz]e|loop|main|worker", re.IGNORECASE)


@dataclass(frozen=True)
class Owned:
    """An optimizer or a schedule at work, and where that is seen.

    Attributes:
        place: The place that it is named by: the attribute of `self` where it has one.
        kind: "optimizer" or "scheduler".
        at: The expression that moves it, or that it is made for.
        aliases: The other places of the same object.
    """

    place: Place
    kind: str
    at: ast.expr
    aliases: tuple[Place, ...] = ()


def owned(module: Module) -> list[Owned]:
    """Return the optimizers and schedules that the file steps, or makes and hands to what trains."""
    return module.once("owned objects", lambda: list(_owned(module)))


def _owned(module: Module) -> Iterator[Owned]:
    known: set[Place] = set()
    for node, kind in (*_stepped(module), *_made(module), *_given(module)):
        if _NO_OBJECT.search(key(node) or ""):
            continue
        places = list(places_of(module, node))
        each = [p for p in places[1:] if p.name.endswith("[]") or isinstance(p.home, ast.ClassDef)]
        best = min(each, key=lambda p: p.name.endswith("[]")) if each else places[0]
        if not known & set(places):
            known |= set(places)
            yield Owned(best, kind, node, tuple(p for p in places if p != best))


def _stepped(module: Module) -> Iterator[tuple[ast.expr, str]]:
    for call in module.calls_of("step"):
        owner = receiver(call)
        for given in call.args[:1]:
            if (
                owner is not None
                and not _is(module, owner, is_scheduler)
                and _is_object(given)
                and _is(module, given, is_optimizer)
            ):
                yield given, "optimizer"
        if owner is None or not _is_object(owner):
            continue
        if _is(module, owner, is_scheduler):
            if (
                moves_by_itself(call)
                and not catches_up(module, owner)
                and not _caught_up_by_others(module, owner)
                and not _OF_OTHERS.search(key(owner) or "")
            ):
                yield owner, "scheduler"
        elif _is(module, owner, is_optimizer):
            yield owner, "optimizer"


def _is(module: Module, node: ast.expr, asks: Callable[[Module, ast.expr | None], bool]) -> bool:
    """Whether an expression, or the container that it is an item of, is such a thing."""
    return asks(module, node) or (isinstance(node, ast.Subscript) and asks(module, node.value))


def _is_object(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and key(node) not in (None, "self", "cls")


def moves_by_itself(call: ast.Call) -> bool:
    """Whether a schedule's step counts on, or follows a metric; one that is told the epoch knows where it is."""
    return not told(" ".join(ast.unparse(v) for v in (*call.args, *(k.value for k in call.keywords))))


def catches_up(module: Module, owner: ast.expr) -> bool:
    """Whether a file moves its schedule to where it was by hand: steps alone in a loop, `last_epoch`."""
    return module.once(("catches up", key(owner)), lambda: _catches_up(module, key(owner) or ""))


_SET = regex(r"(\.(last_epoch|_step_count|last_step)|\[[\"']last_(epoch|iter|step)[\"']\])\s*=(?!=)")


def _catches_up(module: Module, place: str) -> bool:
    if starts_later(module):
        return True
    for call in module.calls_of("step"):
        loop = next(module.tree.loops(call), None)
        if key(receiver(call)) == place and loop is not None and all(map(_is_step, loop.body)):
            return True
    return False


def _is_step(statement: ast.stmt) -> bool:
    """Whether a statement does nothing but move one schedule."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Call) and called(value) == "step"


_LATER = regex(r"[(,]\s*last_epoch\s*=\s*(?!-\s*1\s*[,)]|last_epoch\b|None\b)")


def _caught_up_by_others(module: Module, owner: ast.expr) -> bool:
    """Whether a schedule is given to the function that moves it, in a project that makes one begin later."""
    bound = module.names.lookup(owner.id, owner) if isinstance(owner, ast.Name) else None
    given = bound is not None and any(b.kind == "parameter" for b in bound[1])
    return given and module.project.says(_LATER, "last_epoch")


def starts_later(module: Module) -> bool:
    """Whether a schedule of the file is made to begin at another epoch than the first."""
    return module.once("schedules that start later", lambda: "last_" in module.text and _starts_later(module))


def _starts_later(module: Module) -> bool:
    if _SET.search(module.text):
        return True
    given = ((c, k) for calls in module.calls.values() for c in calls for k in c.keywords if k.arg == "last_epoch")
    return any(not _is_default(module, k.value) for c, k in given if called(c) != "__init__")


def _is_default(module: Module, value: ast.expr) -> bool:
    if isinstance(value, ast.Name):
        bound = module.names.lookup(value.id, value)
        return bound is None or all(b.kind == "parameter" for b in bound[1])
    return ast.unparse(value) in ("-1", "None")


def _made(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk the names that are made an optimizer or a schedule and handed to what trains."""
    handed = module.once("handed to training", lambda: _handed_to_training(module))
    for node in module.tree.all(ast.Assign):
        if not isinstance(node.value, ast.Call) or called(node.value) in ("load", "prepare", "get", "pop"):
            continue
        for target in node.targets:
            for part in getattr(target, "elts", [target]):
                if not _is_object(part) or _NO_OBJECT.search(key(part) or ""):
                    continue
                own = (key(part) or "").startswith("self.")  # whoever has the object may move what it holds
                if isinstance(part, ast.Subscript) or (key(part) not in handed and not own):
                    continue
                if _is(module, part, is_scheduler):
                    if (
                        _is_moved(module, part)
                        and not catches_up(module, part)
                        and _is_rate(node.value)
                        and not _OF_OTHERS.search(key(part) or "")
                    ):
                        yield part, "scheduler"
                elif key(part) in handed and _is(module, part, is_optimizer) and _is_optimizers(module, node.value):
                    yield part, "optimizer"


_NO_OBJECT = regex(
    r"_(at|name|type|cfg|config|conf|params|kwargs|args|class|cls|fn|step|steps|stepper|index|idx|hook|interval|freq|key|path|state)$"
)
_MOVED = regex(r"\b_?(\w*sched\w*)\.step\(([^)\n]*)")
_TOLD = regex(r"(?<![\w.])_?(\w*sched\w*)\(\s*\w*(?:step|epoch|iter)\w*\s*\)")
"""A schedule that is a function of the step."""

_SPOKEN_OF = regex(r"\b_?(\w*sched\w*)\.(?:load_)?state_dict\(")


def _is_moved(module: Module, part: ast.expr) -> bool:
    """Whether some file moves a schedule of this name, and never says to where; by others where no file saves it."""
    memo = module.project.memo
    if "names of moved schedules" not in memo:
        texts = [
            lines_about(text, ("sched", "step", "epoch", "iter"))
            for path, text in module.project.texts("sched")
            if "test" not in path
        ]
        steps = {(name, told(words)) for text in texts for name, words in _MOVED.findall(text)}
        moved = {name for name, where in steps if not where} - {name for name, where in steps if where}
        moved -= {name for text in texts for name in _TOLD.findall(text)}
        memo["names of moved schedules"] = moved
        memo["schedules spoken of"] = {name for text in texts for name in _SPOKEN_OF.findall(text)}
    place = key(part) or ""
    last = last_name(place).partition("[")[0].lstrip("_")
    return last in memo["names of moved schedules"] and not (
        place.startswith("self.") and last in memo["schedules spoken of"]
    )


def told(words: str) -> bool:
    """Whether a schedule's step is told where it is: by anything but a metric to follow."""
    return bool(words.strip()) and (not _METRIC.search(words) or bool(_WHEN.search(words)))


_STATES = regex(r"save|load|resume|restore|ckpt|checkpoint|snapshot", re.IGNORECASE)
_OBJECTS = regex(
    r"(?!use_|no_|skip_|with_|only_|reload_|restore_|resume_|reset_|ignore_|save_|load_|has_|is_|reset_)\w*(optim|sched)\w*(?<!_name)(?<!_type)(?<!_path)(?<!_cfg)(?<!_state)"
)


def _given(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk the optimizers and schedules that functions which save or load states are given, each as a name."""
    for function in module.functions:
        above = module.tree.parents.get(function)
        if not _STATES.search(function.name) or (isinstance(above, ast.ClassDef) and above.bases):
            continue
        for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            if _OBJECTS.fullmatch(arg.arg) and not _PLAIN.search(ast.unparse(arg.annotation) if arg.annotation else ""):
                found = module.tree.named(arg.arg, function)
                name = found[0] if found else _stand_in(module, arg, function)
                kind = "scheduler" if "sched" in arg.arg else "optimizer"
                if kind == "optimizer" or not (starts_later(module) or _OF_OTHERS.search(arg.arg)):
                    yield name, kind


_PLAIN = regex(r"\b(str|bool|int|float|dict|Dict|list|List|Path)\b")


def _stand_in(module: Module, arg: ast.arg, function: ast.AST) -> ast.expr:
    """Return a name for a parameter that its function never reads."""
    name = ast.copy_location(ast.Name(arg.arg, ast.Load()), arg)
    module.tree.parents[name] = function.body[0]  # type: ignore[attr-defined]
    return name


def _is_rate(value: ast.Call) -> bool:
    return "optim" in ast.unparse(value).lower() or "opt" in " ".join(ast.unparse(a) for a in value.args)


def _is_optimizers(module: Module, value: ast.Call) -> bool:
    return (
        any(n.startswith("torch.optim.") for n in module.names.dotted(value.func)) or "optim" in called(value).lower()
    )


def _handed_to_training(module: Module) -> frozenset[str]:
    found = set()
    for name, calls in module.calls.items():
        for call in calls if _TRAINS.search(name) and "load" not in name and "sched" not in name.lower() else ():
            found |= {key(v) for v in (*call.args, *(k.value for k in call.keywords))}
    return frozenset(place for place in found if place)
