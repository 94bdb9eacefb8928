"""A scaler and the autocast of another file that listen to different flags, which this file hands to both."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned, attributes, target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, flag_words, regions_in, truth
from ampguard.auditing.reading.tree import Function, argument, key
from ampguard.auditing.rules.amp._precision.always_on import is_plain


def switched_apart(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the scaler, its flag and that of the autocast) of the one scaler of a file that opens no autocast."""
    made = scaler_constructions(module)
    flag = argument(made[0], None, "enabled") if len(made) == 1 and module.calls.get("scale") else None
    if flag is None or truth(module, flag) is not None or not is_plain(flag) or regions_in(module):
        return
    ours = source_of(module, flag)
    given = [(where, value) for where, value in _flags_given(module) if source_of(module, value)]
    if ours and given and all(not source_of(module, value) & ours for _, value in given):
        where, other = given[0]
        yield made[0], f"{module.segment(flag, 30)}, the autocast of {where.path} to {module.segment(other, 30)}"


def _flags_given(module: Module) -> Iterator[tuple[Module, ast.expr]]:
    """Walk the flags that this file gives functions and classes of others for the autocast in these."""
    names = module.project.defined_where(("autocast(",))
    for call in (c for name in names & module.calls.keys() for c in module.calls[name]):
        place = target(module, call, ("autocast(",))
        if place is None or place[0] is module:
            continue
        for region in _regions_of(*place):
            name = _parameter_behind(*place, region)
            value = argument_for(call, place[1], name) if name is not None else None
            if value is not None and is_plain(value):
                yield place[0], value


def _regions_of(where: Module, function: Function) -> list[Region]:
    """Return the autocasts of a function, for a constructor those of its class."""
    owner = where.tree.class_of(function) if function.name == "__init__" else None
    return [
        r for r in regions_in(where) if r.call in where.tree.parents and where.tree.inside(r.call, owner or function)
    ]


def _parameter_behind(where: Module, function: Function, region: Region) -> str | None:
    """Return the parameter that switches an autocast of float16, by itself or by the attribute that keeps it."""
    half = region.certain == "float16" or (region.certain == "unknown" and argument(region.call, 1, "dtype") is None)
    if region.enabled is not None or region.flag is None or not half:
        return None
    flag, cls = region.flag, where.tree.class_of(function)
    kept = attributes(where, cls).get(flag.attr, []) if isinstance(flag, ast.Attribute) and cls is not None else []
    name = key(kept[0]) if len(kept) == 1 and key(flag) == f"self.{flag.attr}" else key(flag)  # type: ignore[attr-defined]
    return name if name in {arg.arg for arg, _ in parameters(function)} else None


def source_of(module: Module, flag: ast.expr | None) -> frozenset[str]:
    """Return the words of a flag and of what it was assigned from; () for a parameter, whose source is elsewhere."""
    if isinstance(flag, ast.Name):
        found = module.names.lookup(flag.id, flag)
        if found is None or any(b.kind != "assign" for b in found[1]):
            return frozenset()
    if isinstance(flag, ast.Attribute) and key(flag.value) == "self" and len(flag_words(module, flag)) < 2:
        values = assigned(module, flag)
        if not values or not all(isinstance(v, ast.Attribute | ast.Subscript) for v in values):
            return frozenset()
    return flag_words(module, flag) - {"args", "self", "cfg", "config", "opt", "torch", "cuda"}
