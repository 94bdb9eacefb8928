"""A checkpoint written over the last good one."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import Save, argument_for, callers, renames, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import argument, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._paths import changes_each_time, in_memory, is_given, parts, words_of

_TEMPORARY = re.compile(r"te?mp|partial|staging|atomic|\.new\b|dirty|part\b", re.I)


class NonAtomicSave(Rule):
    """`torch.save` straight to the name under which a resume looks for the checkpoint.

    ## What it does

    Looks at saves of a resumable checkpoint (an optimizer's state, or a model with its epoch): the same name each
    time is low, a name with a step or an epoch in it info. A save to a temporary name that is renamed afterwards is
    the right way, also inside a helper.

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
    words = ("torch.save", "save(", "save_", "checkpoint(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield each function's first save that overwrites, and else its first that does not go through a rename."""
        if not saves(module):
            return
        told: dict[ast.AST | None, tuple[Save, bool]] = {}
        for save in saves(module):
            if _resumable(save) and not _careful(module, save):
                fresh = _fresh(module, save)
                function = module.tree.function(save.call)
                if function not in told or (told[function][1] and not fresh):
                    told[function] = (save, fresh)
        for save, fresh in told.values():
            yield self._say(module, save, fresh)

    def _say(self, module: Module, save: Save, fresh: bool) -> Finding:
        if fresh:
            text = "a checkpoint is written straight to its final name; a kill meanwhile leaves half a file there"
            return self.finding(module, save.call, text, severity=Severity.INFO, likelihood="unlikely")
        text = f"`{module.segment(save.call)}` overwrites the last checkpoint in place"
        return self.finding(module, save.call, text, critical_path=True)


def _resumable(save: Save) -> bool:
    return "optimizer" in save.holds.kinds or (not save.holds.open and {"model", "progress"} <= save.holds.kinds)


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
        for node in walk_scope(scope)
        if isinstance(node, ast.Call)
    )


def _around(module: Module, save: Save) -> Iterator[tuple[Module, ast.AST]]:
    """Walk the scopes in which a rename may follow: of the write, of the save, and of those who call it."""
    where, writer = save.writer
    yield where, where.tree.function(writer) or where.root
    function = module.tree.function(save.call)
    yield module, function or module.root
    for call in callers(module, function) if function is not None else ():
        yield module, module.tree.function(call) or module.root
