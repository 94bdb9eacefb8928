"""Uses of attributes of any name that `__init__` leaves None for some option, and that the class asks about elsewhere.

`self.attn2 = Attention(...) if cross else None` with `if self.attn2 is not None` in one method, and `self.attn2.heads`
under no test in another, or on the other side of a test that tells nothing of it (see `optional_both_arms`). A method
that is named for the attribute, or whose callers ask, is left alone.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, is_thing, tested_in_method
from ampguard.auditing.flow.optional_attributes import runs_untold
from ampguard.auditing.flow.optional_both_arms import asked_in_the_other_arm
from ampguard.auditing.flow.optional_doubted import is_looked_after
from ampguard.auditing.flow.optional_plain import failing_uses, is_conditional
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal


def uses_of_what_was_left_out(module: Module) -> Iterator[Use]:
    """Walk the first use of each such attribute in each method."""
    if not module.mentions(("= None", "else None")):
        return
    for cls in module.tree.all(ast.ClassDef):
        methods = [item for item in cls.body if isinstance(item, FUNCTIONS)]
        asked = {place for m in methods for place in tested_in_method(module, m) if place.startswith("self.")}
        for name, none in _left_out(module, cls, asked) if asked else ():
            place = f"self.{name}"
            for method in (m for m in methods if m.name != "__init__" and f"{place}" in module.text_of(m)):
                use = _first_use(module, method, place, name) or _beside_a_question(module, method, place, name, none)
                if use is not None:
                    yield Use(place, use, none)


def _left_out(module: Module, cls: ast.ClassDef, asked: set[str]) -> Iterator[tuple[str, ast.expr]]:
    """Walk (attribute, its None) of what is asked about and `__init__` alone gives: an object here, None there."""
    for name, values in attributes(module, cls).items():
        if f"self.{name}" not in asked or is_thing(f"self.{name}"):
            continue
        makers = [module.tree.function(value) for value in values]
        if not all(maker is not None and maker.name == "__init__" for maker in makers):
            continue
        if any(True for value in values for _ in module.tree.handlers_around(value)):
            continue  # where it could not be made, the handler may leave
        arms = [arm for v in values for arm in ((v.body, v.orelse) if isinstance(v, ast.IfExp) else (v,))]
        none = next((arm for arm in arms if is_none_literal(arm)), None)
        if none is not None and any(isinstance(arm, ast.Call) for arm in arms) and len(arms) == 2:
            yield name, none


def _first_use(module: Module, method: Function, place: str, name: str) -> ast.AST | None:
    uses = (use for use in failing_uses(module, method, place) if not is_conditional(module, use, method, loops=True))
    use = next(uses, None)
    if use is None or is_looked_after(module, use, method, place) or not runs_untold(module, method, name):
        return None
    return use


def _beside_a_question(module: Module, method: Function, place: str, name: str, none: ast.expr) -> ast.AST | None:
    """Return the first use under tests whose other sides ask about the place, and that tell nothing of it."""
    if place not in tested_in_method(module, method) or not runs_untold(module, method, name):
        return None
    uses = (use for use in failing_uses(module, method, place) if not any(module.tree.handlers_around(use)))
    return next((use for use in uses if _is_shown_open(module, method, use, place, none)), None)


def _is_shown_open(module: Module, method: Function, use: ast.AST, place: str, none: ast.expr) -> bool:
    branches, below = [], use
    for above in module.tree.above(use):
        if above is method:
            break
        if isinstance(above, ast.If) and below is not above.test:
            branches.append(above)
        elif isinstance(above, _ELSEWHERE):
            return False
        below = above
    return bool(branches) and all(asked_in_the_other_arm(module, b, use, none, place) for b in branches)


_ELSEWHERE = (*FUNCTIONS, ast.Lambda, ast.IfExp, ast.BoolOp, ast.While, ast.Match, ast.comprehension, ast.Assert)
