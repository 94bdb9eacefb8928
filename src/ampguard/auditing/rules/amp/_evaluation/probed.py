"""Networks that are run on made-up data for the size of what they give, in the mode that they happen to be in.

A network is in training mode when it has been made: BatchNorm takes random numbers into its statistics, and refuses a
single sample where nothing is left of its height and width.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, called, key, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import source

_NETWORK = regex(r"(\w+\.)*(Module|Sequential)\b")
_NAMED = regex(r"(\w+_)?(model|module|net|network|encoder|backbone|trunk|extractor)")
_MADE_UP = frozenset({"rand", "randn", "zeros", "ones", "empty", "rand_like", "randn_like", "zeros_like"})
_MAKES_UP = ("rand", "zeros", "ones", "empty")
_SIZE = regex(r"\.shape\b|\.size\(|\.numel\(")
_SAYS_MODE = regex(
    r"\beval\(|\.train\(|\.training\b|eval_mode|evaluating|set_mode|requires_grad|meta\b|optim|loss|flops"
)


def probed_in_training(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the run, what is wrong, the fix) of functions that are handed a network and give a size back."""
    if not module.mentions((".shape", ".size(", ".numel(")) or not module.mentions(("rand", "zeros(", "ones(")):
        return
    for function in module.functions:
        text = module.text_of(function)
        run = _run(module, function) if any(word in text for word in _MAKES_UP) and _SIZE.search(text) else None
        if run is None or _SAYS_MODE.search(source(module, function)) or _is_handed_in_eval(module, function):
            continue
        model = key(run.func) or ""
        message = f"{function.name}() runs {model} on made-up data in the mode that it happens to be in"
        yield run, message, f"Call {model}.eval() for the run, and put the mode back."


def _run(module: Module, function: Function) -> ast.Call | None:
    """Return the one call that runs a parameter on made-up data, where a size is all that is given back."""
    handed = {arg.arg for arg, _ in parameters(function) if _is_network(arg)}
    inner = list(walk_scope(function)) if handed else []
    runs = [n for n in inner if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in handed]
    given = [n.value for n in inner if isinstance(n, ast.Return) and n.value is not None]
    if len(runs) != 1 or not given or not all(_SIZE.search(ast.unparse(value)) for value in given):
        return None
    return runs[0] if any(_is_made_up(module, a) for a in runs[0].args) else None


def _is_network(arg: ast.arg) -> bool:
    if arg.annotation is None:
        return _NAMED.fullmatch(arg.arg) is not None
    return _NETWORK.search(ast.unparse(arg.annotation)) is not None


def _is_made_up(module: Module, value: ast.expr) -> bool:
    """Whether an expression is `torch.rand(...)` and the like, itself or by a name of it."""
    if isinstance(value, ast.Name):
        values = module.names.values(value.id, value)
        return len(values) > 0 and all(any(_makes_up(n) for n in walk(v)) for v in values)
    return any(_makes_up(n) for n in walk(value))


def _makes_up(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called(node) in _MADE_UP


def _is_handed_in_eval(module: Module, function: Function) -> bool:
    """Whether a file that calls the function puts models into evaluation mode or has networks without statistics."""
    calls = (text for _, text in module.project.texts(f"{function.name}("))
    return any(f"{function.name}(" in line and ".eval()" in line for text in calls for line in text.split("\n"))
