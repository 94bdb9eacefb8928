"""Gradients gathered over k micro-batches whose loss is not divided by k."""

import ast
import itertools
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._accumulated_elsewhere import gathered_elsewhere
from ampguard.auditing.rules.amp._accumulates_by_name import divided_nowhere, named_accumulations
from ampguard.auditing.rules.amp._accumulation import Accumulation, accumulations, loss_given, names_k
from ampguard.auditing.rules.amp._multiplied_by_k import multiplied_losses
from ampguard.auditing.rules.amp._steps import arms, enclosing, runs_backward
from ampguard.auditing.rules.amp._told_to_update import told_accumulations
from ampguard.auditing.rules.amp._trainer_losses import ignoring

_WEIGHT = re.compile(r"weight|lambda|lmbda|alpha|beta|gamma|coef|^w(_|\d|$)", re.IGNORECASE)
_FACTOR = re.compile(r"scale|accum|factor|norm|div|inv|step|batch|num|count|ratio|grad|micro|world|size|loss", re.I)
_MODELS = (
    *("model", "net", "network", "forward", "criterion", "crit"),
    *("loss_fn", "loss_fct", "loss_func", "loss_function", "compute_loss"),
)
_LOSSES = ("_model", "criterion", "_crit", "_loss", "loss_fn", "loss_fct", "_net")
_SUMMED = re.compile(r"reduction\s*={1,2}\s*[\"']?sum")
"""A file that says so anywhere, in a comment too, adds up losses on purpose."""
_DIVIDES = frozenset({"div", "div_", "true_divide", "mul", "mul_", "multiply", "divide"})
_PASSES_ON = frozenset(
    {"mean", "float", "to", "squeeze", "contiguous", "double", "half", "reshape", "view", "cast", "values", "items"}
)
_COUNTS = frozenset({"ceil", "int", "round", "floor", "len", "item", "max", "min", "format", "print", "info"})


class LossNotDividedByAccumulation(Rule):
    """Gradients of several micro-batches are added up, and nothing divides by their number.

    ## What it does
    Finds a loop that steps every k-th time, or an inner loop over k micro-batches with the step behind it (the step or
    the backward pass may be in a method of its own), where neither the loss, nor the gradients, nor the learning rate
    is divided by k. It looks through assignments, factors such as `1 / k`, helpers of the project, and division by a
    count of tokens or samples; a summed loss is fine. Where the loss comes from what cannot be seen into, and nothing
    in the project divides by anything named so, the finding is low; so it is for a class that steps every k-th time, by
    the name of k, and divides by nothing so named, and for a call like `accumulate_gradients(piece)` in a loop with the
    step behind it. A loop over the pieces of one batch (`x.split(n)`, `x[i : i + n]`) gathers too, and the count may be
    one of samples; what one branch divides says nothing
    of the other's loss, nor one backward pass of another's; a sum is divided where all of its parts are; and a loss
    that is multiplied by k is told where it is.

    ## Why is this bad
    The gradient is k times what one large batch would give: the learning rate is k times as large for SGD, and with any
    optimizer the clipping threshold and the epsilon mean something else. Changing k then changes the training.

    ## Example
    ```python
    def train(model, loader, optimizer, criterion, accumulation_steps):
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y)
            loss.backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, loader, optimizer, criterion, accumulation_steps):
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / accumulation_steps
            loss.backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
    ```

    ## Fix safety
    The step becomes k times smaller for SGD, and clipping bites less often: a learning rate or a threshold that was
    tuned with the sum must be tuned again. Multiply by k again where the loss is logged.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    code = "AMP025"
    name = "loss-not-divided-by-accumulation"
    severity = Severity.MEDIUM
    impact = "The gradient grows with the number of micro-batches, and the clipping threshold changes its meaning."
    risk = "Medium: a learning rate tuned with the sum must be tuned again."
    fix = "Divide the loss by the number of micro-batches before backward()."
    words = ("backward", "accum", "num_items_in_batch")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the backward call of every accumulation that divides nowhere."""
        yield from self._unscaled_results(module)
        yield from self._gathered_elsewhere(module)
        if "backward" not in module.text or _SUMMED.search(module.text):
            return
        managed = runs_backward(module)
        for product, factor in multiplied_losses(module) if not managed else ():
            text = f"{module.segment(product)} is multiplied by {module.segment(factor, 40)} before the backward pass"
            yield self.finding(module, product, f"{text}, not divided by it", critical_path=True)
        seen: set[ast.AST] = set()
        told: set[ast.AST] = set()
        for found in (*accumulations(module), *told_accumulations(module)):
            if managed and not found.backward.args:
                continue  # what the framework does to a loss of its own is its matter
            if found.loop in seen or _is_one(found.count):
                continue
            k = module.segment(found.count, 40)
            loss = module.segment(loss_given(module, found.backward), 30)
            if _divided(module, found):
                if (not managed or found.backward.args) and divided_nowhere(module, found):
                    seen.add(found.loop)
                    told.add(found.backward)
                    text = f"gradients of {k} micro-batches are added up, and nothing in this project divides by {k}"
                    yield self.finding(
                        module, found.backward, text, severity=Severity.LOW, likelihood="possible", critical_path=True
                    )
                continue
            seen.add(found.loop)
            told.add(found.backward)
            message = f"gradients of {k} micro-batches are added up, and {loss} is not divided by {k}"
            yield self.finding(module, found.backward, message, critical_path=True)
        for backward, k, owner in (
            () if managed or module.role in ("test", "benchmark") else named_accumulations(module)
        ):
            if backward not in told and not any(module.tree.inside(backward, at) for at in seen):
                text = f"{owner} steps once in {k} micro-batches, and nothing in it divides by {k}"
                yield self.finding(
                    module, backward, text, severity=Severity.LOW, likelihood="possible", critical_path=True
                )

    def _gathered_elsewhere(self, module: Module) -> Iterator[Finding]:
        """Yield the calls that gather gradients piece by piece in a function that divides by no number of pieces."""
        for call, loop in gathered_elsewhere(module):
            over = module.segment(loop.iter, 40)
            text = f"{called(call)}() adds up the gradients of all of {over}, and divides by nothing named so"
            yield self.finding(module, call, text, severity=Severity.LOW, likelihood="possible", critical_path=True)

    def _unscaled_results(self, module: Module) -> Iterator[Finding]:
        """Yield the losses of Trainer subclasses that leave the division to a Trainer that no longer does it."""
        if "model_accepts_loss_kwargs" in module.text or module.role in ("test", "benchmark"):
            return
        for function in module.functions if "compute_loss" in module.text else ():
            place = ignoring(module, function) if function.name == "compute_loss" else None
            if place is None:
                continue
            yield self.finding(
                module,
                place,
                "compute_loss() is told num_items_in_batch and does not divide by it, and Trainer leaves the division"
                " to it where the model takes that argument",
                severity=Severity.LOW,
                likelihood="possible",
                fix="Divide a summed loss by num_items_in_batch, or set model_accepts_loss_kwargs = False in __init__.",
            )


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _divided(module: Module, found: Accumulation) -> bool:
    loss = loss_given(module, found.backward)
    return _scaled(module, loss, found.count, frozenset()) or _divides_somewhere(module, found)


def _scaled(module: Module, node: ast.expr, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a loss is divided on its way, or comes from something that cannot be seen into.

    `seen` holds the scopes' bindings and functions that the way has passed already.
    """
    if isinstance(node, ast.BinOp):
        return _scaled_term(module, node, count, seen)
    if isinstance(node, ast.Call):
        return _scaled_call(module, node, count, seen)
    if isinstance(node, ast.Name):
        return _scaled_name(module, node, count, seen)
    if isinstance(node, ast.Attribute) and node.attr == "loss" and _is_output(module, node.value, count):
        return False
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Call | ast.Name):
        return _scaled(module, node.value, count, seen)
    parts = _parts(node)
    return parts is None or any(_scaled(module, part, count, seen) for part in parts)


def _parts(node: ast.expr) -> list[ast.expr] | None:
    """Return what a value is one of, or is made of, with no factor of its own: both arms, `-loss`, a comprehension."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.UnaryOp):
        return [node.operand] if isinstance(node.op, ast.USub | ast.UAdd) else None
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return [node.elt]
    if isinstance(node, ast.DictComp):
        return [node.value]
    if isinstance(node, ast.List | ast.Tuple):
        return list(node.elts) or None
    return None


def _is_output(module: Module, node: ast.expr, count: ast.expr) -> bool:
    """Whether a name holds what a part of the object returned that was told nothing of k: `out = self.ops(batch)`."""
    values = module.names.values(node.id, node) if isinstance(node, ast.Name) else [node]
    last = values[-1] if values else None
    if not isinstance(last, ast.Call) or names_k(last, count):
        return False
    place = target(module, last)
    if place is not None and names_k(place[1], count):
        return False
    return (key(last.func) or "").startswith("self.")


def _scaled_term(module: Module, node: ast.BinOp, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    sides = [side for side in (node.left, node.right) if not isinstance(side, ast.Constant)]
    if isinstance(node.op, ast.Mult):
        if names_k(node, count):
            return True
        sides = [side for side in sides if not _coefficient(side)]
    elif isinstance(node.op, ast.Add | ast.Sub):
        own = [side for side in sides if not _is_again(module, side, seen)]
        return bool(own) and all(_scaled(module, side, count, seen) for side in own)  # one part that is not is enough
    else:
        return True
    return any(_scaled(module, side, count, seen) for side in sides)


def _is_again(module: Module, node: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a part of a sum is what the sum is added to: `loss` in `loss = loss + other`."""
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    return bound is not None and any(binding.node in seen for binding in bound[1])


def _coefficient(node: ast.expr) -> bool:
    """Whether a factor weighs one loss against others: named so, or a setting that is named for no division."""
    node = node.value if isinstance(node, ast.Subscript) else node
    word = (key(node) or "").split(".")[-1]
    return bool(_WEIGHT.search(word)) or (isinstance(node, ast.Attribute) and bool(word) and not _FACTOR.search(word))


def _scaled_name(module: Module, node: ast.Name, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    bound = module.names.lookup(node.id, node)
    if bound is None or any(b.kind in ("parameter", "with", "import") for b in bound[1]):
        return True
    if any(b.kind == "loop" and not isinstance(b.node, ast.comprehension) for b in bound[1]):
        return True
    for binding in bound[1]:
        if binding.node in seen or isinstance(binding.value, ast.Constant) or binding.value is None:
            continue
        if arms(module, binding.node, node):
            continue  # what the other branch does to its own loss
        if isinstance(binding.node, ast.AugAssign) and not isinstance(binding.node.op, ast.Add | ast.Sub):
            return True
        if _scaled(module, binding.value, count, seen | {binding.node}):
            return True
    return False


def _scaled_call(module: Module, node: ast.Call, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    name, owner = called(node), receiver(node)
    if name == "sum" and owner is None and len(node.args) == 1 and not names_k(node, count):
        return _scaled(module, node.args[0], count, seen)  # Python's own, which adds up the losses of one batch
    if name in _DIVIDES or name == "sum" or names_k(node, count) or _reduces_to_sum(node):
        return True
    if name in _PASSES_ON and owner is not None and key(owner) != "torch":
        return _scaled(module, owner, count, seen)
    if _sums(module, node.func):
        return True
    place = target(module, node)
    if place is None:
        return not _computes_a_loss(module, node)
    where, function = place
    if function in seen:
        return False
    if names_k(function, count):
        return True
    returned = [at.value for at in walk_scope(function) if isinstance(at, ast.Return) and at.value is not None]
    return any(_scaled_result(where, value, count, seen | {function}) for value in returned)


def _scaled_result(module: Module, value: ast.expr, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a function's result is divided; of several values any may be the loss."""
    if isinstance(value, ast.Tuple):
        return any(isinstance(at, ast.BinOp) and isinstance(at.op, ast.Div) for at in walk(value))
    return _scaled(module, value, count, seen)


def _reduces_to_sum(node: ast.AST) -> bool:
    return any(
        k.arg == "reduction" and isinstance(k.value, ast.Constant) and k.value.value == "sum"
        for at in walk(node)
        if isinstance(at, ast.Call)
        for k in at.keywords
    )


def _sums(module: Module, func: ast.expr) -> bool:
    values = module.names.values(func.id, func) if isinstance(func, ast.Name) else []
    return any(_reduces_to_sum(value) for value in values)


def _computes_a_loss(module: Module, node: ast.Call) -> bool:
    """Whether a call is the model or a loss function, which know nothing of the accumulation."""
    name = called(node).lower()
    made = [value.func for value in assigned(module, node.func) if isinstance(value, ast.Call)]
    known = any(d.startswith("torch.") for func in (node.func, *made) for d in module.names.dotted(func))
    return known or name in _MODELS or name.endswith(_LOSSES)


def _divides_somewhere(module: Module, found: Accumulation) -> bool:
    """Whether gradients, a learning rate or a weight are divided by k in the function, or k by itself in a factor."""
    scopes = {enclosing(module, found.backward), enclosing(module, found.step)}
    divisions = (n for s in scopes for n in walk(s) if _divides(module, n, s, found.count))
    return any(_reaches(module, node, found) for node in divisions)


def _reaches(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division may be of what this backward pass gathers: not of another branch's, nor behind the step."""
    if arms(module, division, found.backward):
        return False
    if any(isinstance(a, ast.Call) and called(a) == "backward" for a in module.tree.above(division)):
        return module.tree.inside(division, found.backward)
    if _of_another_pass(module, division, found) or _of_another_value(module, division, found):
        return False
    around = enclosing(module, found.step)
    behind = found.test is None and division.lineno > (found.step.end_lineno or 0)  # type: ignore[attr-defined]
    return not (behind and enclosing(module, division) is around and not module.tree.inside(division, found.loop))


def _of_another_pass(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division is of the loss of another backward pass: in that one's own loop, or under its name."""
    passes = [c for c in module.calls.get("backward", ()) if c is not found.backward]
    for loop in module.tree.loops(division):
        if module.tree.inside(found.backward, loop):
            break
        if any(module.tree.inside(c, loop) for c in passes):
            return True
    loss = loss_given(module, found.backward)
    own = {key(n) for value in (loss, *assigned(module, loss)) for n in walk(value)}
    others = {key(loss_given(module, c)) for c in passes if c.args or receiver(c) is not None}
    statement = module.tree.statement(division)
    places = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return len(places) == 1 and key(places[0]) in others - own - {None}


def _of_another_value(module: Module, division: ast.AST, found: Accumulation) -> bool:
    """Whether a division's result goes to a name that the loss is not made of: what is printed, a second metric."""
    statement = module.tree.statement(division)
    above = itertools.takewhile(lambda at: at is not statement, module.tree.above(division))
    if isinstance(statement, ast.Expr) or any(isinstance(at, ast.Call) for at in above):
        return False  # what is handed to a call may be a rate, or a weight
    places = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = [place.id for place in places if isinstance(place, ast.Name)]
    if not names or len(names) != len(places) or any(_WEIGHT.search(n) or _SETTING.search(n) for n in names):
        return False
    return not set(names) & _made_of(module, loss_given(module, found.backward))


_SETTING = re.compile(r"lr|rate|grad|scale|param|factor|coef|weight|norm|div|inv", re.IGNORECASE)
"""Names by whose value a step, or a loss, may be divided in another place."""


def _made_of(module: Module, loss: ast.expr) -> set[str]:
    """Return the names that a loss is made of, through the assignments of its file."""
    left, found = [loss], set()
    while left:
        for node in walk(left.pop()):
            if isinstance(node, ast.Name) and node.id not in found:
                found.add(node.id)
                left += assigned(module, node)
    return found


def _divides(module: Module, node: ast.AST, around: ast.AST, count: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return names_k(node.right, count) and not _only_counts(module, node, around)
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Div) and names_k(node.value, count)
    return isinstance(node, ast.Call) and called(node) in _DIVIDES and "grad" in ast.unparse(node.func)


def _only_counts(module: Module, node: ast.BinOp, around: ast.AST) -> bool:
    """Whether a division computes a number of steps or a value to print."""
    if any(isinstance(at, ast.Call) and called(at) in ("len", "item") for at in walk(node.left)):
        return True
    for at in module.tree.above(node):
        if at is around:
            return False
        if isinstance(at, ast.Call) and called(at) in _COUNTS:
            return True
    return False
