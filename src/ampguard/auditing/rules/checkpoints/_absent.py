"""Scalers whose state no code keeps: found by what is nowhere, where the way of a checkpoint cannot be followed.

Four shapes, each a sign of its own: the optimizer's state is put away in code that nowhere speaks of a scaler's; an
optimizer is handed to what saves, beside a scaler at work; a scaler's state is loaded that nothing saves; a class
works with a scaler of its own and keeps its state out of the checkpoints that the project writes.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases
from ampguard.auditing.reading.checkpoints import SAVES, STATE_WORDS, scaler_at, scalers
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk, walk_scope

_AT_WORK = regex(r"GradScaler\(|\bscaler\w*\.scale\(|NativeScaler|ScalerWithGradNormCount")
_KEPT = regex(
    r"scaler\w*(\.\w+)*\.(load_)?state_dict|[\"']\w*scaler\w*[\"']\s*:|\[[^\]\n]*scaler\w*[^\]\n]*\]\s*=(?!=)"
    r"|register_for_checkpointing\(|\bsave_state\(|scaler\w*\.__dict__",
    re.IGNORECASE,
)
_SAVED = regex(r"scaler\w*[\"'\])]*(\.\w+|\[[^\]\n]*\]|\(\))*\.(state_dict|__dict__|get_state)", re.IGNORECASE)
_LOADS = regex(r"\.load_state_dict\(")
_LOADED = regex(
    r"scaler\w*[\"'\])]*(\.\w+|\[[^\]\n]*\]|\(\))*\.load_state_dict\(|load_state_dict\([^\n]*scaler"
    r"|getattr\([^\n]*load_state_dict|for [^\n]*:\n[^\n]*\b(?!model|net|optim|sched)\w+\.load_state_dict\("
    r"|(load|resume|restore)\w*\([^)]*scaler",
    re.IGNORECASE,
)
"""What may load a scaler's state: its own call, a loop over objects, a function that is given the scaler."""

_ANY_SAVED = regex(
    r"\bgetattr\([^\n]*state_dict"
    r"|\bstate_dict\(\)\s*(if [^\n]*\s)?for (\w+, )?\w+ in (?!(zip\()?(\w+\.)*\w*(optim|sched|model|net)\w*)",
    re.IGNORECASE,
)
"""What may save any object's state: not a comprehension over what are optimizers, schedulers or models by name."""

_OPTIMIZER_SAVED = regex(r"optim\w*(\.\w+|\[[^\]\n]*\])*\.state_dict\(", re.IGNORECASE)
_SWITCHED_OFF = regex(r"GradScaler\((?:[^()\n]*,\s*)?enabled\s*=\s*False\)")
_RESTORES = regex(r"restore|backup|rollback|copy|clone|swap|reset|compare|test", re.IGNORECASE)
_SAVING = regex(
    r"_*(save|write|store|dump)_?(\w+_)?(checkpoint|ckpt|model|models|state|states|snapshot|best|last|all|everything|run|training)s?"
    r"|checkpoint_?(save|model|state)|save|save_\w*",
    re.IGNORECASE,
)

_NO_CHECKPOINT = regex(r"image|img|png|plot|fig|video|wav|audio|csv|json|config|pretrained|grid|sample", re.IGNORECASE)
_FLAG = regex(r"(^|[._])(save|use|with|load|has|is|no|include)_\w*$", re.IGNORECASE)
_HOLDERS = regex(r"(^|[._'])(self|(\w*_)?(trainer|engine|runner|kwargs|extras?|objects?|states?))$", re.IGNORECASE)

Absence = tuple[ast.AST, str]
"""Where to point, and what is missing there, as words."""


def absences(module: Module, told: set[str]) -> Iterator[Absence]:
    """Walk the places of a file from which a scaler's state is missing, as far as names tell.

    Args:
        module: The file.
        told: The functions in which more than names has been found.
    """
    if not module.mentions(("caler",)) and not module.mentions(("ptim",)):
        return
    yield from _loaded_and_never_saved(module)
    if _KEPT.search(module.about("scaler", "register_for_checkpointing", "save_state")):
        return
    yield from _put_away(module, told)
    yield from _handed_over(module)
    yield from _own_scalers(module, told)


def saves_no_scaler(module: Module) -> bool:
    """Whether nothing in the project reads a scaler's state, however often a scaler is handed on."""
    return not module.project.says(_SAVED, *STATE_WORDS) and not module.project.says(_ANY_SAVED, *STATE_WORDS)


def reads_no_scaler(text: str) -> bool:
    """Whether nothing in a text reads a scaler's state to save it, or that of any object there is."""
    return not _SAVED.search(text) and not _ANY_SAVED.search(text)


def _loaded_and_never_saved(module: Module) -> Iterator[Absence]:
    loads = [c for c in module.calls_of("load_state_dict") if is_scaler(module, receiver(c))]
    if loads and saves_no_scaler(module):
        yield loads[0], f"`{module.segment(loads[0].func)}` takes up a state that nothing in this project saves"


def saved_and_never_loaded(module: Module) -> list[ast.Call]:
    """Return the first call that saves a scaler's state, in a project that loads states and nowhere a scaler's."""
    if module.role in ("test", "benchmark") or not module.project.says(_LOADS, *STATE_WORDS):
        return []
    saves = [
        c
        for c in module.calls_of("state_dict")
        if is_scaler(module, receiver(c)) and not _RESTORES.search(_name(module, c))
    ]
    return saves[:1] if saves and not loads_a_scaler(module) else []


def loads_a_scaler(module: Module) -> bool:
    """Whether any file of the project may load a scaler's state; asked of those alone that speak of it."""
    question = "may load a scaler's state"
    if question not in module.project.memo:
        texts = (text for path, text in module.project.texts(*STATE_WORDS) if "test" not in path)
        near = (text for text in texts if "load_state_dict" in text or "caler" in text)
        module.project.memo[question] = any(_LOADED.search(text) for text in near)
    return bool(module.project.memo[question])


def _name(module: Module, node: ast.AST) -> str:
    return getattr(module.tree.function(node), "name", "")


def _put_away(module: Module, known: set[str]) -> Iterator[Absence]:
    told: set[ast.AST] = set()
    for call in module.calls_of("state_dict"):
        function = module.tree.function(call) or module.root
        if function in told or not is_optimizer(module, receiver(call)) or not _goes_into_a_checkpoint(module, call):
            continue
        if _in_class_of(module, module.tree.class_of(call), known):
            continue
        where = "" if _reaches(module, call) else _works_beside(module, module.tree.function(call))
        if where is not None:
            told.add(function)
            of = f"the scaler that works in {where}" if where else "the scaler"
            yield call, f"`{module.segment(call)}` goes into a checkpoint, and nothing keeps the state of {of}"


def _handed_over(module: Module) -> Iterator[Absence]:
    told: set[ast.AST] = set()
    for name, calls in module.calls.items():
        for call in calls if _SAVING.fullmatch(name) and not _NO_CHECKPOINT.search(name) else ():
            function = module.tree.function(call) or module.root
            given = [n for a in (*call.args, *(k.value for k in call.keywords)) for n in _objects(a)]
            if function in told or not any(is_optimizer(module, n) and not _FLAG.search(key(n) or "") for n in given):
                continue
            scaler = None if _may_bring(module, call) else scaler_at(module, call)
            if scaler is not None:
                told.add(function)
                saves = module.segment(call.func)
                yield call, f"`{saves}` is given the optimizer, and nothing keeps the state of `{scaler.place}`"


def _may_bring(module: Module, call: ast.Call) -> bool:
    """Whether a scaler is handed over, or an object or a rest of arguments that may hold one."""
    given = [*call.args, *(k.value for k in call.keywords)]
    whole = any(k.arg is None for k in call.keywords) or any(isinstance(a, ast.Starred) for a in given)
    return whole or any(is_scaler(module, n) or _HOLDERS.search(key(n) or "") for a in given for n in _objects(a))


def _objects(node: ast.expr) -> Iterator[ast.expr]:
    """Walk the objects that an argument hands over: itself, and those whose state it reads."""
    if isinstance(node, ast.Name | ast.Attribute):
        yield node
    for call in walk(node):
        owner = receiver(call) if isinstance(call, ast.Call) and called(call) == "state_dict" else None
        if owner is not None:
            yield owner


def _own_scalers(module: Module, told: set[str]) -> Iterator[Absence]:
    """Walk the scalers that a class makes and works with, around an optimizer whose state others save."""
    for scaler in scalers(module):
        cls = scaler.scope
        if scaler.made is None or not isinstance(cls, ast.ClassDef):
            continue
        if not _saves_its_optimizer(module, cls) and not (_is_hook(module, cls) and saves_no_scaler(module)):
            continue
        if _in_class_of(module, cls, told):
            continue
        near = (text for path, text in module.project.texts() if path != module.path and cls.name in text)
        if not any(_KEPT.search(text) for text in near):
            text = f"`{scaler.place}` works in {cls.name}, and no checkpoint keeps its state"
            yield scaler.made, text


def _in_class_of(module: Module, cls: ast.ClassDef | None, scopes: set[str]) -> bool:
    """Whether one of the functions is a method of the class."""
    return cls is not None and any(scope.startswith(f"{module.tree.qualname(cls)}.") for scope in scopes)


def _is_hook(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class steps the optimizer of a runner, which saves the optimizer's state and knows no scaler."""
    bases_end = any((key(base) or "").endswith("Hook") for base in cls.bases)
    return bases_end and re.search(r"\.step\(\s*runner\.optimizer", module.text) is not None


def _saves_its_optimizer(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class gives the state of an optimizer to who saves it, itself or through a base class."""
    for where, at in ((module, cls), *bases(module, cls)):
        for item in at.body:
            if isinstance(item, FUNCTIONS) and item.name == "state_dict":
                return bool(_OPTIMIZER_SAVED.search(where.text_of(item)))
    return False


def _goes_into_a_checkpoint(module: Module, call: ast.Call) -> bool:
    """Whether a state that is read stands beside others, in code that saves."""
    function = module.tree.function(call)
    name = function.name if function is not None else ""
    if _RESTORES.search(name):
        return False
    scope: ast.AST = function if function is not None else module.root
    inside = [node for node in walk_scope(scope) if isinstance(node, ast.Call)]
    beside = [c for c in inside if called(c) == "state_dict" and c is not call]
    if any(SAVES.search(called(c)) and _is_given_scaler(module, c) for c in inside):
        return False
    saved = bool(SAVES.search(name)) or name == "state_dict" or any(SAVES.search(called(c)) for c in inside)
    above = (at for at in module.tree.above(call) if isinstance(at, ast.Call))
    return saved and bool(beside) and not any(called(at) == "load_state_dict" for at in above)


def _reaches(module: Module, call: ast.Call) -> bool:
    """Whether a scaler works where the state is read; one that is only named there may come from anywhere."""
    if scaler_at(module, call) is not None:
        return True
    return not scalers(module) and _works(module.text)


def _is_given_scaler(module: Module, call: ast.Call) -> bool:
    return any(is_scaler(module, given) for given in (*call.args, *(k.value for k in call.keywords)))


def _works(text: str) -> bool:
    return bool(_AT_WORK.search(_SWITCHED_OFF.sub("", text)))


def _works_beside(module: Module, function: Function | None) -> str | None:
    """Return the file of a scaler that works where the function is run from, where no such file keeps its state."""
    if function is None:
        return None
    above = module.tree.parents.get(function)
    owner = above.name if isinstance(above, ast.ClassDef) else ""
    name = owner if function.name in ("state_dict", "save", "__call__") and owner else function.name
    question = ("runs beside a scaler", module.path, name, owner)
    if question not in module.project.memo:
        module.project.memo[question] = _runs_beside(module, name, owner)
    return module.project.memo[question] or None


def _runs_beside(module: Module, name: str, owner: str) -> str:
    near = ""
    stem = module.path.rpartition("/")[2].removesuffix(".py")
    for path, text in module.project.texts():
        if path == module.path or f"{name}(" not in text or not (stem in text or (owner and owner in text)):
            continue
        if _KEPT.search(text):
            return ""
        if not near and _works(text) and "test" not in path:
            near = path
    return near
