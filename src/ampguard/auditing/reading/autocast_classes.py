"""Autocast through a class of the project's own: one that derives from torch's, holds one, or sets torch's switch.

`with MyAutocast(): ...` computes in half precision as torch's own does; a class that sets the switch by a test of its
own (the kind of GPU, a setting) may leave it off without its user's knowing.
"""

import ast

from ampguard.auditing.reading.calls import constructed
from ampguard.auditing.reading.kinds import autocast_of
from ampguard.auditing.reading.module import Module

_ENTRIES = ("__init__", "__post_init__", "__enter__")
_SETS = ("set_autocast_enabled", "set_autocast_gpu_enabled")


def autocast_class(module: Module, call: ast.Call) -> tuple[Module, ast.ClassDef] | None:
    """Return the class of the project that a call makes a context manager of, where its text speaks of autocast."""
    found = constructed(module, call, ("autocast",))
    if found is None or not found[0].mentions(("autocast",)):
        return None
    own = any(isinstance(n, ast.FunctionDef) and n.name == "__enter__" for n in found[1].body)
    return found if own or derived(*found) is not None else None


def derived(module: Module, cls: ast.ClassDef) -> ast.expr | None:
    """Return the base of a class that is torch's autocast, or None."""
    names = ((base, module.names.dotted(base)) for base in cls.bases)
    return next((base for base, dotted in names if any(d.split(".")[-1] == "autocast" for d in dotted)), None)


def held(module: Module, cls: ast.ClassDef) -> ast.Call | None:
    """Return the autocast that a class makes and enters, or None."""
    methods = [item for item in cls.body if isinstance(item, ast.FunctionDef) and item.name in _ENTRIES]
    inside = (c for calls in module.calls.values() for c in calls if module.tree.function(c) in methods)
    return next((c for c in inside if autocast_of(module, c) is c and not _is_opened(module, c)), None)


def _is_opened(module: Module, call: ast.Call) -> bool:
    """Whether a call stands in a `with` of its own: what it opens ends with the method."""
    return isinstance(module.tree.parents.get(call), ast.withitem)


def switch(module: Module, cls: ast.ClassDef) -> ast.expr | None:
    """Return what a class sets torch's switch to when it is entered, or None."""
    for call in module.calls_of(*_SETS):
        function = module.tree.function(call)
        if module.tree.class_of(call) is cls and function is not None and function.name == "__enter__":
            return call.args[-1] if call.args else None
    return None


def chooses_dtype(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class sets the dtype too, so that it need not be float16."""
    return any(module.tree.inside(c, cls) for name in module.calls if "dtype" in name for c in module.calls[name])


def switches_itself(module: Module, call: ast.Call) -> bool:
    """Whether a class decides by a test of its own whether it is on: it sets the switch to what it worked out."""
    found = autocast_class(module, call)
    value = switch(*found) if found is not None else None
    return value is not None and not isinstance(value, ast.Constant) and not call.args and not call.keywords
