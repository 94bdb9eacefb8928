"""Methods that a base class runs under autocast, and that a class built on it overrides with a whole training step.

The base class, here or in another file, opens the region, holds the scaler and means to scale what the method returns.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, bases
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, region_around
from ampguard.auditing.reading.tree import FUNCTIONS, Function, key, receiver, walk
from ampguard.auditing.rules.amp._precision.always_on import is_plain, no_flag
from ampguard.auditing.rules.amp._steps import backward_calls, loss_of, tests_above

_AUTOCAST = regex(r"autocast")
_OFF = regex(r"enabled\s*=\s*False")


class OverriddenStep(NamedTuple):
    """A method with backward passes of its own, which a base class runs in a region."""

    method: Function
    passes: list[ast.Call]
    home: Module
    base: ast.ClassDef
    region: Region


def overridden_steps(module: Module) -> list[OverriddenStep]:
    """Return the methods of a file that override what a base class runs under autocast, and go backward."""
    return module.once("overridden steps", lambda: list(_overridden(module)))


def _overridden(module: Module) -> Iterator[OverriddenStep]:
    passes = backward_calls(module) if module.mentions((".backward(",)) and module.role != "test" else []
    if passes and not module.project.says(_AUTOCAST, "autocast"):
        return
    for cls in dict.fromkeys(c for call in passes if (c := module.tree.class_of(call)) is not None and c.bases):
        own = {f.name: f for f in cls.body if isinstance(f, FUNCTIONS)}
        for home, base in _built_on(module, cls):
            for name, region in _run_in_regions(home, base, frozenset(own)):
                inner = _passes_below(module, own, name, passes)
                if inner:
                    yield OverriddenStep(own[name], inner, home, base, region)


def _built_on(module: Module, cls: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
    """Walk the base classes of a class, also one that a package of the project hands on by `import *`."""
    known = list(bases(module, cls))
    yield from known
    for node in cls.bases if not known else ():
        dotted = next(iter(module.names.dotted(node)), "")
        package, _, name = dotted.rpartition(".")
        if not package or module.project.find(package, module.path) is None:
            continue
        paths = [path for path, text in module.project.texts(f"class {name}(") if "autocast" in text]
        home = module.project.module(paths[0]) if len(paths) == 1 else None
        yield from ((home, c) for c in home.tree.all(ast.ClassDef) if c.name == name) if home is not None else ()


def _run_in_regions(home: Module, base: ast.ClassDef, names: frozenset[str]) -> Iterator[tuple[str, Region]]:
    """Walk the methods that a class runs on itself in a region, where nothing overrides the one that runs them."""
    told: set[str] = set()
    for name in sorted(names) if home.mentions(("autocast",)) else ():
        for call in home.calls.get(name, ()):
            runner = home.tree.function(call)
            if key(receiver(call)) != "self" or runner is None or home.tree.class_of(call) is not base:
                continue
            region = region_around(home, call)
            if region is not None and region.enabled is not False and runner.name not in names and name not in told:
                told.add(name)
                yield name, region


def _passes_below(module: Module, own: dict[str, Function], name: str, passes: list[ast.Call]) -> list[ast.Call]:
    """Return the backward passes of a method and of those of its class that it calls, outside what is switched off."""
    seen, left = {name}, [name]
    found: list[ast.Call] = []
    while left:
        function = own[left.pop()]
        if _OFF.search(module.text_of(function)):
            return []
        found += [c for c in passes if module.tree.function(c) is function]
        for call in (n for n in walk(function) if isinstance(n, ast.Call) and key(receiver(n)) == "self"):
            word = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if word in own and word not in seen:
                seen.add(word)
                left.append(word)
    return sorted(found, key=lambda c: c.lineno)


def unscaled_overrides(module: Module) -> Iterator[tuple[ast.Call, OverriddenStep]]:
    """Walk the plain backward passes of such methods, where the base class scales what the method returns."""
    for step in overridden_steps(module):
        scaling = [c for c in step.home.calls_of("scale") if is_scaler(step.home, receiver(c))]
        if not any(step.home.tree.class_of(c) is step.base for c in scaling):
            continue
        for call in step.passes:
            if not loss_of(module, call)[1] and not module.text_of(step.method).count("scale("):
                yield call, step


def scaled_whatever_the_flag(module: Module) -> Iterator[tuple[ast.Call, ast.expr, OverriddenStep]]:
    """Walk (what scales, the flag of autocast) of such methods, where the base class's scaler is always on."""
    told: set[ast.ClassDef] = set()
    for step in overridden_steps(module):
        flag, made = step.region.flag, scaler_constructions(step.home)
        if step.region.enabled is not None or flag is None or not is_plain(flag) or step.base in told:
            continue
        for place, values in attributes(step.home, step.base).items():
            plain = [v for v in values if isinstance(v, ast.Call) and v in made and no_flag(step.home, v)]
            others = [v for v in values if not (isinstance(v, ast.Constant) and v.value is None)]
            if len(plain) != 1 or len(others) != 1 or any(tests_above(step.home, plain[0])):
                continue
            below = [n for call in step.passes for n in walk(call) if isinstance(n, ast.Call)]
            uses = [n for n in below if key(n.func) == f"self.{place}.scale"]
            if uses and not any(tests_above(module, uses[0])):
                told.add(step.base)
                yield uses[0], flag, step
