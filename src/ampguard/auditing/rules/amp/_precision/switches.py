"""What switches a scaler and what switches the autocasts of the functions that it scales in, compared by their words.

The switch of either is its `enabled=`, the tests of mixed precision that it is made or opened under, and what chooses
the autocast's dtype; of a scaler also the tests that all of its `scale` calls stand under. A switch that only asks for
the device is none. What each flag was assigned from, or given by callers, counts as its words.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ampguard.auditing.flow.amp_flags import about_amp
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, flag_words, regions_in, truth
from ampguard.auditing.reading.tree import argument, key, receiver, walk
from ampguard.auditing.rules.amp._precision.asked_elsewhere import given_outside
from ampguard.auditing.rules.amp._precision.made_where_on import is_open
from ampguard.auditing.rules.amp._steps import arms, bound_to, enclosing, tests_above

_OF_A_DEVICE = regex(
    r"(\w*_)?(device|cuda|n?gpus?|cpu|mps)(_\w*)?|cuda:\d|is_available|type|startswith|str|lower|int|bool|torch|self"
    r"|args|cfg|config|opts?|options|hparams|get|getattr|hasattr|version|len|any|all"
)
"""Words of a flag that say nothing of mixed precision."""

_OF_A_SCALER = regex(r"scaler", re.IGNORECASE)
_TESTED = regex(r"amp(?!le)|fp16|float16|half|mixed|precision|autocast|scaler", re.IGNORECASE)
_HALVES = {"float16", "unknown"}


class Apart(NamedTuple):
    """A scaler and an autocast that listen to different switches.

    Attributes:
        place: The construction of the scaler, or the first call that scales, where it is made elsewhere.
        scaler: The switch of the scaler, None where it is always on.
        region: The call that opens the autocast.
        autocast: The switch of the autocast, None where it is always on.
    """

    place: ast.Call
    scaler: ast.expr | None
    region: ast.Call
    autocast: ast.expr | None


def apart(module: Module) -> Iterator[Apart]:
    """Walk the scalers that scale in this file beside autocasts that listen to something else."""
    regions = [r for r in regions_in(module) if r.call in module.tree.parents and r.enabled is not False]
    regions = [r for r in regions if r.dtypes & _HALVES and r.device != "cpu" and _is_readable(r.call)]
    uses = [c for c in module.calls.get("scale", ()) if c.args and is_scaler(module, receiver(c))] if regions else []
    for cls, place in dict.fromkeys((_owner(module, c), key(receiver(c))) for c in uses):
        own = [c for c in uses if (_owner(module, c), key(receiver(c))) == (cls, place)]
        made = [c for c in scaler_constructions(module) if bound_to(module, c) == place]
        made = [c for c in made if cls is None or module.tree.class_of(c) is cls]
        beside = [r for r in regions if any(enclosing(module, r.call) is enclosing(module, c) for c in own)]
        if len(made) > 1 or not beside or not all(map(_is_readable, made)):
            continue
        found = _compared(module, made, own, beside)
        if found is not None:
            yield found


def _owner(module: Module, use: ast.Call) -> ast.ClassDef | None:
    """Return the class whose attribute scales, None for a scaler of a function or of the file."""
    place = key(receiver(use)) or ""
    return module.tree.class_of(use) if place.startswith("self.") else None


def _is_readable(call: ast.Call) -> bool:
    return all(keyword.arg is not None for keyword in call.keywords)


def _compared(module: Module, made: list[ast.Call], uses: list[ast.Call], regions: list[Region]) -> Apart | None:
    enabled = _switches(module, [argument(made[0], None, "enabled")]) if made else []
    asked = [list(_tested(module, use)) for use in uses]
    tests = [*(_tested(module, made[0]) if made else ()), *(asked[0] if all(asked) else ())]
    tests = [t for t in tests if not _about_scalers(module, t)]  # it is on where it is
    ours = [*enabled, *_switches(module, tests)]
    theirs = [(r, _switches(module, _conditions(module, r))) for r in regions]
    if any(_about_scalers(module, s) for _, switches in theirs for s in switches):
        return None
    place, first = (made or uses)[0], regions[0].call
    if made and asked[0] and all(asked) and (unlike := _made_under_another(module, made[0], uses[0])) is not None:
        return Apart(place, unlike, first, asked[0][0])
    if all(switches for _, switches in theirs) and made and not ours and not any(asked):
        return Apart(place, None, first, theirs[0][1][0])
    if ours and not any(switches for _, switches in theirs):
        open_anyway = all(is_open(module, r, frozenset().union(*(_named(module, s) for s in ours))) for r in regions)
        return Apart(place, ours[0], first, None) if open_anyway and _about_precision(module, ours) else None
    words = _words(module, ours)
    others = [_words(module, switches) for _, switches in theirs]
    if words and all(other and not words & other for other in others):
        return Apart(place, ours[0], first, theirs[0][1][0])
    return None


def _made_under_another(module: Module, made: ast.Call, use: ast.Call) -> ast.expr | None:
    """Return the test that a local scaler is made under, where it is used in that function under an unlike one."""
    name = receiver(use)
    if not isinstance(name, ast.Name) or enclosing(module, made) is not enclosing(module, use):
        return None
    tests = [test for test, inside in tests_above(module, made) if inside]
    asked = {word for test, _ in tests_above(module, use) for word in _named(module, test)}
    if (
        len(module.names.values(name.id, name)) != 1
        or arms(module, made, use)
        or any(made in ast.walk(t) for t in tests)
    ):
        return None
    unlike = [t for t in tests if not _named(module, t) & asked and not _shared_above(module, t, use)]
    return unlike[0] if unlike and not isinstance(module.tree.parents[made], ast.IfExp) else None


def _shared_above(module: Module, test: ast.expr, use: ast.Call) -> bool:
    return any(module.tree.parents.get(test) is above for above in module.tree.above(use))


def _about_precision(module: Module, switches: list[ast.expr]) -> bool:
    return any(about_amp(ast.unparse(s)) or _TESTED.search(" ".join(_named(module, s))) for s in switches)


def _conditions(module: Module, region: Region) -> Iterator[ast.expr | None]:
    yield region.flag
    yield from _tested(module, region.call)
    if (dtype := argument(region.call, 1, "dtype")) is not None and region.certain == "unknown":
        yield dtype
    if len(region.dtypes) > 1:
        yield dtype


def _tested(module: Module, node: ast.AST) -> Iterator[ast.expr]:
    """Walk the tests of mixed precision above a node."""
    for test, _ in tests_above(module, node):
        if _TESTED.search(ast.unparse(test)) or _TESTED.search(" ".join(_named(module, test))):
            yield test


def _switches(module: Module, flags: Iterable[ast.expr | None]) -> list[ast.expr]:
    """Return the flags that switch something by more than the device."""
    known = [f for f in flags if f is not None and truth(module, f) is None and not isinstance(f, ast.Constant)]
    return [f for f in known if _words(module, [f]) != frozenset()]


def _words(module: Module, flags: list[ast.expr]) -> frozenset[str] | None:
    """Return the words of flags and of where their values come from; None where a caller gives one that is not seen."""
    found: set[str] = set()
    for flag in flags:
        found |= _named(module, flag)
        for name in (n for n in walk(flag) if isinstance(n, ast.Name | ast.Attribute)):
            given = given_outside(module, name)
            if not given and _is_parameter(module, name):
                return None
            for where, value in given:
                found |= _named(where, value)
    return frozenset(word for word in found if _TESTED.search(word) or not _OF_A_DEVICE.fullmatch(word))


def _is_parameter(module: Module, name: ast.expr) -> bool:
    function = module.tree.function(name)
    above = module.tree.parents.get(name)
    named = isinstance(name, ast.Name) and function is not None and not isinstance(above, ast.Attribute)
    return named and name.id in {a.arg for a, _ in parameters(function)}  # type: ignore[attr-defined,arg-type]


def _about_scalers(module: Module, flag: ast.expr) -> bool:
    """Whether a switch asks for the scaler itself: on where that is."""
    return bool(_OF_A_SCALER.search(ast.unparse(flag))) or any(map(_OF_A_SCALER.search, _named(module, flag)))


def _named(module: Module, flag: ast.expr) -> frozenset[str]:
    """Return the words of a flag, without the names of the dictionaries that it is looked up in."""
    held = {(key(at.value) or "").rpartition(".")[2] for at in walk(flag) if isinstance(at, ast.Subscript)}
    return flag_words(module, flag) - held
