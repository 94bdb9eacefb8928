"""Training: `train`, its options, and the callbacks it calls. torch is imported at the first use of `train`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampguard.training.callbacks import Callback as Callback
    from ampguard.training.callbacks import StepEnd as StepEnd
    from ampguard.training.config import TrainConfig as TrainConfig
    from ampguard.training.run import train as train

_HOMES = {"Callback": "callbacks", "StepEnd": "callbacks", "TrainConfig": "config", "train": "run"}
__all__ = ["Callback", "StepEnd", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ampguard.training' has no attribute {name!r}")
    return getattr(import_module(f"ampguard.training.{_HOMES[name]}"), name)
