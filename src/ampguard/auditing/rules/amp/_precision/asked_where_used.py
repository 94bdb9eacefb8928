"""Scalers that are made and always on, where every use asks a switch first, and one switches each autocast beside them.

Where the switch is off they are for nothing: torch warns without CUDA, and checkpoints hold a state that says nothing.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.amp_flags import about_amp
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import regions_in
from ampguard.auditing.reading.tree import receiver
from ampguard.auditing.rules.amp._precision.always_on import is_made_by_choice, no_flag
from ampguard.auditing.rules.amp._steps import tests_above

_FILES = 6
"""Files that scale: where more do, which scaler is which is not known."""


def asked_where_used(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the scaler, where a switch stands above its use), of the one scaler that a file makes."""
    made = scaler_constructions(module)
    if len(made) != 1 or not no_flag(module, made[0]) or is_made_by_choice(module, made[0]):
        return
    uses = list(_uses(module))
    homes = {where.path: where for where, _ in uses} | {module.path: module}
    regions = [region for where in homes.values() for region in regions_in(where)]
    switched = bool(regions) and all(region.enabled is None for region in regions)
    if uses and switched and all(_asks(where, use) for where, use in uses):
        where, use = uses[0]
        yield made[0], f"line {use.lineno}" + (f" of {where.path}" if where is not module else "")


def _uses(module: Module) -> Iterator[tuple[Module, ast.Call]]:
    """Walk the calls of the project that scale a loss, with their files."""
    paths = [path for path, _ in module.project.texts("caler.scale(")]
    for path in paths if len(paths) <= _FILES else ():
        where = module if path == module.path else module.project.module(path)
        for call in where.calls_of("scale") if where is not None else ():
            if where is not None and call.args and is_scaler(where, receiver(call)):
                yield where, call


def _asks(where: Module, use: ast.Call) -> bool:
    return any(about_amp(ast.unparse(test)) for test, _ in tests_above(where, use))
