"""The transaction around an optimizer step. `guard.py` reads as the design; one idea in each other file."""

from ampguard.engine.collapse import Action, Collapse, Watcher, raise_collapse
from ampguard.engine.config import GuardConfig, ScheduleFactory
from ampguard.engine.fallback import Fallback
from ampguard.engine.grad_scaler import GradScaler
from ampguard.engine.guard import Guard

__all__ = [
    "Action",
    "Collapse",
    "Fallback",
    "GradScaler",
    "Guard",
    "GuardConfig",
    "ScheduleFactory",
    "Watcher",
    "raise_collapse",
]
