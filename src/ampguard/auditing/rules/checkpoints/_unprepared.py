"""Schedules that `accelerator.save_state()` does not keep, because they were never prepared."""

import ast

from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.prepared import leaves_schedule_out
from ampguard.auditing.reading.tree import key, receiver


def unprepared_schedule(module: Module) -> tuple[ast.Call, ast.expr, ast.Call] | None:
    """Return (the save, the schedule that is stepped, the call that prepares its optimizer), or None."""
    if "save_state(" not in module.text or "register_for_checkpointing" in module.text:
        return None
    save = next((c for c in module.calls_of("save_state") if "ccelerator" in (key(receiver(c)) or "")), None)
    prepares = leaves_schedule_out(module) if save is not None else None
    if save is None or prepares is None:
        return None
    for call in module.calls_of("step"):
        owner = receiver(call)
        if owner is not None and not call.args and is_scheduler(module, owner) and not is_optimizer(module, owner):
            return save, owner, prepares
    return None
