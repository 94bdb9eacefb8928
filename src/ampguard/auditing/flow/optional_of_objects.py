"""Arguments taken off an object whose class leaves them None for some configuration, and asks about them itself.

`scheduler = box.lr_scheduler`, then `save(model, scheduler)`, and `scheduler.state_dict()` in `save`: the class of the
box gives `self.lr_scheduler = None` in one arm and tests it before its own uses, in whatever file it stands.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing, protected, tested_in_method
from ampguard.auditing.flow.optional_plain import failing_uses, is_conditional
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, key

_THINGS = "scaler|scheduler|lr_scheduler|ema"
_TAKEN = regex(rf"def \w+\([^)]*\b({_THINGS})\b")
_READ = regex(rf"\b\w+\.({_THINGS})\b")


def uses_of_what_objects_leave_out(module: Module) -> Iterator[Use]:
    """Walk the first use of each parameter that the file hands such an attribute to."""
    lines = module.about("scaler", "scheduler", "ema")
    if not _READ.search(lines) or not _TAKEN.search(module.text):
        return
    for function in module.functions:
        for arg, default in parameters(function):
            if default is not None or not re.fullmatch(_THINGS, arg.arg) or not is_thing(arg.arg):
                continue
            if arg.arg in tested_in_method(module, function):
                continue
            use = next(
                (u for u in failing_uses(module, function, arg.arg) if not is_conditional(module, u, function)), None
            )
            origin = _handing_call(module, function, arg.arg) if use is not None else None
            if use is not None and origin is not None and not protected(module, use, origin):
                yield Use(arg.arg, use, origin)


def _handing_call(module: Module, function: Function, name: str) -> ast.Call | None:
    """Return a call of the file that hands over an attribute of that name, which its class may leave None."""
    for call in module.calls.get(function.name, ()):
        around, given = module.tree.function(call), argument_for(call, function, name)
        if around is None or given is None or key(given) in tested_in_method(module, around):
            continue
        place = target(module, call)
        if place is None or place[1] is not function or not _is_attribute(module, given):
            continue
        tests = (at.test for at in module.tree.above(call) if isinstance(at, ast.If))
        if not any(name in ast.unparse(test) for test in tests) and _is_left_none(module, name):
            return call
    return None


def _is_attribute(module: Module, given: ast.expr) -> bool:
    """Whether a value is an attribute of an object other than `self`, or a name for one."""
    values = module.names.values(given.id, given) if isinstance(given, ast.Name) else [given]
    value = values[0] if len(values) == 1 else None
    return isinstance(value, ast.Attribute) and key(value.value) not in ("self", None) and is_thing(value.attr)


def _is_left_none(module: Module, name: str) -> bool:
    """Whether a file of the project gives `self.name = None` in an arm, or as the last word, and asks about it."""
    question = ("left None by its class", name)
    if question not in module.project.memo:
        left = re.compile(
            rf"^[ \t]+(?:self\.{name} = None[ \t]*$|self\.{name} = [^\n]* else None[ \t]*$)", re.MULTILINE
        )
        asks = re.compile(rf"\bif self\.{name}( is not None)?:|\bself\.{name} is not None\b")
        texts = module.project.texts(f"self.{name}")
        module.project.memo[question] = any(
            left.search(text) and asks.search(text) for path, text in texts if "test" not in path
        )
    return bool(module.project.memo[question])
