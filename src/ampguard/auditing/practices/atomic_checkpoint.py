"""A checkpoint that is whole or not there."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.checkpoints import renames, torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, key, walk_scope


class AtomicCheckpoint(Practice):
    """A checkpoint is saved under a temporary name and then put in the place of the final one.

    A run that is killed while it saves leaves the last good checkpoint as it was.
    """

    name = "atomic-checkpoint"
    title = "Atomic checkpoint"
    words = ("torch.save", "save(")
    covers = ("CKP007",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield the saves that a rename of the same file follows in their function."""
        for save in torch_saves(module):
            rename = _rename_after(module, save)
            if rename is not None:
                message = f"The checkpoint is put in place by a rename (line {rename.lineno}): it is whole or absent"
                yield self.practice(module, save, message)


def _rename_after(module: Module, save: ast.Call) -> ast.Call | None:
    """Return the rename of the saved file that follows in the same function."""
    scope, path = module.tree.function(save), argument(save, 1, "f")
    if scope is None or path is None:
        return None
    names = {key(n) for n in (path, *walk_scope(path))} - {None}
    later = (c for c in module.tree.all(ast.Call) if c.lineno >= save.lineno and renames(module, c))
    here = (c for c in later if module.tree.scope(c) is scope)
    return next((c for c in here if names & {key(inner) for inner in walk_scope(c)}), None)
