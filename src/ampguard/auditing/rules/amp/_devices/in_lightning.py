"""Moves to a GPU within a LightningModule, whose trainer moves module and batches to where it runs."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.rules.amp._devices.demands import FACTORIES, demands
from ampguard.auditing.rules.amp._devices.refused import tests_outside


def moved_by_lightning(module: Module) -> Iterator[ast.Call]:
    """Walk the `.cuda()`, `.to("cuda")` and tensors made on a GPU in the classes built on LightningModule."""
    if not module.mentions(("LightningModule",)) or not module.mentions((".cuda(", '"cuda', "'cuda")):
        return
    for call in demands(module):
        owner = module.tree.class_of(call)
        if owner is None or called(call) not in ("cuda", "to", *FACTORIES):
            continue
        built_on = {(key(base) or "").rpartition(".")[2] for base in owner.bases}
        if "LightningModule" in built_on and not _is_asked(module, call):
            yield call


def _is_asked(module: Module, call: ast.Call) -> bool:
    return any("cuda" in text or "device" in text for t, _ in tests_outside(module, call) for text in (ast.unparse(t),))
