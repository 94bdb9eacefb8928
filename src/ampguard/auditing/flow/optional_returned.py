"""Names bound to what a call answers that works in place: None, or the list of missing keys.

`optimizer = optimizer.load_state_dict(state)`, `model = Net().load_state_dict(state).eval()`, `keys = keys.sort()`,
`settings = dict(a=1).update(b)`, `frame = frame.dropna(inplace=True)`: the object is changed, and what is bound is not
the object. Told where the name is that of the object, or where it is then used as one.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional_plain import failing_uses, is_asked
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, argument, called, key, receiver, walk_scope

_OF_LISTS = ("sort", "reverse", "append", "extend", "insert", "clear", "remove")
_OF_DICTS = ("update", "clear")
_IN_PLACE = frozenset({"load_state_dict", "backward", *_OF_LISTS, *_OF_DICTS, "shuffle", "makedirs", "dump"})
_FUNCTIONS = ("random.shuffle", "numpy.random.shuffle", "os.makedirs", "json.dump", "pickle.dump")
_FRAMES = frozenset(
    {"drop", "dropna", "fillna", "rename", "reset_index", "set_index", "sort_values", "sort_index", "drop_duplicates"}
)
"""Methods of data frames that answer None where they are told `inplace=True`."""

_KEYS = frozenset({"missing_keys", "unexpected_keys", "count", "index", "_asdict", "_fields", "_replace"})
"""What a module's `load_state_dict` answers can be asked for."""

_LISTS = ("list", "sorted", "listdir", "glob")
_DICTS = ("dict", "vars", "OrderedDict", "defaultdict", "state_dict")

_ANSWERS_ITSELF = regex(r"tensor_?dict|\btd\b", re.IGNORECASE)
"""Objects whose `load_state_dict` gives them back."""

WORDS = ("load_state_dict(", ".sort(", ".update(", "shuffle(", "inplace=True", ".backward(", ".append(", ".reverse(")


@dataclass(frozen=True, eq=False)
class Bound:
    """What an in-place call answers, taken for the object.

    Attributes:
        call: The call that works in place.
        place: What its answer is bound to, or the call itself where something is read off it at once.
        what: What it answers, in words.
        used: A use of it as the object, where there is one.
        certain: Whether the object is known, and not only what a model's method answers.
    """

    call: ast.Call
    place: str
    what: str
    used: ast.AST | None
    certain: bool = True


def taken_for_objects(module: Module) -> Iterator[Bound]:
    """Walk the answers of in-place calls that are taken for the object."""
    for call in (*module.calls_of(*sorted(_IN_PLACE)), *module.calls_of(*sorted(_FRAMES))):
        above = module.tree.parents[call]
        if not isinstance(above, ast.Assign | ast.Attribute | ast.For | ast.AnnAssign):
            continue
        what = _answer(module, call)
        if what is None or _answers_itself(module, call):
            continue
        found = _bound(module, call, above, what)
        if found is not None:
            yield found


def _bound(module: Module, call: ast.Call, above: ast.AST, what: str) -> Bound | None:
    is_keys = what != "None"
    if isinstance(above, ast.For):  # over None, none can go
        return Bound(call, module.segment(call, 40), what, above) if above.iter is call and not is_keys else None
    if isinstance(above, ast.Attribute):
        read = above.attr not in _KEYS if is_keys else not above.attr.startswith("__")
        return Bound(call, module.segment(call, 40), what, above, certain=not is_keys) if read else None
    bound = above.targets if isinstance(above, ast.Assign) else [above.target]  # type: ignore[attr-defined]
    place = key(bound[0]) if len(bound) == 1 and isinstance(bound[0], ast.Name | ast.Attribute) else None
    if place is None:
        return None
    used = _used(module, call, place, is_keys=is_keys)
    same = _is_the_object(call, place)
    return Bound(call, place, what, used, certain=same or not is_keys) if used is not None or same else None


def _answer(module: Module, call: ast.Call) -> str | None:
    """Return what a call answers in words, None where it may be the object or anything else."""
    name, owner = called(call), receiver(call)
    if name == "load_state_dict" and owner is not None:
        if _ANSWERS_ITSELF.search(ast.unparse(owner)):
            return None
        others = (is_optimizer, is_scheduler, is_scaler)
        return "None" if any(asks(module, owner) for asks in others) else "the keys that are missing"
    if any(n in _FUNCTIONS for n in module.names.dotted(call.func)):
        return "None"
    if name in _FRAMES:
        told = argument(call, None, "inplace")
        return "None" if isinstance(told, ast.Constant) and told.value is True else None
    if name == "backward":
        return "None" if owner is not None and "loss" in (key(owner) or "").lower() and not call.args else None
    of_list, of_dict = name in _OF_LISTS, name in _OF_DICTS
    known = owner is not None and ((of_list and _is(module, owner, dicts=False)) or (of_dict and _is(module, owner)))
    return "None" if known else None


def _is(module: Module, owner: ast.expr, *, dicts: bool = True) -> bool:
    """Whether a receiver is a list, or a dictionary, by every value that it is given."""
    values = assigned(module, owner) if isinstance(owner, ast.Name) else [owner]
    kinds = (ast.Dict, ast.DictComp) if dicts else (ast.List, ast.ListComp)
    makers = _DICTS if dicts else _LISTS
    own = [v for v in values if v is owner or not isinstance(v, ast.Call) or key(receiver(v)) != key(owner)]
    return bool(own) and all(
        isinstance(v, kinds)
        or (isinstance(v, ast.Call) and called(v) in makers and (isinstance(v.func, ast.Name) or called(v) != "list"))
        for v in own
    )


def _answers_itself(module: Module, call: ast.Call) -> bool:
    """Whether a call runs a function of the project that answers something."""
    place = target(module, call)
    return place is not None and any(isinstance(n, ast.Return) and n.value is not None for n in walk_scope(place[1]))


def _is_the_object(call: ast.Call, place: str) -> bool:
    """Whether what is bound has the name of what is changed: `optim = optim.optimizer.load_state_dict(state)`."""
    owner = key(receiver(call)) or ""
    changed = owner == place or owner.startswith(f"{place}.") or owner.rpartition(".")[2] == place.rpartition(".")[2]
    return changed and called(call) == "load_state_dict"


def _used(module: Module, call: ast.Call, place: str, *, is_keys: bool) -> ast.AST | None:
    """Return the first use of a plain name as an object behind the call, if nothing gives it another value before."""
    around = module.tree.function(call) or module.root
    if "." in place or (isinstance(around, FUNCTIONS) and is_asked(module, around, place)):
        return None
    end = call.end_lineno or call.lineno
    uses = sorted((u for u in failing_uses(module, around, place) if u.lineno > end), key=lambda u: u.lineno)  # type: ignore[attr-defined]
    for use in uses:
        if not is_keys or _not_of_keys(use, place):
            stores = (n.lineno for n in _stores(around, place))
            return None if any(end < line <= use.lineno for line in stores) else use  # type: ignore[attr-defined]
    return None


def _not_of_keys(use: ast.AST, place: str) -> bool:
    """Whether a use asks for more than keys: an attribute of a model, or a call of it."""
    if isinstance(use, ast.Attribute):
        return use.attr not in _KEYS
    return isinstance(use, ast.Call) and key(use.func) == place


def _stores(around: ast.AST, place: str) -> Iterator[ast.Name]:
    for node in walk_scope(around):
        if isinstance(node, ast.Name) and node.id == place and isinstance(node.ctx, ast.Store):
            yield node
