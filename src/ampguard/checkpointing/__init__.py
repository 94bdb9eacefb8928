"""Checkpoints: what is saved (state.py) and how it survives on a disk (store.py)."""

from ampguard.checkpointing.rng import capture_rng, restore_rng
from ampguard.checkpointing.state import Stateful, collect, restore, restore_model
from ampguard.checkpointing.store import CheckpointStore, Loaded, Rejected

__all__ = [
    "CheckpointStore",
    "Loaded",
    "Rejected",
    "Stateful",
    "capture_rng",
    "collect",
    "restore",
    "restore_model",
    "restore_rng",
]
