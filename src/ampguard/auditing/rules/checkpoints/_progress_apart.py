"""How far a training came, where that is kept apart from the model: in a file of its own, or in the run's settings.

`torch.save(model.state_dict(), path)` beside `json.dump({"epoch": epoch}, file)` is one checkpoint in two files; and a
run that loads a model and begins at `args.start_epoch` goes on from what it saved, whoever says where.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import Save, restored, saves, torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.payloads import Contents, contents
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import argument, called, key, receiver, walk

_DUMPS = ("json", "pickle", "yaml", "joblib", "dill", "np", "numpy", "toml")
"""Owners of a `dump` or `save` that writes what it is given to a file."""

_READS = regex(r"loads?|safe_load|full_load|read|read_text|readline|loadtxt")
_START = regex(r"start|resum|begin|last|init|from|offset|done|prev|continue", re.IGNORECASE)


def goes_on(module: Module) -> bool:
    """Whether the file restores a model and reads the epoch or step that was saved with it."""
    if "model" not in restored(module):
        return False
    return any(True for _ in progress_reads(module)) or any(map(_is_read_alone, module.tree.all(ast.Assign)))


def progress_reads(module: Module) -> Iterator[ast.expr]:
    """Walk where an epoch or step is taken from what was loaded: by its key, by `get` or `pop`."""
    for node in module.tree.all(ast.Subscript):
        if isinstance(node.ctx, ast.Load) and _is_progress(node.slice) and _is_loaded(module, node.value):
            yield node
    for call in module.calls_of("get", "pop"):
        if call.args and _is_progress(call.args[0]) and _is_loaded(module, receiver(call)):
            yield call


def _is_progress(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and "progress" in kinds_of_word(node.value)


def _is_loaded(module: Module, node: ast.expr | None) -> bool:
    return node is not None and any(isinstance(v, ast.Call) and "load" in called(v) for v in assigned(module, node))


def _is_read_alone(node: ast.Assign) -> bool:
    """Whether a statement gives an epoch or step what a file holds: `start_epoch = int(file.read())`."""
    targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
    if not any("progress" in kinds_of_word((key(t) or "").rpartition(".")[2]) for t in targets):
        return False
    return any(isinstance(n, ast.Call) and _READS.fullmatch(called(n)) for n in walk(node.value))


def told_apart(module: Module) -> Iterator[Save]:
    """Walk the saves of a model, as those of its progress too, beside which one scope writes that to another file."""
    alone = [s for s in saves(module) if "model" in s.holds.kinds and not s.holds.kinds & {"optimizer", "progress"}]
    for save in alone:
        scope = module.tree.scope(save.call)
        written = [p for p in _written(module) if module.tree.scope(p) is scope and p is not save.payload]
        if save.holds.open or not any("progress" in _kinds(module, payload) for payload in written):
            continue
        if not any("optimizer" in _kinds(module, payload) for payload in written):
            yield replace(save, holds=Contents(save.holds.kinds | {"progress"}))


def _written(module: Module) -> Iterator[ast.expr]:
    """Walk what is written to files: by torch, json, pickle, or as text."""
    for call in (*torch_saves(module), *module.calls_of("dump", "save", "savetxt")):
        owner = (key(receiver(call)) or "").rpartition(".")[2]
        payload = argument(call, 1 if owner in ("np", "numpy") else 0, "obj")
        if payload is not None and owner in (*_DUMPS, "torch"):
            yield payload
    for call in module.calls_of("write", "write_text"):
        if len(call.args) == 1 and not isinstance(call.args[0], ast.Constant | ast.JoinedStr):
            yield call.args[0]


def _kinds(module: Module, payload: ast.expr) -> set[str]:
    """Return what is written: by what a dictionary holds, or by what a single value is called."""
    word = key(payload) or (key(payload.args[0]) if isinstance(payload, ast.Call) and payload.args else None) or ""
    return contents(module, payload).kinds | kinds_of_word(word.rpartition(".")[2])


def told_by_settings(module: Module) -> Iterator[Save]:
    """Walk the saves of a model alone in a loop that begins where the settings say, in a file that loads a model."""
    if "model" not in restored(module) or not module.mentions(("epoch", "step", "iter")):
        return
    for save in saves(module):
        if save.holds.open or save.holds.kinds != {"model"}:
            continue
        loop = next((loop for loop in module.tree.loops(save.call) if _begins_later(module, loop)), None)
        if loop is not None:
            yield replace(save, holds=Contents({"model", "progress"}))


def start_of(loop: ast.AST) -> ast.expr | None:
    """Return what a loop over epochs or steps starts at, where a name of such a start stands there."""
    over = walk(loop.iter) if isinstance(loop, ast.For) else ()
    counts = [n for n in over if isinstance(n, ast.Call) and called(n) in ("range", "trange")]
    start = counts[0].args[0] if counts and len(counts[0].args) > 1 else None
    word = (key(start) or "").rpartition(".")[2]
    return start if _START.search(word) and "progress" in kinds_of_word(word) else None


def _begins_later(module: Module, loop: ast.AST) -> bool:
    """Whether a loop counts epochs or steps from a start that is a setting, or was worked out."""
    start = start_of(loop)
    values = assigned(module, start) if start is not None else []
    return start is not None and (not values or any(not isinstance(v, ast.Constant) for v in values))
