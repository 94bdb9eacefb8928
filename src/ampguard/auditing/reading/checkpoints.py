"""What a file saves and loads: checkpoints as rules see them.

A save is a `torch.save`, or a call of a function of the project that hands its argument to `torch.save`. What is
in it is traced by `payloads`; the gradient scalers that are at work around it are known by their construction.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, attributes, constructed, definition, target
from ampguard.auditing.reading.each import stands_for_each
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scaler_class, is_scheduler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.payloads import Contents, contents, given_as
from ampguard.auditing.reading.state_kinds import kinds_of_word, state_kinds
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk_scope
from ampguard.auditing.reading.unused import unused_parameters

SAVES = regex(r"save|ckpt|checkpoint|snapshot|dump|persist|write", re.I)
"""Names of functions that may write a checkpoint."""

_TAKES_STATE = regex(r"save|ckpt|checkpoint|snapshot|resume|restore|load|state|register|prepare|handler|setup", re.I)
_STATE = regex(r"state|ckpt|checkpoint|snapshot|payload|bundle|save|dict|data|obj|content", re.I)
_SCALER_PARAMETER = regex(r"(grad_?|loss_?|amp_?)?scaler")
_SAVED_SCALER = regex(r"scaler\w*(\.module)?\.state_dict|[\"']\w*scaler\w*[\"']\s*[:\]]", re.I)
STATE_WORDS = ("caler", "CALER", "state_dict")
"""One of these stands in every file that speaks of a scaler's state, or of anybody's."""

_DEPTH = 3
"""Functions between a call and the `torch.save` that it ends in."""


@dataclass(frozen=True)
class Save:
    """One place where a file writes states.

    Attributes:
        call: The call that writes, in this file.
        holds: What it writes.
        payload: The expression that is written.
        path: The expression that says where, in the file of `writer`; None where it cannot be told.
        writer: The file and the `torch.save` that the call ends in.
    """

    call: ast.Call
    holds: Contents
    payload: ast.expr | None
    path: ast.expr | None
    writer: tuple[Module, ast.Call]


@dataclass(frozen=True)
class Scaler:
    """One gradient scaler that works in a file: its key, where that has a meaning, and where it is made."""

    place: str
    scope: ast.AST
    made: ast.Call | None


def torch_saves(module: Module) -> list[ast.Call]:
    """Return the calls of `torch.save`."""
    return module.once("torch saves", lambda: _calls_of(module, "save"))


def torch_loads(module: Module) -> list[ast.Call]:
    """Return the calls of `torch.load`."""
    return module.once("torch loads", lambda: _calls_of(module, "load"))


def _calls_of(module: Module, name: str) -> list[ast.Call]:
    """Return the calls of a function of torch, under whatever name it was imported."""
    imports = (alias for node in module.tree.all(ast.ImportFrom) if node.module == "torch" for alias in node.names)
    names = dict.fromkeys([name, *(alias.asname for alias in imports if alias.name == name and alias.asname)])
    return [call for call in module.calls_of(*names) if module.names.stands_for(call.func, f"torch.{name}")]


def saves(module: Module) -> list[Save]:
    """Return every place where the file writes states, in source order."""
    return module.once("saves", lambda: sorted(_saves(module), key=lambda s: s.call.lineno))


def _saves(module: Module) -> Iterator[Save]:
    for call in torch_saves(module):
        payload = argument(call, 0, "obj")
        holds = contents(module, payload)
        if holds.parameter is None:
            yield Save(call, holds, payload, argument(call, 1, "f"), (module, call))
    if not module.mentions(("state", "optim")):  # nothing to hand to a helper
        return
    for name, calls in module.calls.items():
        for call in calls if SAVES.search(name) and name != "save_pretrained" else ():
            place = target(module, call) if any(_may_be_state(a) for a in _given(call)) else None
            if place is None:
                continue
            for parameter, writer in written_parameters(place):
                payload = argument_for(call, place[1], parameter)
                holds = contents(module, payload)
                if holds.parameter is None and payload is not None:
                    yield Save(call, holds, payload, None, writer)


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _may_be_state(node: ast.expr) -> bool:
    """Whether an argument looks like states to write, so that it is worth finding out what the call does with it."""
    if isinstance(node, ast.Call):
        return called(node) in ("state_dict", "asdict", "dict", "deepcopy") or bool(_STATE.search(called(node)))
    return isinstance(node, ast.Dict | ast.BinOp) or bool(_STATE.search(key(node) or ""))


Written = dict[str, tuple[Module, ast.Call]]
"""By parameter of a function: the `torch.save` that writes it, and its file."""


def written_parameters(place: Place, *, depth: int = 0) -> list[tuple[str, tuple[Module, ast.Call]]]:
    """Return the parameters that a function writes with `torch.save`, each with that call; [] where it writes none."""
    where, function = place
    if depth > _DEPTH or not any(SAVES.search(name) for name in where.calls):
        return []
    found: Written = where.once(("written parameters", function), lambda: _written_parameters(where, function, depth))
    return list(found.items())


def _written_parameters(where: Module, function: Function, depth: int) -> Written:
    found: Written = {}
    for node in walk_scope(function):
        if not isinstance(node, ast.Call) or not SAVES.search(called(node)):
            continue
        written: list[tuple[ast.expr | None, tuple[Module, ast.Call]]] = []
        if where.names.stands_for(node.func, "torch.save"):
            passed_on = _passed_on(function, node)
            if passed_on is not None:
                found.setdefault(passed_on, (where, node))
                continue
            written = [(argument(node, 0, "obj"), (where, node))]
        else:
            place = target(where, node)
            if place is not None and place[1] is not function:
                deeper = written_parameters(place, depth=depth + 1)
                written = [(argument_for(node, place[1], name), writer) for name, writer in deeper]
        for payload, writer in written:
            name = contents(where, payload).parameter if payload is not None else None
            if name is not None:
                found.setdefault(name, writer)
    return found


def _passed_on(function: Function, call: ast.Call) -> str | None:
    """Return the `args` of a function that hands `*args` on as it is."""
    first = call.args[0] if call.args else None
    rest = function.args.vararg
    whole = isinstance(first, ast.Starred) and rest is not None and key(first.value) == rest.arg
    return rest.arg if whole and rest is not None else None


def argument_for(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    """Return what a call gives to one parameter of the function that it runs; of `*args`, what comes first."""
    named = [*function.args.posonlyargs, *function.args.args]
    rest = function.args.vararg
    names = [arg.arg for arg, _ in parameters(function)]
    if rest is not None and name == rest.arg:
        names = [*(arg.arg for arg in named), name]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    return argument(call, names.index(name) if name in names else None, name)


def callers(module: Module, function: Function) -> list[ast.Call]:
    """Return the calls in this file that run the function."""
    found = [(call, target(module, call)) for call in module.calls.get(function.name, ())]
    return [call for call, place in found if place is not None and place[1] is function]


def scalers(module: Module) -> list[Scaler]:
    """Return the gradient scalers that scale or step something in this file and are not switched off."""
    return module.once("working scalers", lambda: list(_scalers(module)))


def _scalers(module: Module) -> Iterator[Scaler]:
    working = {key(receiver(c)) for c in module.calls_of("scale", "step")}
    known: set[str] = set()
    constructions = scaler_constructions(module)
    given, run = _used(module) if constructions or any("Scaler" in name for name in module.calls) else (set(), set())
    for made in constructions:
        enabled = argument(made, None, "enabled")
        off = isinstance(enabled, ast.Constant) and enabled.value is False
        for target_ in _assigned_to(module.tree.statement(made)):
            place = key(target_)
            known.add(place or "")
            if place is not None and place in working | given | run and not off:
                yield Scaler(place, _home(module, target_), made)
    for node in module.tree.all(ast.arg):
        if node.arg in working and _SCALER_PARAMETER.fullmatch(node.arg):
            yield Scaler(node.arg, module.tree.scope(node), None)
    yield from _wrapped(module, run | given)
    for owner in _scaling(module):
        place = key(owner) or ""
        if place not in known and place.startswith("self."):  # made by a helper or in a base class
            known.add(place)
            yield Scaler(place, _home(module, owner), None)


def _used(module: Module) -> tuple[set[str | None], set[str | None]]:
    """Return the keys of what calls are given, and of what is called."""
    calls = [call for named in module.calls.values() for call in named]
    given = {key(a) for c in calls for a in (*c.args, *(k.value for k in c.keywords))}
    return given, {key(call.func) for call in calls}


def _wrapped(module: Module, used: set[str | None]) -> Iterator[Scaler]:
    """Walk the objects around a scaler, `take_step = LossScaler()`, that are called here or handed on."""
    for name, calls in module.calls.items():
        for made in calls if "Scaler" in name and not name.endswith("GradScaler") else ():
            for target_ in _assigned_to(module.tree.statement(made)):
                place = key(target_)
                if place is not None and place in used and _holds_scaler(module, made):
                    yield Scaler(place, _home(module, target_), made)


def _holds_scaler(module: Module, made: ast.Call) -> bool:
    if module.names.stands_for(made.func, "timm.utils.NativeScaler", "timm.utils.cuda.NativeScaler"):
        return True
    found = constructed(module, made, ("GradScaler",))
    if found is None:
        return False
    values = [value for each in attributes(*found).values() for value in each]
    return any(isinstance(value, ast.Call) and is_scaler_class(found[0], value.func) for value in values)


def _assigned_to(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return [t for target_ in statement.targets for t in getattr(target_, "elts", [target_])]
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def _scaling(module: Module) -> Iterator[ast.expr]:
    """Walk what only a gradient scaler can be: `it.scale(loss).backward()` with an `it.update()` in the file.

    Or `it.step(optimizer)` with an `it.update()`, where the loss is scaled elsewhere.
    """
    updated = {key(receiver(c)) for c in module.calls_of("update")}
    for call in module.calls_of("step"):
        owner = receiver(call)
        steps = owner is not None and bool(call.args) and is_optimizer(module, call.args[0])
        if owner is not None and steps and key(owner) in updated and is_scaler(module, owner):
            yield owner
    for call in module.calls_of("backward"):
        scaled = receiver(call)
        owner = receiver(scaled) if isinstance(scaled, ast.Call) and called(scaled) == "scale" else None
        if owner is not None and key(owner) in updated and is_scaler(module, owner):
            yield owner


def _home(module: Module, node: ast.expr) -> ast.AST:
    if isinstance(node, ast.Attribute) and (key(node) or "").startswith("self."):
        return module.tree.class_of(node) or module.root
    return module.tree.scope(node)


def scaler_at(module: Module, node: ast.AST) -> Scaler | None:
    """Return a working scaler that code at the node could save: in its scope, its class, or where it is called from."""
    places = [node]
    function = module.tree.function(node)
    if function is not None:
        places += callers(module, function)
    return next((s for at in places for s in scalers(module) if _reaches(module, s, at)), None)


def _reaches(module: Module, scaler: Scaler, at: ast.AST) -> bool:
    if isinstance(scaler.scope, ast.ClassDef) or scaler.place.startswith("self."):
        own = module.tree.class_of(at)
        return own is scaler.scope or (own is not None and _shares(module, own, scaler.scope, at))
    return module.tree.inside(at, scaler.scope) or (scaler.made is not None and _out_of_reach(module, scaler, at))


def _out_of_reach(module: Module, scaler: Scaler, at: ast.AST) -> bool:
    """Whether a scaler lives in a local name of another method of the class, or of a function that is run beside."""
    own = module.tree.class_of(at)
    if own is not None and module.tree.parents.get(scaler.scope) is own:
        return True
    function = module.tree.function(at)
    run = module.calls.get(getattr(scaler.scope, "name", ""), ())
    return any(module.tree.function(call) is function and target(module, call) is not None for call in run)


def _shares(module: Module, own: ast.ClassDef, holder: ast.AST, at: ast.AST) -> bool:
    """Whether objects of one class run the code at the node with the attributes that another class of the file sets."""
    if not isinstance(holder, ast.ClassDef):
        return False
    if _derives(module, own, holder):
        return True
    function = module.tree.function(at)
    if function is None or not _derives(module, holder, own):
        return False
    return not any(getattr(item, "name", None) == function.name for item in holder.body)  # not written anew there


def _derives(module: Module, cls: ast.ClassDef, base: ast.ClassDef, *, depth: int = 0) -> bool:
    found = [definition(module, node) for node in cls.bases if isinstance(node, ast.Name)]
    above = [f[1] for f in found if f is not None and f[0] is module and isinstance(f[1], ast.ClassDef)]
    return base in above or (depth < _DEPTH and any(_derives(module, c, base, depth=depth + 1) for c in above))


def confined(module: Module, scaler: Scaler) -> bool:
    """Whether nothing outside of this file can put a scaler's state into a checkpoint, however open that is.

    A local name leaves its function only where it is handed over (see `keeps_scaler`). What belongs to `self` may be
    reached from anywhere; then no file of the project may speak of a scaler's state.
    """
    if not scaler.place.startswith("self."):
        return scaler.made is not None
    return not module.project.says(_SAVED_SCALER, *STATE_WORDS)


def keeps_scaler(module: Module) -> bool:
    """Whether the file saves a scaler's state anywhere, or hands a scaler to something that may."""
    return module.once("keeps scaler", lambda: _keeps_scaler(module))


def _keeps_scaler(module: Module) -> bool:
    if any(
        "scaler" in kinds_of_word((key(receiver(c)) or "").removeprefix("apex."))
        for c in module.calls_of("state_dict", "load_state_dict")
    ):
        return True
    for name, calls in module.calls.items():
        for call in calls if _TAKES_STATE.search(name) or name[:1].isupper() else ():
            given = [a for a in (*call.args, *(k.value for k in call.keywords)) if is_scaler(module, a)]
            if given and not is_scaler_class(module, call.func) and not _given_in_vain(module, call, given):
                return True
    return any(
        isinstance(k, ast.Constant) and isinstance(k.value, str) and "scaler" in kinds_of_word(k.value)
        for d in module.tree.all(ast.Dict)
        for k in d.keys
    )


def _given_in_vain(module: Module, call: ast.Call, given: list[ast.expr]) -> bool:
    """Whether a call runs a function of the project that does nothing with the scalers that it is given."""
    place = target(module, call)
    if place is None:
        return False
    unused = unused_parameters(place[1])
    names = [given_as(call, place, key(node) or "") for node in given]
    return all(name is not None and name in unused for name in names)


def restored(module: Module) -> dict[str, list[ast.Call]]:
    """Return the `load_state_dict` calls by what they restore: "model", "optimizer", "scheduler", "scaler"."""
    return module.once("restored", lambda: _restored(module))


def _restored(module: Module) -> dict[str, list[ast.Call]]:
    found: dict[str, list[ast.Call]] = {}
    for call in module.calls_of("load_state_dict"):
        for kind in _restored_kinds(module, receiver(call)):
            found.setdefault(kind, []).append(call)
    return found


def _restored_kinds(module: Module, owner: ast.expr | None) -> set[str]:
    if owner is not None and stands_for_each(module, owner) is not None:
        return state_kinds(module, owner)
    kinds = (("scaler", is_scaler), ("scheduler", is_scheduler), ("optimizer", is_optimizer))
    return {next((name for name, asks in kinds if asks(module, owner)), "model")}


def restores(module: Module) -> bool:
    """Whether the file goes on from a checkpoint: it loads an optimizer's state."""
    return "optimizer" in restored(module)


def renames(module: Module, call: ast.Call) -> bool:
    """Whether a call puts a file in the place of another: os.replace, os.rename, shutil.move, Path.replace."""
    name = called(call)
    if name in ("replace", "rename", "renames", "move", "mv"):
        if any(n.split(".")[0] in ("os", "shutil") for n in module.names.dotted(call.func)):
            return True
        return name in ("rename", "mv", "move") or (name == "replace" and len(call.args) == 1 and not call.keywords)
    return "atomic" in name.lower()
