"""A checkpoint written over the last good one."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.checkpoints import Save, argument_for, callers, renames, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._by_others import written_by_others
from ampguard.auditing.rules.checkpoints._handed import handed_saves, writes_in_place
from ampguard.auditing.rules.checkpoints._paths import (
    changes_each_time,
    in_memory,
    is_given,
    names_file_outside,
    parts,
    words_of,
)

_CHECKPOINT = regex(r"checkpoint|ckpt|resume|train(er|ing)?_state", re.I)
_SAVING = regex(
    r"^(?!.*_(from|to)_)_*(save|write|dump|store)_(\w+_)?(checkpoint|ckpt|snapshot|train(er|ing)?_state)s?$", re.I
)
_PLAIN_SAVE = regex(r"_*(save|write|dump|store)(_state|_to_disk|_file|_sync)?|__call__")
_WRITES = regex(r"save|dump|serialize|write_state", re.I)
_STATE = regex(r"state|ckpt|checkpoint|serial|params", re.I)
_TEXT = ("w", "wt", "w+")
_ASIDE = regex(r"meta|config|cfg|info|args|hparams|settings|vocab|readme|log", re.I)
"""Words of what lies beside a checkpoint and is the same each time."""

_TEMPORARY = regex(r"te?mp|partial|staging|atomic|\.new\b|dirty|part\b", re.I)


class NonAtomicSave(Rule):
    """`torch.save` straight to the name under which a resume looks for the checkpoint.

    ## What it does

    Looks at saves of a resumable checkpoint (an optimizer's state, or a model with its epoch): the same name each time
    is low, a name with a step or an epoch in it info. So is a checkpoint's file that is opened to write under its final
    name and handed to a `save` or `dump`, and one that a callback has its model write. A save to a temporary name that
    is renamed afterwards is the right way, also inside a helper.

    ## Why is this bad

    Writing takes seconds to minutes. A run that is killed, preempted or out of disk meanwhile leaves half a file
    where the last good checkpoint was: there is nothing left to resume from.

    ## Example

    ```python
    import torch

    def save(model, optimizer, folder):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{folder}/last.pt")
    ```

    ## Use instead

    ```python
    import os

    import torch

    def save(model, optimizer, folder):
        temporary = f"{folder}/last.pt.tmp"
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
        os.replace(temporary, f"{folder}/last.pt")
    ```

    ## Fix safety

    Safe within one file system: `os.replace` is atomic there. To outlive a power cut, flush and `os.fsync` the file
    before it is renamed.

    ## References

    - os.replace; Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014
    """

    code = "CKP007"
    name = "non-atomic-save"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "A run that is killed while it saves leaves a broken file in place of its last good checkpoint."
    risk = "Low: for a moment both files need room on the disk."
    fix = "Save to a temporary name in the same folder, then `os.replace` it over the final name."
    words = ("torch.save", "save(", "save_", "checkpoint(", "dump(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield each function's first save that overwrites, and else its first that does not go through a rename."""
        told: dict[ast.AST | None, tuple[Save, bool] | None] = {}
        handed = (save for save in handed_saves(module) if writes_in_place(module, save))
        for save in (*saves(module), *handed):
            if (_resumable(save) or _is_called_checkpoint(module, save)) and not _careful(module, save):
                fresh = _fresh(module, save)
                function = module.tree.function(save.call)
                earlier = told.get(function)
                if earlier is None or (earlier[1] and not fresh):
                    told[function] = (save, fresh)
        for found in list(told.values()):
            if found is not None:
                yield self._say(module, *found)
        for opened, path in _opened_in_place(module):
            if module.tree.function(opened) not in told:
                yield self._say_opened(module, opened, fresh=changes_each_time(module, path))
        for call, path in written_by_others(module):
            if module.tree.function(call) not in told:
                told[module.tree.function(call)] = None
                fresh = changes_each_time(module, path)
                text = f"`{module.segment(call)}` writes the checkpoint in place, under the name that it keeps"
                severity = Severity.INFO if fresh else Severity.LOW
                yield self.finding(module, call, text, severity=severity, critical_path=True)

    def _say_opened(self, module: Module, opened: ast.Call, *, fresh: bool) -> Finding:
        if fresh:
            text = f"`{module.segment(opened)}` gives the checkpoint its final name before it is written"
            return self.finding(module, opened, text, severity=Severity.INFO, likelihood="unlikely")
        text = f"`{module.segment(opened)}` empties the last checkpoint before the new one is written"
        return self.finding(module, opened, text, critical_path=True)

    def _say(self, module: Module, save: Save, fresh: bool) -> Finding:
        if fresh:
            text = "a checkpoint is written straight to its final name; a kill meanwhile leaves half a file there"
            return self.finding(module, save.call, text, severity=Severity.INFO, likelihood="unlikely")
        text = f"`{module.segment(save.call)}` overwrites the last checkpoint in place"
        return self.finding(module, save.call, text, critical_path=True)


def _opened_in_place(module: Module) -> Iterator[tuple[ast.Call, ast.expr | None]]:
    """Walk the `open(path, "wb")` of checkpoints whose handle is given to what writes, with no rename in the function.

    That it is a checkpoint is told by the words of the path, or by the name of the function or of its class.
    """
    if not module.mentions(("wb", "dump")):
        return
    for call in module.calls_of("open"):
        handle = _handle(module, call)
        path = receiver(call) if isinstance(call.func, ast.Attribute) else argument(call, 0, "file")
        function = module.tree.function(call)
        if handle is None or function is None or not _writes_state(module, call, handle):
            continue
        words = _own_words(module, path)
        if not _CHECKPOINT.search(words) and not _saves_checkpoint(module, function):
            continue
        scopes = [function, *(module.tree.function(c) or module.root for c in callers(module, function))]
        renamed = any(isinstance(n, ast.Call) and renames(module, n) for s in scopes for n in walk_scope(s))
        asked = names_file_outside(module, path) and not changes_each_time(module, path)
        if not (renamed or asked or _TEMPORARY.search(words)):
            yield call, path


def _own_words(module: Module, path: ast.expr | None) -> str:
    """Return the text of a path and of what its own names were assigned, and no further: options speak of much."""
    inner = (
        (n for n in (path, *walk_scope(path)) if isinstance(n, ast.Name | ast.Attribute)) if path is not None else ()
    )
    values = [value for node in inner for value in assigned(module, node)]
    return " ".join(ast.unparse(part) for part in (path, *values) if part is not None)


def _handle(module: Module, call: ast.Call) -> str | None:
    """Return the name that a `with open(..., "wb") as name` gives the file; None for another call.

    Text counts in functions that are named for saving a checkpoint.
    """
    mode = argument(call, 0 if isinstance(call.func, ast.Attribute) else 1, "mode")
    item = module.tree.parents.get(call)
    asked = mode.value if isinstance(mode, ast.Constant) else None
    function = module.tree.function(call) if asked in _TEXT else None
    aside = _ASIDE.search(ast.unparse(call))
    as_text = function is not None and not aside and bool(_SAVING.search(function.name))  # json of a trainer's state
    if not (as_text or asked in ("wb", "bw", "wb+", "w+b")):
        return None
    return key(item.optional_vars) if isinstance(item, ast.withitem) else None


def _writes_state(module: Module, call: ast.Call, handle: str) -> bool:
    """Whether the block gives the file to a call that saves, or writes what a call made of a state."""
    block = module.tree.statement(call)
    for node in walk_scope(block):
        if not isinstance(node, ast.Call):
            continue
        if _WRITES.match(called(node)) and handle in map(key, (*node.args, *(k.value for k in node.keywords))):
            return True
        if called(node) == "write" and key(receiver(node)) == handle and _STATE.search(ast.unparse(node)):
            return True
    return False


def _resumable(save: Save) -> bool:
    return "optimizer" in save.holds.kinds or (not save.holds.open and {"model", "progress"} <= save.holds.kinds)


def _is_called_checkpoint(module: Module, save: Save) -> bool:
    """Whether the function that writes says that it is a checkpoint, or, of what cannot be followed, its path does."""
    function = module.tree.function(save.call)
    if save.writer[1] is not save.call or function is None:
        return False
    if _saves_checkpoint(module, function):
        return True
    path = _own_words(module, save.path)
    of_model = "model" in save.holds.kinds or (save.payload is not None and "model" in (key(save.payload) or ""))
    if of_model and save.path is not None and _LATEST.search(ast.unparse(save.path)):
        return True
    states = save.payload is not None and bool(_STATE.search(ast.unparse(save.payload)))
    return save.holds.open and states and bool(_CHECKPOINT.search(path))


_LATEST = regex(r"\b(last|latest)_?(\w+_)?(model|ckpt|checkpoint|weights|state)|\b(last|latest)\w*\.(pth?|ckpt|tar)\b")
"""The one file that a training goes on from, by its name."""


def _saves_checkpoint(module: Module, function: Function) -> bool:
    """Whether a function is one that saves checkpoints, by its name or by that of its class (`CheckpointManager`)."""
    if _SAVING.search(function.name):
        return True
    cls = module.tree.parents.get(function)
    if not isinstance(cls, ast.ClassDef):
        return False
    if _PERSISTS.search(cls.name):
        return bool(_SAVES_MODEL.fullmatch(function.name))
    return "heckpoint" in cls.name and bool(_PLAIN_SAVE.fullmatch(function.name))


_PERSISTS = regex(r"Persist(or|er|ence)|Saver\b|Snapshot")
_SAVES_MODEL = regex(r"_*(save|write|persist|store)(_(model|state|weights|file|to_disk|to_file)){0,2}")


def _fresh(module: Module, save: Save) -> bool:
    """Whether each save makes a file of its own, as far as its path tells; unknown where a caller gives the name."""
    if save.path is not None:
        return changes_each_time(module, save.path) or is_given(module, save.path)
    where, writer = save.writer
    path = argument(writer, 1, "f")
    return changes_each_time(where, path) or any(changes_each_time(module, a) for a in _given(module, save, path))


def _given(module: Module, save: Save, path: ast.expr | None) -> list[ast.expr]:
    """Return what the call gives to the parameters that its helper makes the path of; all it gives where unsure."""
    place = target(module, save.call)
    if place is None or place[1] is not save.writer[0].tree.function(save.writer[1]):
        return [a for a in (*save.call.args, *(k.value for k in save.call.keywords)) if a is not save.payload]
    names = {n.id for part in parts(place[0], path) for n in (part, *walk_scope(part)) if isinstance(n, ast.Name)}
    values = [argument_for(save.call, place[1], arg.arg) for arg, _ in parameters(place[1]) if arg.arg in names]
    return [v for v in values if v is not None]


def _careful(module: Module, save: Save) -> bool:
    """Whether the save goes to a buffer or a temporary name, or a rename follows in its function or its helper's."""
    where, writer = save.writer
    path = argument(writer, 1, "f")
    if path is None or in_memory(where, path) or _TEMPORARY.search(words_of(where, path)):
        return True
    return any(
        renames(of, node)
        for of, scope in _around(module, save)
        for node in (walk_scope(scope) if _RENAMES.search(of.text_of(scope)) else ())
        if isinstance(node, ast.Call)
    )


_RENAMES = regex(r"replace|rename|move|mv|atomic", re.IGNORECASE)
"""What is written where `renames` finds a call: asked first, since the text is there and the walk is not."""


def _around(module: Module, save: Save) -> Iterator[tuple[Module, ast.AST]]:
    """Walk the scopes in which a rename may follow: of the write, of the save, and of those who call it."""
    where, writer = save.writer
    yield where, where.tree.function(writer) or where.root
    helper = target(module, save.call) if writer is not save.call else None
    if helper is not None:
        yield helper
    function = module.tree.function(save.call)
    yield module, function or module.root
    for call in callers(module, function) if function is not None else ():
        yield module, module.tree.function(call) or module.root
