"""ampguard: mixed precision in PyTorch training that is proven faster and as accurate, and that survives.

`import ampguard` imports neither torch nor a third-party package; each public name is loaded at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampguard.auditing.run import audit as audit
    from ampguard.benchmarking.run import bench as bench
    from ampguard.engine import GradScaler as GradScaler
    from ampguard.engine import Guard as Guard
    from ampguard.errors import AmpguardError as AmpguardError
    from ampguard.loading import load_model as load_model
    from ampguard.precision import doctor as doctor
    from ampguard.task import LossSum as LossSum
    from ampguard.task import Sum as Sum
    from ampguard.task import Task as Task
    from ampguard.training import Callback as Callback
    from ampguard.training import train as train
    from ampguard.tuning.run import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "AmpguardError": "ampguard.errors",
    "audit": "ampguard.auditing.run",
    "bench": "ampguard.benchmarking.run",
    "Callback": "ampguard.training",
    "GradScaler": "ampguard.engine",
    "Guard": "ampguard.engine",
    "doctor": "ampguard.precision",
    "load_model": "ampguard.loading",
    "LossSum": "ampguard.task",
    "Sum": "ampguard.task",
    "Task": "ampguard.task",
    "train": "ampguard.training",
    "tune": "ampguard.tuning.run",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ampguard' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
