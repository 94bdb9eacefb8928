"""A flag of mixed precision that a function is given, beside an autocast and a scaler that are on whatever it says.

The flag may be a parameter, or an attribute that the constructor keeps it in; it may switch something else, as apex.
Or it is an option of the command line that nothing in the project reads.
Where a test of it stands anywhere above the autocast, or in front of it and leaves, it is heard.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, method
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, regions_in
from ampguard.auditing.reading.tree import Function, key, receiver, walk
from ampguard.auditing.rules.amp._precision.always_on import no_flag
from ampguard.auditing.rules.amp._steps import tests_above

_FLAG = regex(
    r"(use_|with_|enable_|is_|do_|no_|disable_)?(native_)?(amp|fp16|mixed_precision|mixed|half_precision|autocast)(_enabled|_training)?",
)
"""Names of a switch of mixed precision; `precision` and `dtype` say more than on and off."""

_MAKES = regex(r"caler|autocast")


def unheard(module: Module) -> Iterator[tuple[Region, str]]:
    """Walk (the autocast that is always on, the flag that is not asked) of functions that scale the loss as always."""
    regions = regions_in(module) if module.calls.get("scale") else []
    if not regions or any(r.enabled is not True or r.call not in module.tree.parents for r in regions):
        return
    if not all(no_flag(module, made) for made in scaler_constructions(module)):
        return
    told: set[Function] = set()
    for region in regions:
        function = module.tree.function(region.call)
        if function is None or function in told or not _scales(module, function):
            continue
        told.add(function)
        for place in _flags(module, function):
            if not _heard(module, function, region, place):
                yield region, place
                break
        else:
            yield from ((region, option) for option in _unread_options(module))


def _scales(module: Module, function: Function) -> bool:
    uses = (c for c in module.calls.get("scale", ()) if c.args and module.tree.function(c) is function)
    return any(is_scaler(module, receiver(c)) for c in uses)


def _flags(module: Module, function: Function) -> Iterator[str]:
    """Walk the parameters of a function, and the attributes that its constructor keeps its own in, that are flags."""
    yield from (arg.arg for arg, _ in parameters(function) if _FLAG.fullmatch(arg.arg))
    cls = module.tree.class_of(function)
    made = method(module, cls, "__init__") if cls is not None else None
    if cls is None or made is None or made[0] is not module:
        return
    given = {arg.arg for arg, _ in parameters(made[1]) if _FLAG.fullmatch(arg.arg)}
    kept = attributes(module, cls) if given else {}
    yield from (f"self.{name}" for name, values in kept.items() if len(values) == 1 and key(values[0]) in given)


def _unread_options(module: Module) -> Iterator[str]:
    """Walk the options of a parser that are flags of mixed precision, which no file of the project reads."""
    for call in module.calls_of("add_argument"):
        given = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        name = next((n.strip("-").replace("-", "_") for n in given if n.startswith("--")), "")
        if not _FLAG.fullmatch(name) or any(k.arg == "dest" for k in call.keywords):
            continue
        reads = re.compile(rf"(?<!cuda)(?<!torch)\.{name}\b|['\"]{name}['\"]|\b{name}\s*[=,:)]")
        if not any(reads.search(text) for _, text in module.project.texts(name)):
            yield "/".join(given)


def _heard(module: Module, function: Function, region: Region, place: str) -> bool:
    """Whether a flag, or a name that was assigned from it, may decide that the autocast is not reached."""
    words = {place, place.rpartition(".")[2]}
    cls = module.tree.class_of(function)
    for node in walk(cls if cls is not None and place.startswith("self.") else function):
        if isinstance(node, ast.Assign) and _speaks(node.value, words):
            words |= {name for target in node.targets if (name := key(target)) is not None}
        elif isinstance(node, ast.If | ast.IfExp) and _speaks(node.test, words) and _decides(node):
            return True
    above = [test for at in (region.call, *_callers_in(module, function)) for test, _ in tests_above(module, at)]
    return any(_speaks(test, words) for test in above) or _speaks(region.call, words)


def _callers_in(module: Module, function: Function) -> list[ast.Call]:
    return module.calls.get(function.name, [])


def _decides(branch: ast.If | ast.IfExp) -> bool:
    """Whether a branch makes a scaler or an autocast, or leaves."""
    if isinstance(branch, ast.IfExp) or _MAKES.search(ast.unparse(branch)):
        return _MAKES.search(ast.unparse(branch)) is not None
    return any(
        isinstance(arm[-1], ast.Return | ast.Continue | ast.Raise) for arm in (branch.body, branch.orelse) if arm
    )


def _speaks(node: ast.AST, words: set[str]) -> bool:
    """Whether an expression names the flag."""
    return any(isinstance(n, ast.Name | ast.Attribute) and key(n) in words for n in walk(node))
