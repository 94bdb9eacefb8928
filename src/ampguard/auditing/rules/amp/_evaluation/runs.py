"""Functions that evaluate a model: which they are, which model they run, and whether gradients are off in them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._steps import callers

_NAME = regex(r"^(eval|evaluate|evaluation|validate|validation|valid|val|accuracy|testing|inference)$")
_TEST = regex(r"^_?(\w+_)?test(_\w+)?$")
_ESTIMATES = regex(
    r"^_*((estimate|compute|calc|calculate|get|measure|check|report|mean|average)_(\w*_)?"
    r"(loss(es)?|acc(uracy)?|accuracies|metrics?|perplexity|ppl|scores?|errors?|f1|auc|bleu|iou|mse|mae)"
    r"|(generate|sample|predict|visuali[sz]e|caption|transcribe)(_\w+)?|infer"
    r"|(create|extract|compute|calc|calculate|collect|dump|export|gather|get|make|precompute|prepare|save|write)_(\w*_)?"
    r"(features?|embeddings?|encodings?|latents?|activations?|alignments?|attentions?|mels?|representations?|predictions?"
    r"|logits|outputs?|codes))$"
)
"""Names of what judges or uses a model where it also switches gradients off."""

MODEL = regex(
    r"^(?!(?:.*\.)?_*(?:create|build|make|get|load|save|init|prepare|run|export|setup|validate|fit|compile|wrap)_\w*$)"
    r"(?:.*[._])?(\w*model|net(_?[a-z]{1,2})?|network|classifier|detector|generator|discriminator|unet|\w*_net)$",
    re.IGNORECASE,
)
"""Names of models, but for those of functions that make one or do something with it."""

OFF = regex(
    r"no_grad|inference_mode|set_grad_enabled|GradMode|eval_context|eval_mode\b|evaluating\(|volatile\s*=\s*True"
)
NEEDS = regex(
    r"requires_grad_\(|\.requires_grad\b|requires_grad\s*=\s*True|autograd\.grad|backward|enable_grad|\.grad\b|torch\.func"
    r"|attack|adversar|calibrat|sanity"
)
"""Work with gradients, or parameters frozen by hand; `Variable(x, requires_grad=False)` is neither."""

TRAINING_MODE_WANTED = regex(
    r"(^|_|\b)bn|batch_?norm|calib|dropout|mc_|monte|uncertain|precise|swa_|statistic|running_", re.IGNORECASE
)


Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Evaluation:
    """One function that runs a model over data to judge it.

    Attributes:
        function: The function.
        run: The first call of the model in a loop.
        model: The model's key.
        text: The function's source, with its decorators, and that of the helper that runs the model for it.
        gradients_off: Whether the function itself switches gradients off where the model runs.
    """

    function: Function
    run: ast.Call
    model: str
    text: str
    gradients_off: bool

    @property
    def needs_gradients(self) -> bool:
        """Whether the function works with gradients, as attacks, forces and calibrations do."""
        return bool(NEEDS.search(self.text))

    @property
    def wants_training_mode(self) -> bool:
        """Whether the function samples dropout or gathers statistics of BatchNorm, for which training mode is right."""
        return bool(TRAINING_MODE_WANTED.search(self.text))

    @property
    def switches_mode(self) -> bool:
        """Whether the function puts the model into evaluation mode."""
        return _switches(self.function, self.text, self.model)

    @property
    def switches_if_told(self) -> bool:
        """Whether the mode is an argument of the function's, which is evaluation where it is left out."""
        return self.switches_mode and f"{self.model}.eval()" not in self.text


def evaluations(module: Module) -> list[Evaluation]:
    """Return the evaluating functions of the file; a framework's hooks hold no loop and are not among them."""
    return module.once("evaluations", lambda: list(_evaluations(module)))


def _evaluations(module: Module) -> Iterator[Evaluation]:
    for function in module.functions:
        if not evaluates(module, function) and not _estimates(module, function):
            continue
        each = _called_for_each(module, function)
        for node, place, helper in _runs_in(module, function):
            if not each and not looped(module, node):
                continue
            text = source(module, function) + (source(module, helper) if helper is not None else "")
            if helper is None and called(node) in module.function_names:
                continue  # `self.eval_model(data)`: its own lines are looked at
            plain = MODEL.search(place) or (module.role != "test" and place in _done_to(module))
            if plain or (module.role != "test" and _switches(function, text, place)):
                if ".backward(" not in text:
                    yield Evaluation(function, node, place, text, _switched_off(module, function, node, helper))
                break


def _done_to(module: Module) -> frozenset[str]:
    """Return the keys of what the file puts into training mode, or whose parameters it takes."""
    calls = module.calls_of("train", "parameters")
    return module.once("done to models", lambda: frozenset(p for c in calls if (p := key(receiver(c)))) - {"self"})


def _estimates(module: Module, function: Function) -> bool:
    """Whether a function is named as one that measures or uses a model, and switches gradients off."""
    named = module.role != "test" and _ESTIMATES.match(function.name)
    return bool(named) and bool(OFF.search(source(module, function)))


def _switched_off(module: Module, function: Function, run: ast.Call, helper: Function | None) -> bool:
    """Whether gradients are off where a model runs: a `with` around something else does not count."""
    if helper is not None and OFF.search(source(module, helper)):
        return True
    lines = (line.strip() for line in source(module, function).split("\n"))
    return off_around(module, run) or any(OFF.search(line) for line in lines if not line.startswith("with "))


def _called_for_each(module: Module, function: Function) -> bool:
    """Whether the file calls a function of its own in a loop over something: `evaluation_step(batch)`."""
    if not re.search(r"step|batch|iter", function.name):
        return False
    loops = [next(module.tree.loops(c), None) for c in callers(module, function)]
    return any(isinstance(loop, ast.For) and "range(" not in ast.unparse(loop.iter) for loop in loops)


def _switches(function: Function, text: str, place: str) -> bool:
    """Whether a text puts a model into evaluation mode; `model.train(training)` does where that is False by itself."""
    if any(f"{place}.{way}" in text for way in ("eval()", "train(False)", "train(mode=False)")):
        return True
    return any(
        isinstance(default, ast.Constant) and default.value is False and f"{place}.train({name.arg})" in text
        for name, default in parameters(function)
    )


def _runs_in(module: Module, function: Function) -> Iterator[tuple[ast.Call, str, Function | None]]:
    """Walk the calls that may run a model: the call, the model's key, and the helper of this file that does it."""
    for node in walk_scope(function):
        place = run_model(node)
        if place is None or not isinstance(node, ast.Call):
            continue
        yield node, place, None
        here = called(node) in module.function_names and (place.startswith("self.") or bool(node.args))
        found = target(module, node) if here else None
        if found is not None and found[0] is module and found[1] is not function:
            yield from ((node, inner, found[1]) for inner in _run_for(module, function, node, found[1]))


def _run_for(module: Module, function: Function, call: ast.Call, helper: Function) -> Iterator[str]:
    """Walk the keys, as the caller knows them, of the models that a helper runs: what it holds, what it is handed."""
    names = [a.arg for a in helper.args.args if a.arg != "self"]
    given = {name: key(value) for name, value in zip(names, call.args, strict=False)}
    own = key(receiver(call)) == "self"
    for node in walk_scope(helper):
        place = run_model(node)
        if place and own and place.startswith("self.") and _is_model(module, function, place):
            yield place
        elif place and MODEL.search(given.get(place) or ""):
            yield given[place] or ""


def _is_model(module: Module, function: Function, place: str) -> bool:
    return bool(MODEL.search(place)) or _switches(function, source(module, function), place)


def run_model(node: ast.AST) -> str | None:
    """Return the key of what a call runs, if a model: `model(x)` and `model.forward(x)` are one."""
    place = key(node.func) if isinstance(node, ast.Call) else None
    return place.removesuffix(".forward") if place else None


def comprehension(module: Module, node: ast.AST) -> Comprehension | None:
    """Return the comprehension around a node in its statement."""
    for at in module.tree.above(node):
        if isinstance(at, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return at
        if isinstance(at, ast.stmt):
            return None
    return None


def looped(module: Module, node: ast.AST) -> bool:
    """Whether a node runs once for each item of something, in a loop or a comprehension of its function."""
    return any(True for _ in module.tree.loops(node)) or comprehension(module, node) is not None


def evaluates(module: Module, function: Function) -> bool:
    """Whether a function is named as an evaluation."""
    words = function.name.strip("_").lower().split("_")
    return any(_NAME.match(w) for w in words) or (module.role != "test" and bool(_TEST.match(function.name)))


def source(module: Module, function: Function) -> str:
    """Return the text of a function with its decorators, without its docstring and comments."""
    return module.once(("evaluation source", function), lambda: _source(module, function))


def _source(module: Module, function: Function) -> str:
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    head = function.body[0]
    said = isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant) and isinstance(head.value.value, str)
    lines = module.lines[first - 1 : function.end_lineno]
    if said and len(function.body) > 1:
        lines = (
            module.lines[first - 1 : head.lineno - 1]
            + module.lines[head.end_lineno or head.lineno : function.end_lineno]
        )
    return "\n".join(_COMMENT.sub("", line) if "#" in line else line for line in lines)


_COMMENT = regex(r"(^\s*|\s\s)#.*$")
"""A comment of its own line, or behind two spaces; a "#" inside a string is left alone."""


def gradients_off_outside(module: Module, function: Function) -> bool | None:
    """Whether every caller in the file has switched gradients off; None where the file holds no caller."""
    calls = callers(module, function)
    return all(off_around(module, c) for c in calls) if calls else None


def off_around(module: Module, node: ast.AST) -> bool:
    """Whether a `with` or a decorator around a node switches gradients off."""
    for at in module.tree.above(node):
        if isinstance(at, ast.With) and any(OFF.search(ast.unparse(item.context_expr)) for item in at.items):
            return True
        if isinstance(at, FUNCTIONS) and any(OFF.search(ast.unparse(d)) for d in at.decorator_list):
            return True
    return False


def mode_calls(module: Module, name: str, place: str | None = None) -> list[ast.Call]:
    """Return the calls `model.eval()` or `model.train()`, of one model or of all."""
    found = [c for c in module.calls.get(name, ()) if receiver(c) is not None and called(c) == name]
    return [c for c in found if place is None or key(receiver(c)) == place]
