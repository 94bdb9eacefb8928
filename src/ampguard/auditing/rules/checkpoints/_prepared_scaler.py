"""The scaler of an accelerator: nobody sees it, and `save_state()` alone would keep it.

Where `Accelerator(mixed_precision=...)` may be float16, each prepared optimizer works with `accelerator.scaler`. A
checkpoint put together by hand from the states of models and optimizers leaves it out.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, key
from ampguard.auditing.rules.checkpoints._handed import handed_saves

_KEEPS = regex(r"(?<![A-Za-z])scaler\b|_scaler\b|save_state\(|register_for_checkpointing")
_NO_SCALE = ("no", "bf16", "fp8", None)


def saves_beside_an_accelerator(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the save, the accelerator) where optimizers go into a file without the accelerator's scaler."""
    if "Accelerator(" not in module.text or "mixed_precision" not in module.text or _KEEPS.search(module.text):
        return
    made = next((c for c in module.calls_of("Accelerator") if _may_scale(c)), None)
    if made is None or not module.mentions((".prepare(", "prepare_optimizer(")):
        return
    place = key(made_at[0]) if (made_at := getattr(module.tree.statement(made), "targets", None)) else None
    for save in (*saves(module), *handed_saves(module)):
        kinds = save.holds.kinds
        if {"model", "optimizer"} <= kinds and "scaler" not in kinds and not save.holds.open:
            yield save.call, f"{place or 'accelerator'}.scaler"


def _may_scale(call: ast.Call) -> bool:
    """Whether an accelerator is told a precision, and one that may be float16."""
    told = argument(call, None, "mixed_precision")
    return told is not None and not (isinstance(told, ast.Constant) and told.value in _NO_SCALE)
