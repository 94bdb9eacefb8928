"""Functions that evaluate a model: which they are, which model they run, and whether gradients are off in them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._steps import callers

_NAME = re.compile(r"^(eval|evaluate|evaluation|validate|validation|valid|val)$")
_TEST = re.compile(r"^_?(run_|do_)?test(_(model|epoch|loop|one_epoch|net|network|set|loss))?$")
_MODEL = re.compile(r"(^|[._])(\w*model|net|network|classifier|detector|unet|\w*_net)$", re.IGNORECASE)
_OFF = re.compile(r"no_grad|inference_mode|set_grad_enabled|GradMode|eval_context|evaluating")
_NEEDS = re.compile(r"requires_grad|autograd|backward|enable_grad|\.grad\b|torch\.func|attack|adversar|calibrat|sanity")


@dataclass(frozen=True)
class Evaluation:
    """One function that runs a model over data to judge it.

    Attributes:
        function: The function.
        run: The first call of the model in a loop.
        model: The model's key.
        text: The function's source, with its decorators.
    """

    function: Function
    run: ast.Call
    model: str
    text: str

    @property
    def gradients_off(self) -> bool:
        """Whether the function itself switches gradients off."""
        return bool(_OFF.search(self.text))

    @property
    def needs_gradients(self) -> bool:
        """Whether the function works with gradients, as attacks, forces and calibrations do."""
        return bool(_NEEDS.search(self.text))

    @property
    def switches_mode(self) -> bool:
        """Whether the function puts the model into evaluation mode."""
        return f"{self.model}.eval()" in self.text or f"{self.model}.train(False)" in self.text


def evaluations(module: Module) -> list[Evaluation]:
    """Return the evaluating functions of the file; a framework's hooks hold no loop and are not among them."""
    return module.once("evaluations", lambda: list(_evaluations(module)))


def _evaluations(module: Module) -> Iterator[Evaluation]:
    for function in module.functions:
        if not _evaluates(module, function):
            continue
        for node in walk_scope(function):
            place = key(node.func) if isinstance(node, ast.Call) else None
            looped = place and _MODEL.search(place) and any(True for _ in module.tree.loops(node))
            if place and looped and isinstance(node, ast.Call):
                text = source(module, function)
                if ".backward(" not in text:
                    yield Evaluation(function, node, place, text)
                break


def _evaluates(module: Module, function: Function) -> bool:
    words = function.name.strip("_").lower().split("_")
    return any(_NAME.match(w) for w in words) or (module.role != "test" and bool(_TEST.match(function.name)))


def source(module: Module, function: Function) -> str:
    """Return the text of a function with its decorators."""
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return "\n".join(module.lines[first - 1 : function.end_lineno])


def gradients_off_outside(module: Module, function: Function) -> bool | None:
    """Whether every caller in the file has switched gradients off; None where the file holds no caller."""
    calls = callers(module, function)
    return all(_off_around(module, c) for c in calls) if calls else None


def _off_around(module: Module, node: ast.AST) -> bool:
    for at in module.tree.above(node):
        if isinstance(at, ast.With) and any(_OFF.search(ast.unparse(item.context_expr)) for item in at.items):
            return True
        if isinstance(at, FUNCTIONS) and any(_OFF.search(ast.unparse(d)) for d in at.decorator_list):
            return True
    return False


def mode_calls(module: Module, name: str, place: str | None = None) -> list[ast.Call]:
    """Return the calls `model.eval()` or `model.train()`, of one model or of all."""
    found = [c for c in module.calls.get(name, ()) if receiver(c) is not None and called(c) == name]
    return [c for c in found if place is None or key(receiver(c)) == place]
