"""The optional package of a tracker: imported when the tracker is made, never earlier; missing, it is told exactly.

A package that is there but fails on its import (half installed, too old for its own parts) is another fault: that
error passes as it is.
"""

from importlib import import_module
from typing import Any

from ampguard.errors import MissingExtraError


def import_extra(package: str) -> Any:
    """Return the imported `package`, whose extra and whose tracker bear its name.

    Raises:
        MissingExtraError: It is not installed. A folder of its name without code (W&B leaves one called `wandb` where
            it ran) is importable and counts as not installed.
        ImportError: It is installed and cannot be imported.
    """
    purpose = f"The tracker {package!r}"
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(package, package, purpose) from error
    if getattr(module, "__file__", None) is None:
        raise MissingExtraError(package, package, purpose)
    return module
