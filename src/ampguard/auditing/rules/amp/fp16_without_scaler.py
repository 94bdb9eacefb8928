"""A training step in float16 whose loss is not scaled."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, class_of_object, constructed, method, target
from ampguard.auditing.reading.kinds import is_optimizer
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import UNKNOWN, Region, decorations, region_around, region_of
from ampguard.auditing.reading.tree import FUNCTIONS, Function, argument, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation.runs import off_around
from ampguard.auditing.rules.amp._precision.asked_elsewhere import given_outside
from ampguard.auditing.rules.amp._precision.cast_models import before_moves
from ampguard.auditing.rules.amp._precision.dtype_left_out import dtype_left_out
from ampguard.auditing.rules.amp._precision.loaded_half import trained_in_half
from ampguard.auditing.rules.amp._precision.trained_in_full import backward_in_full
from ampguard.auditing.rules.amp._steps import RUNNERS, arms, backward_calls, loss_of, tests_above

_FRAMEWORKS = "|".join(RUNNERS).replace("ccelerator", r"(?<!torch\.a)(?<!current_a)ccelerator")
_RUN_ELSEWHERE = regex(_FRAMEWORKS)
_SCALED_ELSEWHERE = regex(
    rf"[sS]caler\b|loss_scal|LossScal|scale_loss|scaled_loss|amp\.initialize|FP16_Optimizer|{_FRAMEWORKS}"
)
"""A file with one of these words scales somewhere, or leaves it to a framework; `torch.accelerator` is a device."""

_COMMENT = regex(r"#[^\n]*")

_MODEL = regex(r"(^|_)(model|net|network|unet|backbone|forward|generator|transformer)\d?$", re.IGNORECASE)

_DEPTH = 3
"""Assignments followed from a loss to the model's output."""


class Fp16WithoutScaler(Rule):
    """A training step runs under float16 autocast and calls `backward()` on the loss as it is.

    ## What it does
    Finds `loss.backward()` where the loss comes out of an autocast region that certainly computes in float16 (given as
    the dtype, or as the default on CUDA), an optimizer is stepped beside it, and no scaler occurs there; low where one
    occurs elsewhere in the file. The region may stand in a model's `forward`, or around what is handed to the function
    that goes backward. A model that is cast or loaded in float16 as a whole, and whose parameters an optimizer steps,
    is medium. bfloat16, CPU autocast, inference and steps that a framework runs are fine; but an object that was made
    with its own mixed precision off (`use_fp16=False`, `mixed_precision="no"`) and goes backward on a loss from such a
    region is medium. Low: a region that names no dtype, where what opens it may be float16 or bfloat16.

    ## Why is this bad
    float16 holds nothing below 6e-8. Gradients smaller than that become zero without a word, so parts of the model
    stop learning; with `GradScaler` they are multiplied before the backward pass and divided after it.

    ## Example
    ```python
    import torch


    def train_step(model, optimizer, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    def train_step(model, optimizer, scaler, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Training changes, for the better: gradients that were zero come back. Where the GPU has bfloat16 natively, autocast
    to it instead and leave the scaler out. Clip only after `scaler.unscale_(optimizer)`.

    ## References
    - https://pytorch.org/docs/stable/amp.html#gradient-scaling
    - Micikevicius et al. 2018, Mixed Precision Training, section 3.2 (arXiv:1710.03740)
    """

    code = "AMP024"
    name = "fp16-without-scaler"
    severity = Severity.HIGH
    impact = "Gradients below 6e-8 become zero silently, so parts of the model stop learning."
    risk = "Medium: the step changes, and clipping must come after unscale_."
    fix = "Scale the loss with a GradScaler, or autocast to bfloat16 where the GPU supports it."
    words = (".backward(",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every unscaled backward call of a float16 training step."""
        for opened, chosen in dtype_left_out(module) if module.role not in ("test", "benchmark") else ():
            message = (
                f"{module.segment(opened, 40)} names no dtype, so where `{chosen.id}` is bfloat16 it computes in "
                "float16 all the same, and what scales for float16 may be off"
            )
            yield self.finding(module, opened, message, severity=Severity.LOW, likelihood="possible")
        for call, loss, made in backward_in_full(module):
            region = _origin(module, loss)
            if region is None or region.enabled is not True or region.device == "cpu" or region.certain != "float16":
                continue
            message = (
                f"{module.segment(loss, 30)} comes from an autocast in float16, and {module.segment(made.func, 40)} "
                f"(line {made.lineno}) was made without it, so that it does not scale the loss"
            )
            yield self.finding(module, call, message, severity=Severity.MEDIUM, likelihood="likely", critical_path=True)
        if "step(" not in module.text:
            return
        for call in backward_calls(module) if "autocast" in module.text or not _scaled_elsewhere(module) else ():
            loss, scaled = loss_of(module, call)
            if scaled or _scaled_here(module, call) or not _trains(module, call):
                continue
            region = _origin(module, loss)
            if region is None or region.enabled is False or region.device == "cpu":
                continue
            if _where_off(module, call, region):
                continue
            sure = not _scaled_elsewhere(module)
            where = f"autocast at line {region.call.lineno}" if _local(module, region) else "an autocast"
            half = f"{module.segment(loss, 30)} comes from {where} in float16"
            if region.certain == "float16" and sure:
                yield self.finding(module, call, f"{half}, and no scaler scales it", critical_path=True)
            elif region.certain == "float16" or _perhaps_half(module, region):
                when = _perhaps_half(module, region)
                message = f"{half} {when}, and no scaler scales it".replace(" ,", ",")
                yield self.finding(
                    module, call, message, severity=Severity.LOW, likelihood="possible", critical_path=True
                )

        knows = _scaled_elsewhere(module) or module.role in ("test", "benchmark")
        for cast, place in () if knows else trained_in_half(module):
            message = f"the parameters of {place} are float16, and so are their gradients; nothing scales the loss"
            yield self.finding(module, cast, message, severity=Severity.MEDIUM, likelihood="likely", critical_path=True)


def _scaled_elsewhere(module: Module) -> bool:
    """Whether the code of a file, not what is commented out of it, knows of loss scaling or of a framework."""
    return module.once("scaled elsewhere", lambda: _knows(module.text))


def _scaled_here(module: Module, backward: ast.Call) -> bool:
    """Whether the class or the outermost function around a backward pass knows of loss scaling, or of a framework."""
    around = _outermost(module, backward)
    if not _scaled_elsewhere(module):
        return False
    return module.once(("scaled here", around), lambda: _knows(module.text_of(around)) or _is_run(module))


def _is_run(module: Module) -> bool:
    """Whether the file knows of a framework, which scales wherever it is."""
    return bool(_RUN_ELSEWHERE.search(_COMMENT.sub("", module.text)))


def _knows(text: str) -> bool:
    return bool(_SCALED_ELSEWHERE.search(text) and _SCALED_ELSEWHERE.search(_COMMENT.sub("", text)))


def _outermost(module: Module, node: ast.AST) -> ast.AST:
    """Return the class, or the outermost function, around a node, or the module."""
    above = [at for at in module.tree.above(node) if isinstance(at, (*FUNCTIONS, ast.ClassDef))]
    return above[-1] if above else module.root


def _where_off(module: Module, call: ast.Call, region: Region) -> bool:
    """Whether a backward pass stands in the arm of an `if` where the switch of an autocast is off."""
    switch = ast.unparse(region.flag) if region.flag is not None else ""
    return any(not arm and ast.unparse(test) == switch for test, arm in tests_above(module, call))


def _perhaps_half(module: Module, region: Region) -> str:
    """Return when a region whose dtype depends on something is in float16, "" where that is not known to happen."""
    if "float16" in region.dtypes and UNKNOWN not in region.dtypes:
        return "where that is chosen"
    if region.device != UNKNOWN or not _local(module, region) or argument(region.call, 1, "dtype") is not None:
        return ""
    torchs = any(name.startswith("torch.") for name in module.names.dotted(region.call.func))
    return "on a GPU" if torchs and (region.call.args or region.call.keywords) else ""


def _local(module: Module, region: Region) -> bool:
    return region.call in module.tree.parents


def _origin(module: Module, loss: ast.expr, depth: int = 0) -> Region | None:
    """Return the autocast in which a loss, or what it is computed from, was computed, or None."""
    around = region_around(module, loss)
    if around is not None and around.enabled is not False:
        return around
    if isinstance(loss, ast.Call):
        return _inside_callee(module, loss)
    if isinstance(loss, ast.Subscript | ast.Attribute) and isinstance(loss.value, ast.Name):
        loss = loss.value  # what the model or a method gave as one of several
    if not isinstance(loss, ast.Name):
        return None
    values = [v for v in module.names.values(loss.id, loss) if not arms(module, v, loss)]
    regions = [_of_value(module, v) for v in values] + _unpacked(module, loss)
    found = [r for r in regions if r is not None and r.enabled is not False]
    return found[0] if found else _of_inputs(module, loss, frozenset()) or _of_callers(module, loss, depth)


def _of_callers(module: Module, loss: ast.Name, depth: int) -> Region | None:
    """Return the autocast that a loss comes from which is a parameter, where all that is given for it has one."""
    given = given_outside(module, loss) if depth < _DEPTH else []
    if any(_scaled_elsewhere(where) for where, _ in given):
        return None
    regions = [_origin(where, value, depth + 1) for where, value in given]
    return next((r for r in regions if r is not None), None) if None not in regions else None


def _of_value(module: Module, value: ast.expr) -> Region | None:
    around = region_around(module, value)
    return around if around is not None or not isinstance(value, ast.Call) else _inside_callee(module, value)


def _unpacked(module: Module, loss: ast.Name) -> list[Region | None]:
    """Return the regions of assignments that unpack the loss: `logits, loss = model(x, y)`."""
    found = module.names.lookup(loss.id, loss)
    others = [b.value for b in found[1] if b.kind == "other" and b.value is not None] if found else []
    return [_of_value(module, value) for value in others]


def _of_inputs(module: Module, node: ast.expr, seen: frozenset[str]) -> Region | None:
    """Return the autocast in which a model gave what a loss is computed from outside of it."""
    for name in _flowing(module, node):
        if isinstance(name, ast.Call):
            if name is not node and (region := _of_model(module, name)) is not None:
                return region
            continue
        if name.id in seen or len(seen) > _DEPTH:
            continue
        bound = module.names.lookup(name.id, name)
        for value in [b.value for b in bound[1] if b.value is not None] if bound else ():
            if arms(module, value, node):
                continue
            region = _of_model(module, value) or _of_inputs(module, value, seen | {name.id})
            if region is not None:
                return region
    return None


def _of_model(module: Module, value: ast.AST) -> Region | None:
    """Return the autocast around a call that runs a model, or in what the call runs."""
    if not isinstance(value, ast.Call) or not _runs_model(module, value):
        return None
    region = region_around(module, value) or _inside_callee(module, value)
    return region if region is not None and region.enabled is not False else None


def _flowing(module: Module, node: ast.expr) -> Iterator[ast.Name | ast.Call]:
    """Walk the names and calls of an expression through which gradients may flow."""
    for at in walk(node):
        if isinstance(at, ast.Name | ast.Call) and not any(_cuts(up) for up in module.tree.above(at) if up is not node):
            yield at


def _cuts(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("detach", "item", "shape", "data", "size", "device")


def _runs_model(module: Module, value: ast.expr) -> bool:
    """Whether a value is what a model of the file gives, with gradients on."""
    place = key(value.func) if isinstance(value, ast.Call) else None
    if place is None or off_around(module, value):
        return False
    if _MODEL.search(place.rpartition(".")[2]):
        return True
    return any(key(receiver(c)) == place for c in module.calls_of("parameters", "train"))


def _inside_callee(module: Module, call: ast.Call) -> Region | None:
    """Return the autocast around what a function of the project returns."""
    place = target(module, call)
    if place is None:
        own = class_of_object(module, call.func, ("autocast",)) or _made_and_moved(module, call.func)
        place = method(*own, "forward") if own is not None else None
    if place is None or "autocast" not in place[0].text or _scaled_elsewhere(place[0]):
        return None
    where, function = place
    if (decorated := next(decorations(where, function), None)) is not None:
        return decorated
    return next((r for node in walk_scope(function) if (r := _opened_by(where, node, function)) is not None), None)


def _made_and_moved(module: Module, node: ast.expr) -> tuple[Module, ast.ClassDef] | None:
    """Return the class of a model that is moved to a device where it is made: `net = Net().cuda()`."""
    values = assigned(module, node)
    return constructed(module, before_moves(values[0]), ("autocast",)) if len(values) == 1 else None


def _opened_by(module: Module, node: ast.AST, function: Function) -> Region | None:
    own = isinstance(node, ast.With | ast.AsyncWith) and module.tree.function(node) is function
    if own and isinstance(node, ast.With | ast.AsyncWith) and not off_around(module, node.body[0]):
        return next((r for item in node.items if (r := region_of(module, item.context_expr)) is not None), None)
    return None


def _trains(module: Module, call: ast.Call) -> bool:
    """Whether an optimizer steps in the same function, with those in it, class or script."""
    around = _outermost(module, call)
    steps = [c for c in module.calls.get("step", ()) if module.tree.inside(c, around)]
    return any(is_optimizer(module, receiver(c)) for c in steps)
