"""What happens to gradients, as events: backward, unscale, clip, step, update, zero_grad, and reads of gradients.

Places are spelled as the paths spell them, so that `scaler` in a helper and `self.scaler` of its caller are one.
"""

import ast
import re
from collections.abc import Iterable
from functools import partial

from ampguard.auditing.flow.added_gradients import added_to, gradients_of
from ampguard.auditing.flow.conditions import Naming
from ampguard.auditing.flow.lowering import calls_to_ask, group
from ampguard.auditing.flow.named_looks import named_as_adding, named_as_measuring
from ampguard.auditing.flow.skeleton import Event, Vocabulary
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scheduler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver

WORDS = ("backward(", "unscale_", "clip_grad", "zero_grad", "scaler.")
"""A file without one of these holds no event."""

_CLIPS = frozenset({"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grad_norm_fp32"})
_CLIP_LIKE = regex(
    r"_*((do|apply|maybe|dispatch|adaptive|run|perform)_)?(clip_?grad\w*|grad(ient)?s?_?clip(ping)?(_?(fn|fun|func|op|norm))?_?)"
)
"""Names of functions that clip, where the project itself does not say what they do."""

_METHODS = frozenset({"backward", "manual_backward", "scale", "unscale_", "step", "update", "zero_grad"}) | _CLIPS
NORMS = frozenset({"norm", "abs", "mean", "max", "square", "pow", "sum", "std"})
"""Methods that make a measure of a gradient."""

_NORM_FUNCTIONS = (
    *("torch.norm", "torch.linalg.vector_norm", "torch.linalg.norm", "torch._foreach_norm"),
    "torch.nn.utils.get_total_norm",
)
_CLAMPS = frozenset({"clamp_", "clip_"})
_SCALE_TEXT = regex(r"get_scale|_scale\b|inv_scale|loss_scale|grad_scale|\bscale\b")
_CALLABLE = regex(r"scal|step|clip|grad|optim|backward|update", re.IGNORECASE)
"""What an object is called that runs a part of a step when it is called."""

_HARMLESS = frozenset(
    {"print", "isinstance", "hasattr", "getattr", "len", "bool", "id", "type", "dict", "list", "repr", "str", "cast"}
    | {"save", "save_checkpoint", "info", "debug", "append", "register", "format", "super", "partial", "deepcopy"}
)
"""Functions that do nothing with a scaler that they are given."""

_SAME_VALUES = ("data", "detach", "float", "view", "flatten", "cpu", "clone", "numpy", "reshape")
_LOGS = regex(r"(^|_)(log|stats?|hist|histogram|norm|summary)(_|$)|Histogram")
_IN_PLACE = frozenset({"mul_", "div_", "copy_"})


class GradientEvents(Vocabulary):
    """The events of gradients between backward and the next backward."""

    def nodes(self, module: Module) -> dict[ast.AST, list[ast.AST]]:
        """Return the event nodes of a file by function."""
        return module.once("gradient nodes", lambda: group(module, self._nodes(module)))

    def _nodes(self, module: Module) -> list[ast.AST]:
        calls = [c for c in module.calls_of(*_METHODS, *_clip_names(module)) if _kind(module, c)]
        made = [_mark(module, call, "new scaler") for call in scaler_constructions(module)]
        whole = [_mark(module, call, "whole step") for call in _whole_steps(module)]
        looked_at = [*_reads(module), *_named_reads(module), *_added(module)]
        return [*calls, *made, *whole, *_handed(module), *looked_at, *_manual(module), *_cleared(module)]

    def watched(self, nodes: Iterable[ast.AST], module: Module, naming: Naming) -> set[str]:
        """Return the names that hold scaled losses: whatever else they get matters."""
        scales = [n for n in nodes if isinstance(n, ast.Call) and _kind(module, n) == "scale"]
        return {place for call in scales if (place := _assigned_to(module, call, naming))}

    def event(self, node: ast.AST, module: Module, naming: Naming) -> Event | None:
        """Return the event of a node."""
        if not isinstance(node, ast.Call):
            kind = module.once(("gradient kind", node), lambda: "")
            return Event(kind, node, module) if kind else None
        kind = _kind(module, node)
        return Event(kind, node, module, data=_data(kind, node, module, naming)) if kind else None

    def may_help(self, module: Module, name: str) -> bool:
        """Whether something of that name is defined where gradients are spoken of, or may be a part of a step."""
        return name not in _CLIPS and (name in module.project.defined_where(WORDS) or bool(_CALLABLE.search(name)))

    def helper(self, module: Module, call: ast.Call) -> Place | None:
        """Return the helper a call runs, where events of gradients happen in it."""
        if not self.may_help(module, called(call)) or _kind(module, call):
            return None
        place = target(module, call, WORDS)
        return place if place is not None and self._has_events(*place, depth=self.depth) else None

    def _has_events(self, module: Module, function: ast.AST, depth: int) -> bool:
        if not module.mentions(WORDS):
            return False
        return module.once(("has gradient events", function), partial(self._find_events, module, function, depth))

    def _find_events(self, module: Module, function: ast.AST, depth: int) -> bool:
        if self.nodes(module).get(function):
            return True
        calls = calls_to_ask(module, self).get(function, ()) if depth else ()
        places = (target(module, call, WORDS) for call in calls)
        return any(p is not None and p[1] is not function and self._has_events(*p, depth - 1) for p in places)


def _kind(module: Module, call: ast.Call) -> str:
    return module.once(("gradient kind", call), lambda: _kind_of(module, call))


def _kind_of(module: Module, call: ast.Call) -> str:
    name, owner = called(call), receiver(call)
    if name in _CLIPS or ("clip" in name and _clips_by_name(module, call)):
        return "" if _threshold_is_scaled(call) or _unscales_as_well(module, call) else "clip"
    if owner is None:
        return ""
    if name == "manual_backward":
        return "managed backward" if call.args else ""
    if name == "backward":
        if call.args and key(owner) == "self" and target(module, call, WORDS) is not None:
            return ""  # a method of the project's own, which shows what it does
        return "managed backward" if call.args and _backward_by_owner(module, call, owner) else "backward"
    if name == "unscale_":
        return "unscale" if call.args or call.keywords or is_scaler(module, owner) else ""
    if name == "zero_grad":
        return "zero"
    if name == "scale":
        return "scale" if is_scaler(module, owner) and len(call.args) == 1 else ""
    if name == "update":
        return "update" if is_scaler(module, owner) else ""
    if name == "step":
        return _step_kind(module, call, owner)
    return ""


def _clips_by_name(module: Module, call: ast.Call) -> bool:
    """Whether a call is named as one that clips, and no function of the project whose events show what it does.

    One of the project's own that changes gradients by hand is what its name says.
    """
    if not (call.args or call.keywords) or not _CLIP_LIKE.fullmatch(called(call)):
        return False
    place = target(module, call)
    return place is None or (_changes_gradients(*place) and not _calls_clip(*place))


def _unscales_as_well(module: Module, call: ast.Call) -> bool:
    """Whether a method of the project's own, under the name of torch's function, unscales before it clips."""
    if key(receiver(call)) != "self" or "unscale_(" not in module.text:
        return False
    place = target(module, call)
    return place is not None and "unscale_(" in place[0].text_of(place[1]) and _calls_clip(*place)


def _calls_clip(module: Module, function: Function) -> bool:
    """Whether a function calls what clips, so that it is seen through instead."""
    calls = [c for name in (*_CLIPS, *_clip_names(module)) for c in module.calls.get(name, ())]
    return any(module.tree.function(c) is function for c in calls)


def clip_calls(module: Module) -> list[ast.Call]:
    """Return the calls that clip gradients, by torch's names or by their own."""
    return [c for c in module.calls_of(*_CLIPS, *_clip_names(module)) if _kind(module, c) == "clip"]


def _clip_names(module: Module) -> list[str]:
    return [name for name in module.calls if name not in _CLIPS and "clip" in name and _CLIP_LIKE.fullmatch(name)]


def _changes_gradients(module: Module, function: Function) -> bool:
    """Whether a function that looks at gradients multiplies, clamps or fills something in place."""
    if not any(module.tree.inside(g, function) for g in gradients_of(module)):
        return False
    return bool(re.search(r"\.(mul_|clamp_|copy_|div_|clip_)\(|\.grad(\.data)? [*/]?= ", ast.unparse(function)))


def _step_kind(module: Module, call: ast.Call, owner: ast.expr) -> str:
    if is_scaler(module, owner):
        given = len(call.args) + len(call.keywords)
        return "" if not given else "scaler step" if given == 1 else "closure step"
    if is_scheduler(module, owner):
        return "scheduler step"
    if not is_optimizer(module, owner):
        return ""
    return "closure step" if argument(call, 0, "closure") is not None else "step"


def _backward_by_owner(module: Module, call: ast.Call, owner: ast.expr) -> bool:
    """Whether `x.backward(loss)` is the call of a framework's object, which scales by itself, and not a tensor's."""
    if module.names.stands_for(call.func, "torch.autograd.backward"):
        return False
    place = key(call.args[0]) or ""
    grads = re.search(r"grad|ones|retain", place) or isinstance(call.args[0], ast.Call | ast.Constant)
    return not grads and not isinstance(owner, ast.Call)


def _threshold_is_scaled(call: ast.Call) -> bool:
    """Whether the threshold is multiplied by the scale, which clips scaled gradients rightly."""
    threshold = argument(call, 1, "max_norm") or argument(call, 1, "clip_value")
    return threshold is not None and bool(re.search(r"get_scale|loss_scale|\._scale\b", ast.unparse(threshold)))


def _data(kind: str, call: ast.Call, module: Module, naming: Naming) -> dict[str, object]:
    owner = receiver(call)
    if kind == "backward":
        scaled = _scale_call(module, owner if owner is not None else call)
        if scaled is None and call.args and module.names.stands_for(call.func, "torch.autograd.backward"):
            scaled = _scale_call(module, call.args[0])
            owner = call.args[0]
        return {"loss": _spelled(owner, naming), "scaler": _spelled(receiver(scaled), naming) if scaled else None}
    if kind == "scale":
        return {"scaler": _spelled(owner, naming), "to": _assigned_to(module, call, naming)}
    if kind in ("managed backward", "handed"):
        return {}
    if kind == "whole step":
        return {"scaler": _spelled(call.func, naming), "optimizer": _spelled(argument(call, 1, "optimizer"), naming)}
    if kind == "new scaler":
        return {"scaler": _assigned_to(module, call, naming)}
    if kind in ("unscale", "scaler step"):
        optimizer = argument(call, 0, "optimizer")
        names = naming.names(optimizer) if optimizer is not None else frozenset()
        return {"scaler": _spelled(owner, naming), "optimizer": _spelled(optimizer, naming), "names": names}
    if kind in ("step", "zero", "scheduler step"):
        return {"optimizer": _spelled(owner, naming), "is_optimizer": is_optimizer(module, owner)}
    return {"scaler": _spelled(owner, naming)}


def _spelled(node: ast.expr | None, naming: Naming) -> str:
    return "" if node is None else naming.place(node) or naming.text(node)


def _scale_call(module: Module, node: ast.expr) -> ast.Call | None:
    """Return the `scaler.scale(...)` inside a loss expression, or None."""
    at = node
    while isinstance(at, ast.Call | ast.Attribute | ast.BinOp):
        if isinstance(at, ast.Call) and called(at) == "scale" and is_scaler(module, receiver(at)):
            return at
        if isinstance(at, ast.BinOp):
            return _scale_call(module, at.left) or _scale_call(module, at.right)
        if isinstance(at, ast.Call):
            inner = next((found for arg in at.args if (found := _scale_call(module, arg)) is not None), None)
            if inner is not None:
                return inner
        at = at.func if isinstance(at, ast.Call) else at.value
    return None


def _assigned_to(module: Module, call: ast.Call, naming: Naming) -> str:
    statement = module.tree.statement(call)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return _spelled(targets[0], naming) if len(targets) == 1 else ""


def _mark(module: Module, node: ast.AST, kind: str) -> ast.AST:
    module.once(("gradient kind", node), lambda: kind)
    return node


def _cleared(module: Module) -> list[ast.AST]:
    """Return the statements `p.grad = None`."""
    found = [module.tree.parents[g] for g in gradients_of(module) if isinstance(g.ctx, ast.Store)]
    plain = [s for s in found if isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant)]
    return [_mark(module, s, "clear") for s in plain if s.value.value is None]  # type: ignore[attr-defined]


def _manual(module: Module) -> list[ast.AST]:
    """Return the statements that scale gradients back by hand: `p.grad.div_(scale)`, `p.grad /= scale`."""
    found: list[ast.AST] = []
    for grad in gradients_of(module):
        statement = module.tree.statement(grad)
        text = ast.unparse(statement) if isinstance(statement, ast.Expr | ast.AugAssign | ast.Assign) else ""
        if not text or not _SCALE_TEXT.search(text):
            continue
        written = not isinstance(statement, ast.Expr) or any(f".{name}(" in text for name in _IN_PLACE)
        if written:
            found.append(_mark(module, statement, "manual unscale"))
    return found


def _added(module: Module) -> list[ast.AST]:
    """Return the statements and the calls that add to gradients what does not carry the scale."""
    named = [_mark(module, call, "add" if sure else "perhaps add") for call, sure in named_as_adding(module)]
    return [*named, *(_mark(module, statement, "add") for statement in added_to(module))]


def _handed(module: Module) -> list[ast.AST]:
    """Return the calls that are given a scaler and whose function is not known: they may unscale, step and update."""
    if not module.mentions(("caler,", "caler)")):
        return []
    found: list[ast.AST] = []
    for call in module.tree.all(ast.Call):
        given = [*call.args, *(k.value for k in call.keywords)]
        names = [arg for arg in given if (key(arg) or "").lower().endswith("scaler")]
        if names and called(call) not in _HARMLESS and is_scaler(module, names[0]) and target(module, call) is None:
            found.append(_mark(module, call, "handed"))
    return found


def _whole_steps(module: Module) -> list[ast.Call]:
    """Return the calls of scalers that take the whole step, as timm's do: `loss_scaler(loss, optimizer)`.

    One of a class that can be found is seen through instead.
    """
    named = (call for name, calls in module.calls.items() if "scaler" in name.lower() for call in calls)
    return [c for c in named if _takes_the_step(module, c) and target(module, c, WORDS) is None]


def _takes_the_step(module: Module, call: ast.Call) -> bool:
    optimizer = argument(call, 1, "optimizer")
    return is_scaler(module, call.func) and optimizer is not None and is_optimizer(module, optimizer)


def _reads(module: Module) -> list[ast.AST]:
    """Return the calls that measure or log a gradient: `p.grad.norm()`, `add_histogram(n, p.grad)`, through names."""
    found: list[ast.AST] = []
    for grad in [*gradients_of(module), *_named_gradients(module)]:
        measured = _measured_by(module, grad)
        if measured is None:
            continue
        if called(measured) in _CLAMPS:
            found.append(_mark(module, measured, "clip"))
            continue
        text = ast.unparse(module.tree.statement(measured)) if module.mentions(("scale",)) else ""
        if not re.search(r"get_scale|inv_scale|loss_scale|\._scale\b|/ ?scale\b|isfinite|isnan|isinf", text):
            found.append(_mark(module, measured, "read"))
    return found


def _named_reads(module: Module) -> list[ast.AST]:
    """Return the calls that are named to measure the gradients of a model."""
    named = named_as_measuring(module, WORDS, _reads)
    return [_mark(module, call, "read" if sure else "perhaps read") for call, sure in named]


def _named_gradients(module: Module) -> list[ast.expr]:
    """Return the uses of names that hold a gradient and nothing else: `g = p.grad.detach()`, then `g.norm()`."""
    held = [s for g in gradients_of(module) if (s := _holding(module, g)) is not None]
    names = {(module.tree.scope(s), s.targets[0].id) for s in held}  # type: ignore[attr-defined]
    if not names:
        return []
    texts = {name for _, name in names}
    uses = (n for n in module.tree.all(ast.Name) if n.id in texts and isinstance(n.ctx, ast.Load))
    return [n for n in uses if (module.tree.scope(n), n.id) in names]


def _holding(module: Module, grad: ast.Attribute) -> ast.Assign | None:
    """Return the statement that gives a gradient as it is (detached, cloned) a name."""
    at: ast.AST = grad
    parents = module.tree.parents
    while isinstance(parents[at], ast.Attribute | ast.Call | ast.ListComp):
        above = parents[at]
        if isinstance(above, ast.ListComp) and above.elt is not at:
            return None
        if isinstance(above, ast.Attribute) and above.attr not in _SAME_VALUES:
            return None
        if isinstance(above, ast.Call) and above.func is not at:
            return None
        at = above
    statement = parents[at]
    plain = isinstance(statement, ast.Assign) and statement.value is at and isinstance(statement.targets[0], ast.Name)
    return statement if plain else None  # type: ignore[return-value]


def _measured_by(module: Module, grad: ast.expr) -> ast.Call | None:
    parents = module.tree.parents
    at: ast.AST = grad
    while True:
        above = parents[at]
        if isinstance(above, ast.Attribute) and above.value is at:
            call = parents[above]
            if above.attr in NORMS | _CLAMPS and isinstance(call, ast.Call) and call.func is above:
                return call
            if above.attr not in _SAME_VALUES:
                return None
            at = call if isinstance(call, ast.Call) and call.func is above else above
            continue
        if isinstance(above, ast.ListComp | ast.GeneratorExp) and above.elt is at:
            at = above
            continue
        if isinstance(above, ast.Call) and at in above.args:
            norm = module.names.stands_for(above.func, *_NORM_FUNCTIONS)
            return above if norm or _LOGS.search(called(above)) else None
        return None
