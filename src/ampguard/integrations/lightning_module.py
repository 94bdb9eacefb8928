"""What the Lightning doors ask a module: which package it is of, which hooks are its own, what forbids a guard.

Told by the names of the modules that classes and functions were written in, so that nothing is imported.
"""

from typing import Any

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Two names of one library, and two class trees; the first is the newer."""

_BASES = ("callbacks.callback", "core.datamodule", "core.hooks", "core.module")
_HOMES = frozenset(f"{package}.{base}" for package in PACKAGES for base in _BASES)
"""Where Lightning keeps the hooks that do nothing, or the usual thing."""


def package_of(value: Any) -> str:
    """Return the package of PACKAGES that the class of a Lightning object comes from."""
    homes = [f"{cls.__module__}." for cls in type(value).__mro__]
    return next(package for package in PACKAGES if any(home.startswith(f"{package}.") for home in homes))


def overrides(owner: Any, hook: str) -> bool:
    """Return whether a hook of a module, datamodule or callback is other than Lightning's own."""
    return getattr(getattr(owner, hook), "__module__", None) not in _HOMES


def unguardable(module: Any) -> str | None:
    """Return why nobody but the module can take its steps, as a phrase that continues its name; None: nothing does."""
    if not module.automatic_optimization:
        return "optimizes manually: its training_step takes the steps, of one optimizer or several"
    if overrides(module, "backward"):
        return "has a backward of its own, which cannot scale the loss"
    return None
