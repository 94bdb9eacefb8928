"""A scaler that is always on, where a flag switches the autocast that it scales for: here, or where both go."""

import ast
from collections.abc import Iterator
from dataclasses import replace

from ampguard.auditing.flow.amp_flags import about_amp
from ampguard.auditing.reading.autocast_classes import switches_itself
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, region_of, regions_in, truth
from ampguard.auditing.reading.tree import Function, argument, key, receiver, walk_scope
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_HALF = ("float16", "unknown")


def always_on(module: Module) -> Iterator[tuple[ast.Call, ast.expr, str]]:
    """Walk (the scaler, the flag of autocast, where that is) of scalers that no flag switches.

    A scaler that a function of the project makes and returns counts where that function is called.
    """
    made = [call for call in scaler_constructions(module) if no_flag(module, call)]
    for call in (*made, *made_by_functions(module)):
        statement = module.tree.statement(call)
        place = key(statement.targets[0]) if isinstance(statement, ast.Assign) else None
        if place is None or is_made_by_choice(module, call):
            continue
        found = _beside(module, call, place) or _handed(module, call, place)
        if found is not None:
            yield call, *found


def no_flag(module: Module, made: ast.Call) -> bool:
    """Whether nothing among the arguments of a scaler can switch it off."""
    flag = argument(made, None, "enabled")
    return (flag is None or truth(module, flag) is True) and all(k.arg is not None for k in made.keywords)


def is_made_by_choice(module: Module, made: ast.Call) -> bool:
    """Whether a scaler is made only under a test of mixed precision, or of what switches an autocast of the file.

    Under another test (`if is_train:`) it is on wherever it is at all.
    """
    tests = [ast.unparse(test) for test, _ in tests_above(module, made)]
    flags = {ast.unparse(r.flag) for r in regions_in(module) if r.flag is not None} if tests else set()
    return any(about_amp(test) or any(flag in test for flag in flags) for test in tests)


def made_by_functions(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that give what is assigned as a scaler, of functions that return one which is always on."""
    for name in [name for name in module.calls if "caler" in name and not name.endswith("GradScaler")]:
        for call in module.calls[name]:
            place = target(module, call, ("GradScaler",))
            returned = [n.value for n in walk_scope(place[1]) if isinstance(n, ast.Return)] if place is not None else []
            if place is None or len(returned) != 1 or returned[0] not in scaler_constructions(place[0]):
                continue
            made = next(c for c in scaler_constructions(place[0]) if c is returned[0])
            if no_flag(place[0], made) and not any(tests_above(place[0], made)):
                yield call


def _beside(module: Module, made: ast.Call, place: str) -> tuple[ast.expr, str] | None:
    """Return the flag of the autocast in whose function the scaler scales, whatever the flag says."""
    for use in module.calls.get("scale", ()):
        if key(receiver(use)) == place and use.args and _same_scaler(module, made, use):
            if asked(module, use):
                continue
            around = enclosing(module, use)
            region = switched(module, around)
            if region is not None:
                return region.flag or made, f"line {region.call.lineno}"
            own = _switched_inside(module, around)
            if own is not None:
                return own.func, f"line {own.lineno}, by what it finds out itself"
    return None


def _switched_inside(module: Module, around: ast.AST) -> ast.Call | None:
    """Return the autocast of a function that is of a class of the project, and on only where that class says so."""
    opened = [i.context_expr for w in module.tree.all(ast.With) if enclosing(module, w) is around for i in w.items]
    regions = [(c, region_of(module, c)) for c in opened if isinstance(c, ast.Call)]
    found = [c for c, region in regions if region is not None]
    return found[0] if found and all(switches_itself(module, c) for c in found) else None


def _same_scaler(module: Module, made: ast.Call, use: ast.Call) -> bool:
    """Whether a name of one spelling is one thing: of one function or those in it, of one class, of the file."""
    home = enclosing(module, made)
    cls = module.tree.class_of(made)
    return (
        home is module.root or module.tree.inside(use, home) or (cls is not None and module.tree.class_of(use) is cls)
    )


def _handed(module: Module, made: ast.Call, place: str) -> tuple[ast.expr, str] | None:
    """Return the flag that is handed to a function together with the scaler, and switches the autocast there."""
    for calls in module.calls.values():
        for call in calls:
            given = [*call.args, *(k.value for k in call.keywords)]
            if enclosing(module, call) is not enclosing(module, made) or place not in map(key, given):
                continue
            found = target(module, call, ("autocast",))
            region = switched(*found) if found is not None else None
            if found is None or region is None or any(asked(found[0], c) for c in _scaling(*found)):
                continue
            flag = _given_flag(call, found[1], region)
            if flag is not None and not isinstance(flag, ast.Constant) and _scaling(*found):
                return flag, f"line {region.call.lineno} of {found[0].path}"
    return None


def _given_flag(call: ast.Call, function: Function, region: Region) -> ast.expr | None:
    """Return what a call gives for the flag of a region: the flag, or the settings `args` that hold it."""
    asked = region.flag.operand if isinstance(region.flag, ast.UnaryOp) else region.flag
    base, _, rest = (key(asked) or "").partition(".")
    if base not in {a.arg for a, _ in parameters(function)} or base in ("self", "cls"):
        return None
    given = argument_for(call, function, base)
    return region.flag if rest and given is not None else given


def switched(module: Module, around: ast.AST) -> Region | None:
    """Return the autocast of a function, where a plain flag switches it and there is no other."""
    regions = [r for r in regions_in(module) if r.call in module.tree.parents and enclosing(module, r.call) is around]
    regions = [chosen_here(module, r) for r in regions]
    plain = all(r.enabled is None and r.certain in _HALF and is_plain(r.flag) for r in regions)
    return regions[0] if regions and plain else None


def chosen_here(module: Module, region: Region) -> Region:
    """Return a region that is on wherever it is opened with the flag under which alone it is."""
    return replace(region, enabled=None, flag=_chosen_by(module, region)) if region.enabled else region


def is_plain(flag: ast.expr | None) -> bool:
    """Whether a flag is a name, an attribute or a key, or the opposite of one: `not args.no_amp`."""
    if isinstance(flag, ast.UnaryOp) and isinstance(flag.op, ast.Not):
        return key(flag.operand) is not None
    return key(flag) is not None


def _chosen_by(module: Module, region: Region) -> ast.expr | None:
    """Return the flag of mixed precision under which alone an autocast is made: `autocast() if args.fp16 else ...`."""
    tests = [(test, inside) for test, inside in tests_above(module, region.call) if about_amp(ast.unparse(test))]
    return tests[0][0] if len(tests) == 1 and tests[0][1] else None


def _scaling(module: Module, function: Function) -> list[ast.Call]:
    uses = (c for c in module.calls.get("scale", ()) if module.tree.function(c) is function)
    return [c for c in uses if is_scaler(module, receiver(c))]


def asked(module: Module, use: ast.Call) -> bool:
    """Whether the scaler scales only under a test, which may be that of the flag."""
    return any(True for _ in tests_above(module, use))
