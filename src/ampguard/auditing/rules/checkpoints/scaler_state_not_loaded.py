"""A loss scale that is saved, but not taken up again."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases, target
from ampguard.auditing.reading.checkpoints import restored, saves, scaler_at, scalers
from ampguard.auditing.reading.each import stands_for_each
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._absent import loads_a_scaler, saved_and_never_loaded
from ampguard.auditing.rules.checkpoints._given_in_vain import SCALER, given_in_vain
from ampguard.auditing.rules.checkpoints._made_anew import made_anew
from ampguard.auditing.rules.checkpoints._wrong_key import keys_never_saved, methods_for_states

_LOADS = regex(r"load|resume|restore|checkpoint|ckpt", re.I)
_SAVES = regex(r"_*(maybe_)?(save|write|store|dump)_?(?!\w*(load|resume|restore))", re.I)


class ScalerStateNotLoaded(Rule):
    """The scaler's state lies in the checkpoint, but the run that resumes does not get it.

    ## What it does

    Four shapes: the optimizer is restored (here or by a function of the project) beside a scaler at work, which
    nothing in the file loads; the state is loaded into a scaler that is constructed anew afterwards, in the same
    function or in the method that trains; it is saved in a project that loads states, but no scaler's (low); or
    what stands there is no state: the method itself (`{"scaler": scaler.state_dict}`), or an item that nothing
    saves under that name, where the scaler's is saved under another. The first is medium where the file saves the
    scaler's state, and low where it does not: then saving it comes first (CKP001).

    ## Why is this bad

    The checkpoint looks complete, so nobody searches here: the resumed run starts with a loss scale of 65536 all
    the same, and skips steps until the scale has come down again.

    ## Example

    ```python
    import torch

    class Trainer:
        def __init__(self, model, optimizer):
            self.model, self.optimizer = model, optimizer
            self.scaler = torch.amp.GradScaler("cuda")

        def step(self, loss):
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

        def save(self, path):
            states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            states["scaler"] = self.scaler.state_dict()
            torch.save(states, path)

        def resume(self, path):
            states = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(states["model"])
            self.optimizer.load_state_dict(states["optimizer"])
    ```

    ## Use instead

    ```python
    import torch

    class Trainer:
        def __init__(self, model, optimizer):
            self.model, self.optimizer = model, optimizer
            self.scaler = torch.amp.GradScaler("cuda")

        def step(self, loss):
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

        def save(self, path):
            states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            states["scaler"] = self.scaler.state_dict()
            torch.save(states, path)

        def resume(self, path):
            states = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(states["model"])
            self.optimizer.load_state_dict(states["optimizer"])
            self.scaler.load_state_dict(states["scaler"])
    ```

    ## Fix safety

    Safe where the checkpoint has the key. `load_state_dict` of a scaler that is switched on refuses the empty state
    that a switched-off one saved: ask whether it is empty first.

    ## References

    - torch.amp.GradScaler.load_state_dict
    """

    code = "CKP002"
    name = "scaler-state-not-loaded"
    severity = Severity.MEDIUM
    impact = "A resumed run starts with a loss scale of 65536 again, although the right one lies in the checkpoint."
    risk = "Low: an empty state, saved by a scaler that was switched off, has to be left out."
    fix = "Call `scaler.load_state_dict(...)` where the optimizer is restored, after the scaler is constructed."
    words = ("caler",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the optimizer's restore that forgets the scaler, and loads that come too early."""
        found = [*self._forgotten(module), *self._too_early(module)]
        for load, name in given_in_vain(module, SCALER) if not found else ():
            text = f"the optimizer is restored, but `{name}`, which this function is given, is not"
            found.append(self.finding(module, load, text, critical_path=True))
        found += self._wrong_keys(module)
        yield from found
        for call in saved_and_never_loaded(module) if not found else ():
            text = f"`{module.segment(call)}` is saved, and nothing in this project loads it"
            yield self.finding(module, call, text, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _wrong_keys(self, module: Module) -> Iterator[Finding]:
        """Yield what stands for a state, or for its key, and is neither."""
        for node in methods_for_states(module):
            text = f"`{module.segment(node)}` is the method itself, which stands here in place of a state"
            yield self.finding(module, node, text, critical_path=True)
        for load, asked, kept, here in keys_never_saved(module):
            text = f"the state is read as {asked!r}, which no code here saves: it is saved as {kept!r}"
            severity = Severity.MEDIUM if here else Severity.LOW
            yield self.finding(module, load, text, severity=severity, critical_path=True)

    def _forgotten(self, module: Module) -> Iterator[Finding]:
        if "scaler" in restored(module) or not module.mentions(("load",)) or _may_load(module):
            return
        yield from self._unloaded(module) if scalers(module) else self._kept_for_others(module)

    def _kept_for_others(self, module: Module) -> Iterator[Finding]:
        """Yield the restores of classes that save the state of a scaler which another file works with."""
        told = set()
        for load in restored(module).get("optimizer", ()):
            place = _saved_by_class(module, load)
            if place is not None and module.tree.class_of(load) not in told:
                told.add(module.tree.class_of(load))
                text = f"the optimizer is restored, but `{place}` is not, though this class saves its state"
                severity = Severity.LOW if loads_a_scaler(module) else Severity.MEDIUM
                yield self.finding(module, load, text, severity=severity, critical_path=True)

    def _unloaded(self, module: Module) -> Iterator[Finding]:
        told = set()
        saved = _saved(module)
        for load, through in (*((c, "") for c in restored(module).get("optimizer", ())), *_through_helpers(module)):
            function = module.tree.function(load)
            scaler = (
                (scaler_at(module, load) or (scalers(module)[0] if saved else None)) if function not in told else None
            )
            if scaler is None:
                continue
            told.add(function)
            why = f", though its state is saved at line {saved.lineno}" if saved else ", nor is its state saved here"
            yield self.finding(
                module,
                load,
                f"the optimizer is restored{through}, but `{scaler.place}` is not{why}",
                severity=Severity.MEDIUM if saved else Severity.LOW,
                impact=None if saved else "A resumed run starts with a loss scale of 65536 again, and skips steps.",
                critical_path=True,
            )

    def _too_early(self, module: Module) -> Iterator[Finding]:
        for anew in made_anew(module):
            name = getattr(module.tree.function(anew.made), "name", "")
            text = (
                f"`{anew.place}` is constructed anew in {name}() (line {anew.made.lineno}), after what is loaded here"
            )
            severity = Severity.MEDIUM if anew.certain else Severity.LOW
            yield self.finding(module, anew.load, text, severity=severity, critical_path=True)
        for load in restored(module).get("scaler", ()):
            place, scope = key(receiver(load)), module.tree.scope(load)
            made = [
                c for c in scaler_constructions(module) if module.tree.scope(c) is scope and _binds(module, c, place)
            ]
            if made and all(c.lineno > load.lineno for c in made) and _follows(module, load, made[0]):
                yield self.finding(
                    module,
                    load,
                    f"`{place}` is constructed anew at line {made[0].lineno}, after its state was loaded",
                    critical_path=True,
                )


def _saved(module: Module) -> ast.Call | None:
    """Return where the scaler's state is saved beside the optimizer's, or read to be saved."""
    whole = [s.call for s in saves(module) if {"scaler", "optimizer"} <= s.holds.kinds]
    read = [c for c in module.calls_of("state_dict") if is_scaler(module, receiver(c))]
    return next(iter((*whole, *read)), None)


def _saved_by_class(module: Module, load: ast.Call) -> str | None:
    """Return the scaler of `self` whose state the class of a load saves, and that no base class loads."""
    cls = module.tree.class_of(load)
    if cls is None or any("scaler" in restored(where) for where, _ in bases(module, cls)):
        return None
    for call in module.calls_of("state_dict"):
        place = key(receiver(call)) or ""
        if place.startswith("self.") and is_scaler(module, receiver(call)) and module.tree.class_of(call) is cls:
            return place
    return None


def _through_helpers(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls of functions of other files that restore an optimizer and no scaler."""
    for name, calls in module.calls.items():
        for call in calls if _LOADS.search(name) else ():
            place = target(module, call, ("load_state_dict",))
            if place is None or place[0] is module:
                continue
            where, function = place
            loads = restored(where)
            inside = any(where.tree.function(c) is function for c in loads.get("optimizer", ()))
            if inside and "scaler" not in loads and not _may_load(where):
                yield call, f" by {name}()"


def _may_load(module: Module) -> bool:
    """Whether something else may restore the scaler: a loop over objects, or a helper that is given it."""
    for call in module.calls_of("load_state_dict"):
        owner = receiver(call)
        if owner is not None and (is_optimizer(module, owner) or stands_for_each(module, owner) is not None):
            continue
        found = module.names.lookup(owner.id, owner) if isinstance(owner, ast.Name) else None
        bound = {binding.kind for binding in found[1]} if found is not None else set()
        if "loop" in bound and not _goes_over_others(module, call):
            return True
        if "parameter" in bound and not kinds_of_word(key(owner) or ""):
            return True
    return any(
        is_scaler(module, value)
        for calls in module.calls.values()
        for call in calls
        if _LOADS.search(called(call)) and not _SAVES.match(called(call))
        for value in (*call.args, *(k.value for k in call.keywords))
    )


def _goes_over_others(module: Module, load: ast.Call) -> bool:
    """Whether a load stands in a loop over schedules, optimizers or models, as what it goes over is called."""
    over = " ".join(ast.unparse(loop.iter) for loop in module.tree.loops(load) if isinstance(loop, ast.For))
    return bool(re.search(r"sched|optim|model", over)) and not re.search(r"scaler|state_?dicts|__dict__", over)


def _binds(module: Module, call: ast.Call, place: str | None) -> bool:
    statement = module.tree.statement(call)
    return isinstance(statement, ast.Assign) and any(key(t) == place for t in statement.targets)


def _follows(module: Module, load: ast.Call, made: ast.Call) -> bool:
    """Whether the construction stands in a block around the load, so that every load is followed by it."""
    block = module.tree.parents.get(module.tree.statement(made))
    return block is not None and module.tree.inside(load, block) and not isinstance(block, ast.For | ast.While)
