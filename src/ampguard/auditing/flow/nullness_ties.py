"""Whether a test may tell that an object is there, although it asks about something else.

`if use_amp: scaler.step()`, `if rank == 0: writer.add_scalar()`, `if i > 0: previous.item()`: such a test goes
together with what decided where the object got its value, by a word that both have, by a rank, or by the turn of the
loop that gives it. `if step % 10 == 0` and `if not args.quiet` do not.
"""

import ast
from collections.abc import Iterable
from functools import cache

from ampguard.auditing.flow.nullness_state import Facts, Maybe
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Loop, key, walk

_PIECES = regex(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_COMMON = frozenset(
    {"self", "args", "arg", "cfg", "config", "opt", "opts", "params", "is", "not", "none", "and", "or", "in", "len"}
    | {"if", "use", "has", "get", "enable", "enabled", "the", "num", "for", "to", "of", "on", "with", "int", "str"}
    | {"true", "false", "isinstance", "hasattr", "getattr", "torch", "np", "os", "path", "value", "data", "name"}
)
_RANKS = regex(r"rank|is_main|main_process|is_master|is_local|is_global|world_size|is_distributed")
_LOGGING = regex(r"log|writer|track|run\b|wandb|tensorboard|\btb\b|mlflow|neptune|bar\b|vis|recorder|print")
_TO_LOG = regex(
    r"log|track|wandb|tensorboard|\btb\b|debug|verbose|report|mlflow|neptune|rank|main|master|monitor|vis|test"
)
_MODES = regex(r"train|eval|\btest|valid|\bval\b|infer|mode\b|phase")
_KEYS = regex(r"""['"][\w.]+['"] (not )?in \w""")
_LEAST = 3


@cache
def words_of(text: str) -> frozenset[str]:
    """Return the words that a text is made of: "use_wandb" has "wandb"."""
    found = (word.lower() for word in _PIECES.findall(text))
    return frozenset(word for word in found if len(word) >= _LEAST and word not in _COMMON)


def akin(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether a word of one side begins one of the other: "val" and "validation"."""
    others = tuple(others)
    return any(one.startswith(other) or other.startswith(one) for one in some for other in others)


def tied(module: Module, function: ast.AST, place: str, maybe: Maybe, facts: Facts) -> bool:
    """Whether one of the tests that hold at a use may tell that a place is not None."""
    open_facts = facts - maybe.under - maybe.since
    if not open_facts:
        return False
    deciding = module.once(("deciding", function, place), lambda: _deciding(module, function, place))
    own = words_of(place)
    for text, _ in maybe.under:
        deciding = deciding | words_of(text)
    given = {arg.arg for arg, _ in parameters(function)} if isinstance(function, FUNCTIONS) else set()
    return any(_is_tied(text, place, own, deciding, maybe) or _is_agreed(text, given, maybe) for text, _ in open_facts)


def _is_agreed(text: str, given: set[str], maybe: Maybe) -> bool:
    """Whether a caller, or the one who makes the object, may give a switch and the thing together."""
    if maybe.kind == "attribute":
        return text.startswith("self.") and text[5:].isidentifier()
    return maybe.kind in ("default", "asked") and text in given and not maybe.passed


def _is_tied(text: str, place: str, own: frozenset[str], deciding: frozenset[str], maybe: Maybe) -> bool:
    if text.endswith(" is None") and text[:-8].isidentifier():
        return akin(words_of(text), deciding)
    if counts(text) and not akin(words_of(text), deciding):
        return False
    words = words_of(text)
    if (
        akin(words, own)
        or akin(words, deciding)
        or any(f"{name} " in f"{text} " for name in deciding if len(name) < _LEAST)
    ):
        return True
    if _RANKS.search(text) and maybe.kind != "answer":
        return True
    if _LOGGING.search(place) and _TO_LOG.search(text):
        return True
    return maybe.kind in ("default", "asked", "attribute", "option") and bool(_MODES.search(text))


def is_of_ranks(text: str) -> bool:
    """Whether a test, or a decorator, chooses among ranks."""
    return bool(_RANKS.search(text))


def counts(text: str) -> bool:
    """Whether a test asks for a turn, or for a key of something else: `step % 10 == 0`, `"optimizer" in saved`."""
    return "%" in text or bool(_KEYS.match(text))


def _deciding(module: Module, function: ast.AST, place: str) -> frozenset[str]:
    """Return the words of what decides whether a place gets a value, and of what gets one beside it."""
    found: set[str] = set()
    for statement in _given(module, function, place):
        below: ast.AST = statement
        for above in module.tree.above(statement):
            if isinstance(above, ast.If | ast.While):
                found |= words_of(ast.unparse(above.test))
            if isinstance(above, Loop) and below in above.body:
                found |= _of_turns(above)
            if isinstance(above, ast.If | ast.ExceptHandler | ast.Try) and isinstance(below, ast.stmt):
                found |= _beside(above, below)
            if above is function or isinstance(above, FUNCTIONS):
                break
            below = above
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            found |= _of_choices(statement.value)
    return frozenset(found | _made_where_there(module, function, place))


def _made_where_there(module: Module, function: ast.AST, place: str) -> set[str]:
    """Return the words of what has a value only where the place does: `size = len(x) if x is not None else None`."""
    found: set[str] = set()
    for held in module.tree.named(place, function) if place.isidentifier() else ():
        made = module.tree.statement(held)
        if (
            isinstance(made, ast.Assign)
            and isinstance(made.value, ast.IfExp)
            and module.tree.inside(held, made.value.test)
        ):
            found |= {word for target in made.targets for word in words_of(key(target) or "")}
    return found


def _given(module: Module, function: ast.AST, place: str) -> list[ast.stmt]:
    if place.isidentifier():
        held = module.tree.named(place, function)
        return [module.tree.statement(n) for n in held if not isinstance(n.ctx, ast.Load)]
    cls = module.tree.class_of(function)
    around = cls if place.startswith("self.") and cls is not None else function
    stores = (n for n in walk(around) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return [module.tree.statement(n) for n in stores if key(n) == place]


def _of_turns(loop: ast.AST) -> set[str]:
    """Return the names that tell the turn of a loop: what it goes over, and what it counts."""
    bound = loop.target if isinstance(loop, ast.For | ast.AsyncFor) else loop.test  # type: ignore[attr-defined]
    names = {n.id for n in walk(bound) if isinstance(n, ast.Name)}
    counted = {n.target.id for n in walk(loop) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
    return {name for name in names | counted if len(name) < _LEAST} | {
        word for name in names | counted for word in words_of(name)
    }


def _beside(above: ast.AST, below: ast.stmt) -> set[str]:
    """Return the words of the names that get a value in the arm in which a place does."""
    for part in (getattr(above, "body", []), getattr(above, "orelse", [])):
        if below in part:
            names = (key(t) for s in part if isinstance(s, ast.Assign) for t in s.targets)
            return {word for name in names if name for word in words_of(name)}
    return set()


def _of_choices(value: ast.expr) -> set[str]:
    return {word for n in walk(value) if isinstance(n, ast.IfExp) for word in words_of(ast.unparse(n.test))}
