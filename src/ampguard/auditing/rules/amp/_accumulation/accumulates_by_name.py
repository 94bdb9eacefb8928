"""Accumulations that only their words tell: whether anything divides by what is named as a number of micro-batches.

Where a class steps every k-th time, k is named so, and no line of it divides by anything so named, the gradients are
the sum over k batches, wherever the loss comes from. Where the loop is known and its loss comes from what cannot be
seen into, the same is asked of every text that may make the loss.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._accumulation.loops import ACCUMULATES, Accumulation, loss_given
from ampguard.auditing.rules.amp._accumulation.pieces import goes_over_pieces
from ampguard.auditing.rules.amp._evaluation.runs import source
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_WORDS = (
    r"(?:accum|accu_|grad(?:ient)?s?_?acc(?!ur)|\bacc_(?:grad|step|iter|batch|num|freq)|micro_?batch|update_freq"
    r"|update_interval|iter_size|batch_split)\w*"
)
_K = rf"(?![\w.]*(?:actor|target|critic|policy))[\w.\[\]'\"]*{_WORDS}"
EVERY_KTH = regex(rf"(?:%=?\s*\(?|\brange\(\s*)(?P<k>{_K})", re.IGNORECASE)
_COUNTED = regex(rf"(?:==|>=) ?(?P<k>{_K})\b(?!\()", re.IGNORECASE)
"""A count of micro-batches that has come to k: asked of the tests that steps stand under."""

_OTHERWISE = regex(
    r"loss_?(scale_factor|weight|factor|norm)|\* ?self\.loss_|num_items|normali[sz]e_loss|batch_multiplier"
    r"|^[^\n]*(loss|grad|return)[^\n]*_tokens\b"
    r"|^[^\n]*(loss|grad)[^\n]*world_size|^[^\n]*world_size[^\n]*(loss|grad(?!_?acc))|\.mul_\(|reduction=.sum|grad(ient)?s?_?(scale(?!r)|multi|norm_factor)"
    r"|^[^\n]*(loss|grad(?!\w*(acc|_steps))|return)[^\n]*(?<!/)/ ?=? ?\(?(?!np\b|nn\b)(n|num|total|count|denom)\w*\b"
    r"|return [^\n]*\.sum\(\)[ ]*(\n|$)|loss\w* = [^\n/]*\.sum\(\)[ ]*(\n|$)"
    r"|accelerat|deepspeed|\bself\.fabric|inv_",
    re.IGNORECASE | re.MULTILINE,
)
"""What else makes a loss, or its gradients, mean the same for any number of micro-batches."""

_NUMBER = regex(r"\.(item|detach)\(\)\)? ?/|\bfloat\(\w+\) ?/")
"""A division of what has left the graph."""

_COUNTING = regex(r"\blen\(|ceil|floor|steps_per|_steps ?=|total|print|log|num_|max_|\.info\(", re.IGNORECASE)


def named_accumulations(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the first backward pass of each such class or outermost function, with k and its name.

    A function is asked with the rest of its file, and the files of what makes its loss: both may divide.
    """
    told: set[ast.AST] = set()
    for backward in module.calls_of("backward"):
        owner = module.tree.class_of(backward) or _outermost(module, backward)
        if owner is None or owner in told:
            continue
        told.add(owner)
        text = _code(module, owner)
        every = EVERY_KTH.search(text)
        if every is None and isinstance(owner, FUNCTIONS):
            every = _counted_to(module, owner)
        if every is None or not _steps(module, owner) or _divide([text], _dividing()):
            continue
        named = isinstance(owner, ast.ClassDef) or ACCUMULATES.search(every["k"])
        if not named or (isinstance(owner, FUNCTIONS) and _divided_beside(module, owner, backward, every["k"])):
            continue
        if not _divided_by_others(module, every["k"]):
            yield backward, every["k"], owner.name


def _outermost(module: Module, node: ast.AST) -> Function | None:
    above = [at for at in module.tree.above(node) if isinstance(at, FUNCTIONS)]
    return above[-1] if above else None


def _counted_to(module: Module, owner: ast.AST) -> re.Match[str] | None:
    """Return where the tests above every step of an optimizer in a function say k; None where one has none."""
    steps = [c for c in module.calls_of("step") if module.tree.inside(c, owner)]
    steps = [c for c in steps if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c))]
    said = [_COUNTED.search(" ".join(ast.unparse(test) for test, _ in tests_above(module, c))) for c in steps]
    return said[0] if said and all(said) else None


def _divided_beside(module: Module, owner: Function, backward: ast.Call, k: str) -> bool:
    """Whether another function of the file, or the file of what makes the loss, divides, or a loss is summed."""
    name = k.rpartition(".")[2].strip("[]'\"")
    handed = [backward.args[0]] if backward.args else [receiver(backward)]
    makers = [c for loss in handed if loss is not None for c in _made_by(module, loss)]
    places = (target(module, call) for call in makers)
    texts = [place[0].text for place in places if place is not None and place[0] is not module]
    rest = "\n".join([*module.lines[: owner.lineno - 1], *module.lines[owner.end_lineno :]])
    return _divide(texts, _dividing(name)) or any(_dividing(name).search(line) for line in rest.split("\n"))


def _divided_by_others(module: Module, k: str) -> bool:
    """Whether another file, as that of a subclass, divides by an attribute of that name."""
    name = k.rpartition(".")[2]
    return module.project.says(re.compile(rf"(?<!/)/ ?=? ?self\.{re.escape(name)}\b"), name)


def divided_nowhere(module: Module, found: Accumulation) -> bool:
    """Whether nothing that may make the loss of an accumulation divides by k, or by anything that is named as one."""
    name = (key(found.count) or "").rpartition(".")[2]
    loss = loss_given(module, found.backward)
    named = ACCUMULATES.search(name) or _adds_pieces(module, found)
    if not named or module.role in ("test", "benchmark") or _is_handed_in(module, loss):
        return False
    return not _divide(list(_texts_of(module, found)), _dividing(name))


def _adds_pieces(module: Module, found: Accumulation) -> bool:
    """Whether a loop goes over the pieces of a batch and takes no sums, nor divides, be it by the batch's size."""
    if not isinstance(found.loop, ast.For) or not goes_over_pieces(module, found.loop):
        return False
    within = list(walk_scope(found.loop))
    sums = any(isinstance(n, ast.Call) and called(n) == "sum" for n in within)
    return not sums and not any(isinstance(getattr(n, "op", None), ast.Div) for n in within)


def divides(texts: list[str]) -> bool:
    """Whether a text divides a loss by what is named as a number of micro-batches, or by another number of parts."""
    return _divide(texts, _dividing())


def _dividing(name: str = "") -> re.Pattern[str]:
    """Return what divides by something named as a number of micro-batches, or by that name."""
    k = rf"(?:{_K}|[\w.\[\]'\"]*{re.escape(name)}\b)" if name else _K
    return re.compile(
        rf"(?<!/)/(?!/)\s*=?\s*(?:max\(|float\(|int\(|len\()*\(?[^\n]{{0,12}}?{k}|\.(?:true_)?div(?:ide)?_?\([^\n]*{k}",
        re.IGNORECASE,
    )


def _divide(texts: list[str], dividing: re.Pattern[str]) -> bool:
    """Whether a text divides a loss by k, or makes the number of micro-batches mean nothing in another way."""
    lines = (line for text in texts for line in text.split("\n") if dividing.search(line))
    return any(not _counts(line) for line in lines) or any(_OTHERWISE.search(text) for text in texts)


def _counts(line: str) -> bool:
    """Whether a line divides for a number of steps or a value to print, and no loss."""
    code = line.partition("#")[0].lower()
    if _NUMBER.search(code):
        return True
    return "loss" not in code and "grad." not in code and bool(_COUNTING.search(code))


def _is_handed_in(module: Module, loss: ast.expr) -> bool:
    """Whether a loss comes from the caller, or from what a loop goes over: nothing is known of it."""
    bound = module.names.lookup(loss.id, loss) if isinstance(loss, ast.Name) else None
    return isinstance(loss, ast.Name) and (bound is None or any(b.kind in ("parameter", "loop") for b in bound[1]))


def _texts_of(module: Module, found: Accumulation) -> Iterator[str]:
    """Walk the texts in which a loss may be divided: the functions of the loop, and the files of who makes the loss."""
    for around in {enclosing(module, found.backward), enclosing(module, found.step)}:
        yield source(module, around) if isinstance(around, FUNCTIONS) else module.text
    makers = _made_by(module, loss_given(module, found.backward))
    for place in (target(module, call) for call in makers):
        if place is not None:
            yield place[0].text
    defined = [f"def {called(call)}(" for call in makers if target(module, call) is None]
    for path, text in module.project.texts() if defined else ():
        if path != module.path and any(define in text for define in defined):
            yield text


def _made_by(module: Module, loss: ast.expr) -> list[ast.Call]:
    """Return the calls that a loss comes from: `loss = f(x)`, or `result.loss` of `result = f(x)`."""
    if isinstance(loss, ast.Attribute | ast.Subscript) and isinstance(loss.value, ast.Name):
        loss = loss.value
    values = assigned(module, loss) if isinstance(loss, ast.Name) else [loss]
    return [v for v in values if isinstance(v, ast.Call)] if all(isinstance(v, ast.Call) for v in values) else []


def _steps(module: Module, owner: ast.AST) -> bool:
    steps = (c for c in module.calls_of("step") if module.tree.inside(c, owner))
    return any(is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c)) for c in steps)


def _code(module: Module, owner: ast.ClassDef | Function) -> str:
    """Return the lines of a class or a function without comments."""
    return "\n".join(line.partition("#")[0] for line in module.lines[owner.lineno - 1 : owner.end_lineno])
