"""Divisors that a user sets: how long a phase of the training lasts, which is 0 for a run without that phase.

`step / self.warmup_steps` fails for a run that is to have no warm-up. Only the name says that the number may be 0 so
as to leave the phase out, so the answer counts little; whatever in the file asks about the number ends the matter, and
so does a value that is set here.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.handed_in import names_outside, plain, word
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.zeros import Zero, is_nothing

_PHASE = regex(
    r"(^|_)(warm_?up|ramp_?(up|down)?|anneal(ing)?|burn_?in|cool_?down|curriculum)(_\w+)?$"
    r"|(^|_)decay_(steps|epochs|iters|iterations|duration|length)$",
    re.IGNORECASE,
)
_RATES = regex(r"(rate|factor|ratio|lr|start|min|max|init|value|type|mode|power|gamma)s?$", re.IGNORECASE)
"""Last words of what belongs to a phase and is no length of it."""


def phase(module: Module, right: ast.expr) -> Zero | None:
    """`step / self.warmup_steps`: 0 where the run is to have no such phase, and nothing in the file asks."""
    node = plain(right)
    name = word(node)
    if name is None or not _PHASE.search(name) or _RATES.search(name) or _is_asked_about(module, name, node):
        return None
    given = names_outside(module, node)
    if not given or any(_is_asked_about(module, other, node) for other in given if _PHASE.search(other)):
        return None
    why = f"may be set to 0 for a run without {'warm-up' if 'warm' in name.lower() else 'that phase'}, as its name says"
    return Zero("setting", why, right.lineno, frozenset({spelling(node), spelling(right)}))


def kept_default(module: Module, right: ast.expr) -> Zero | None:
    """`step % self.log_every` of a parameter of `__init__` that is 0 by default and kept as it is."""
    if not (isinstance(right, ast.Attribute) and isinstance(right.value, ast.Name) and right.value.id == "self"):
        return None
    values = assigned(module, right)
    value = values[0] if len(values) == 1 else None
    function = module.tree.function(value) if isinstance(value, ast.Name) else None
    if function is None or not isinstance(value, ast.Name):
        return None
    for parameter, default in parameters(function):
        if parameter.arg == value.id and is_nothing(default) and not _is_asked_about(module, value.id):
            asked = right.attr != value.id and _is_asked_about(module, right.attr)
            line = parameter.lineno
            return None if asked else Zero("option", f"is 0 by default (line {line})", line)
    return None


def _is_asked_about(module: Module, name: str, node: ast.expr | None = None) -> bool:
    """Whether the file compares the number with another one, tests it, or keeps it above zero.

    What `__init__` divides by is divided by whatever a method asks later: there only questions about zero count.
    """
    function = module.tree.function(node) if node is not None else None
    begins = function is not None and function.name == "__init__"
    asked: dict[tuple[str, bool], bool] = module.once("numbers asked about", dict)
    if (name, begins) not in asked:
        text = re.sub(rf"%\s*[\w.]*\b{re.escape(name)}\)?\s*[!=]=", "", module.text)  # `step % every == 0` asks nothing
        text = re.sub(rf"/\s*((float|int)\()?[\w.\[\]'\"]*\b{re.escape(name)}\b", "", text)  # nor does a division
        asked[name, begins] = bool(re.search(_questions(name, begins=begins), text))
    if begins and not asked[name, begins]:
        return bool(re.search(_questions(name, begins=False), module.text_of(function)))  # type: ignore[arg-type]
    return asked[name, begins]


def _questions(word: str, *, begins: bool) -> str:
    """Return the pattern of what asks about a number; where an object begins, of what asks whether it is zero."""
    name = rf"{re.escape(word)}(['\"\]])?"
    compared = rf"\b{name}\)?\s*([<>]|[!=]=)|([<>]=?|[!=]=)\s*(\(?[\w.]+\s*-\s*)?[\w.\[\]'\"]*\b{name}"
    with_zero = rf"\b{name}\)?\s*([<>]=?|[!=]=)\s*\d|\d\s*([<>]=?|[!=]=)\s*[\w.\[\]'\"]*\b{name}"
    return (
        rf"{with_zero if begins else compared}|\b(if|and|or|not|while)\s+[\w.]*\b{name}\s*"
        rf"(:|\)|\n|and\b|or\b|else\b|is\b)|\b(max|clamp|clip|maximum)\w*\([^\n]*\b{name}|\b{name}\s*(\+|or\b|is\b)"
        rf"|\(\s*[\w.]*\b{name}\s+(and|or|if)\b"
    )
