"""Checkpoints without the scaler's state, written by the very class, or file, that loads it from them.

Also where no scaler is seen at work: that a state is loaded says that it is meant to be there.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.reading.checkpoints import Save, restored, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.checkpoints._absent import reads_no_scaler


class LoadedBeside(NamedTuple):
    """A checkpoint that lacks a scaler's state, what loads it, and whether one class does both."""

    save: Save
    load: ast.Call
    by_one_class: bool

    @property
    def place(self) -> str:
        """Return the scaler's name."""
        return key(receiver(self.load)) or "the scaler"


def loaded_beside(module: Module) -> Iterator[LoadedBeside]:
    """Walk the first such checkpoint of each function."""
    if not module.mentions(("caler",)) or not module.mentions(("load_state_dict",)):
        return
    loads = restored(module).get("scaler", ())
    if not loads or not reads_no_scaler(module.text):
        return
    told = set()
    for save in saves(module):
        function, cls = module.tree.function(save.call), module.tree.class_of(save.call)
        if save.holds.open or "scaler" in save.holds.kinds or "optimizer" not in save.holds.kinds or function in told:
            continue
        near = [load for load in loads if cls is not None and module.tree.class_of(load) is cls]
        load = (near or loads)[0]
        told.add(function)
        yield LoadedBeside(save, load, bool(near))
