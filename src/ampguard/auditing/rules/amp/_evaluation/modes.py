"""Where a model is put into evaluation mode and back, and what runs in between."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import Binding, parameters
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import (
    MODEL,
    NEEDS,
    TRAINING_MODE_WANTED,
    looped,
    mode_calls,
    off_around,
    run_model,
    source,
)
from ampguard.auditing.rules.amp._steps import bound_to, enclosing, tests_above

_FROZEN = regex(r"teacher|ema|target|frozen|pretrain|reference|ref_|discrim|lpips|vgg|inception", re.IGNORECASE)


@dataclass(frozen=True)
class Stretch:
    """What runs in evaluation mode in one block: from `model.eval()` to `model.train()` or the block's end.

    Attributes:
        switch: The call `model.eval()`.
        model: The model's key.
        statements: What follows it.
        text: Their source.
    """

    switch: ast.Call
    model: str
    statements: list[ast.stmt]
    text: str

    @property
    def needs_gradients(self) -> bool:
        """Whether gradients are worked with, or switched off for the parameters themselves."""
        return bool(NEEDS.search(self.text))


def stretches(module: Module) -> Iterator[Stretch]:
    """Walk what runs in evaluation mode behind each `model.eval()` that is a statement of its own."""
    for call in mode_calls(module, "eval"):
        place, rest = model_of(module, call), _after(module, call)
        if place is None or not rest:
            continue
        back = [c for c in mode_calls(module, "train", place) if not _is_off(c)]
        kept: list[ast.stmt] = []
        for statement in rest:
            if any(module.tree.inside(c, statement) for c in back):
                break
            kept.append(statement)
        if kept:
            yield Stretch(call, place, kept, "\n".join(module.lines[kept[0].lineno - 1 : kept[-1].end_lineno]))


def model_of(module: Module, call: ast.Call) -> str | None:
    """Return the key of the model in `model.eval()`, `model.to(device).eval()` and `model = make().eval()`."""
    owner = receiver(call)
    while isinstance(owner, ast.Call) and called(owner) in ("to", "cuda", "cpu", "float", "half", "bfloat16"):
        owner = receiver(owner)
    statement = module.tree.statement(call)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return bound_to(module, call) if statement.value is call else None
    return key(owner)


def _is_off(call: ast.Call) -> bool:
    return any(isinstance(a, ast.Constant) and a.value is False for a in call.args)


def _after(module: Module, call: ast.Call) -> list[ast.stmt]:
    """Return the statements behind the one that a call is, in its block."""
    statement = module.tree.parents[call]
    if not isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign):
        return []
    return module.tree.behind(statement)


def recorded_run(module: Module, stretch: Stretch) -> ast.Call | None:
    """Return the first call of the model in a loop of the stretch, while autograd records; None if there is none."""
    scope = enclosing(module, stretch.switch)
    for node in runs(module, stretch.model):
        if enclosing(module, node) is not scope or off_around(module, node) or not looped(module, node):
            continue
        if any(module.tree.inside(node, s) for s in stretch.statements):
            loop = next(module.tree.loops(node), None)
            if loop is None or not module.tree.inside(stretch.switch, loop):
                return node
    return None


def settled_run(module: Module, stretch: Stretch) -> ast.Call | None:
    """Return the first call of the model, outside of loops, in a function that predicts and takes values out of it."""
    function = module.tree.function(stretch.switch)
    if function is None or not _PREDICTS.search(function.name) or ".backward(" in source(module, function):
        return None
    if not SETTLES.search(stretch.text):
        return None
    for node in runs(module, stretch.model):
        if module.tree.function(node) is not function or off_around(module, node):
            continue
        if any(module.tree.inside(node, s) for s in stretch.statements):
            return node
    return None


_PREDICTS = regex(
    r"predict|infer|(^|_)(eval|valid|test|score|classify|embed|extract|sample|generate|caption|translate|transcribe)"
)
SETTLES = regex(r"\.detach\(\)|\.item\(\)|argmax|\.tolist\(|\.topk\(|torch\.(max|topk|softmax|sigmoid)\(")
"""What is done to a result that nobody differentiates."""


def runs(module: Module, place: str) -> list[ast.Call]:
    """Return the calls that run the model of that key, in source order."""
    last = place.split(".")[-1]
    return [c for c in module.calls_of(last, "forward") if run_model(c) == place]


def never_judged(module: Module) -> bool:
    """Whether nothing in the file puts a model that it trains into evaluation mode."""
    if re.search(r"eval_mode\b|evaluating\w*\(|train\(False|\.train\(mode\b|functional_call|set_mode", module.text):
        return False
    told = [c for c in mode_calls(module, "train") if c.args or c.keywords]
    if any(_SWITCHED.search(key(receiver(c)) or "") and not _trains_unless_told(module, c) for c in told):
        return False
    return all(_FROZEN.search(key(receiver(c)) or "") for c in mode_calls(module, "eval") if not c.args)


def _trains_unless_told(module: Module, call: ast.Call) -> bool:
    """Whether `model.train(flag)` stands in a function that is named after training, whose flag is True by itself."""
    function = module.tree.function(call)
    if function is None or "train" not in function.name or not call.args:
        return False
    defaults = {arg.arg: default for arg, default in parameters(function)}
    default = defaults.get(key(call.args[0]) or "")
    return isinstance(default, ast.Constant) and default.value is True


_SWITCHED = regex(r"model|net|module|self\.\w+", re.IGNORECASE)


def models(module: Module) -> set[str]:
    """Return the keys of what the file trains: whose parameters it takes, or which it puts into training mode."""
    takes = module.calls_of("parameters", "named_parameters", "train", "zero_grad")
    found = {p for c in takes if (p := key(receiver(c)))}
    return module.once("trained models", lambda: {p for p in found if not _FROZEN.search(p)})


def trained_while_judged(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk the calls `model.train()` where gradients are off, each with the run of the model that follows it."""
    for call in mode_calls(module, "train"):
        place = key(receiver(call))
        function = module.tree.function(call)
        if place is None or call.args or call.keywords or not off_around(module, call):
            continue
        if TRAINING_MODE_WANTED.search(source(module, function) if function is not None else module.text):
            continue
        rest = _after(module, call)
        ran = [c for c in runs(module, place) if any(module.tree.inside(c, s) for s in rest)]
        evals = [c.lineno for c in mode_calls(module, "eval", place) if c.lineno > call.lineno]
        if ran and not any(call.lineno < line <= ran[0].lineno for line in evals):
            yield call, ran[0]


def judged_in_training(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the runs of a trained model over data without gradients, in functions that train it and never call eval().

    Once a function.
    """
    seen: set[ast.AST] = set()
    for place in sorted(models(module) | _run_to_train(module)):
        for call in runs(module, place):
            around = enclosing(module, call)
            if around in seen or not looped(module, call):
                continue
            if not _off_here(module, call) and not _on_held_out(module, call):
                continue
            text = source(module, around) if isinstance(around, FUNCTIONS) else module.text
            if ".backward(" in text and not re.search(r"eval\(|train\(False|\.train\(\w+\s*==|set_mode", text):
                seen.add(around)
                yield call, place


_TEACHER = regex(r"(^|[._])(\w*teacher\w*|reference(_model)?|ref_model|frozen_\w*model|\w*pretrained_model)$")


def teachers_never_judged(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the runs of teachers, without gradients beside a backward pass, in a file that reads their weights itself.

    Only where nothing in the file calls eval(); once a teacher.
    """
    if ".eval()" in module.text or not module.mentions(("teacher", "reference", "ref_model", "frozen", "pretrained")):
        return
    if not never_judged(module) or "load_state_dict(" not in module.text:
        return
    loaded = {p for c in module.calls_of("load_state_dict") if (p := key(receiver(c)))}
    around = {enclosing(module, c) for c in module.calls.get("backward", ())}
    for place in sorted(p for p in loaded if _TEACHER.search(p)):
        run = next((c for c in runs(module, place) if off_around(module, c) and enclosing(module, c) in around), None)
        if run is not None:
            yield run, place


def _run_to_train(module: Module) -> set[str]:
    """Return the keys of the models that run where a backward pass does, with gradients on."""
    around = {enclosing(module, c) for c in module.calls.get("backward", ())}
    found: set[str] = set()
    for function in around if module.mentions(("no_grad", "inference_mode")) else ():
        for node in walk_scope(function):
            place = run_model(node)
            if place and MODEL.search(place) and not _FROZEN.search(place) and not off_around(module, node):
                found.add(place)
    return found


_PHASE = regex(
    r"(not )?(is_|do_|for_)?(train(ing)?|is_?train\w*|eval\w*|test(ing)?|val\w*|backward|opt(im(i[sz]er)?)?)"
    r"( is not None)?"
    r"|(not )?\w*(phase|split|stage|mode|subset|part)\w* ([!=]=|(not )?in) .*"
    r"|.* [!=]= ['\"](train|val|test|eval)\w*['\"]",
    re.IGNORECASE,
)
_BY_CHOICE = regex(r"train\(False|\.train\(\s*[\w\[\]'\".]+\s*(==|in\b|!=|\))|set_mode|eval_mode\b|functional_call")


def judged_by_phase(module: Module) -> Iterator[tuple[ast.Call, str, ast.If]]:
    """Walk the runs of a model in functions that train or judge by an argument, and never switch to evaluation mode.

    Each with the model and the `if` that the backward call stands under. Once a function.
    """
    seen: set[ast.AST] = set()
    for backward in module.calls.get("backward", ()):
        function = module.tree.function(backward)
        branch = _phase_above(module, backward) if function is not None else None
        if function is None or branch is None or function in seen:
            continue
        text = source(module, function)
        if _BY_CHOICE.search(text) or TRAINING_MODE_WANTED.search(function.name):
            continue
        for call, place in _outside(module, branch, function):
            evals = [c for c in mode_calls(module, "eval") if module.tree.inside(c, function)]
            if any(c.lineno < call.lineno for c in evals):
                break
            seen.add(function)
            yield call, place, branch
            break


def _phase_above(module: Module, backward: ast.Call) -> ast.If | None:
    """Return the `if` that asks an argument, or a loop's variable, whether this is training."""
    for at in module.tree.above(backward):
        if isinstance(at, FUNCTIONS):
            return None
        if isinstance(at, ast.If) and _PHASE.fullmatch(ast.unparse(at.test)) and _asks_caller(module, at.test):
            return at
    return None


def _asks_caller(module: Module, test: ast.expr) -> bool:
    """Whether a test reads a parameter or a loop's variable, and nothing but such names and constants."""
    for node in walk(test):
        if isinstance(node, ast.Call | ast.BinOp | ast.Attribute):
            return False
    names = [n for n in walk(test) if isinstance(n, ast.Name)]
    kinds = [{b.kind for b in _bindings(module, n)} for n in names]
    return bool(names) and all(k and k <= {"parameter", "loop"} for k in kinds)


def _bindings(module: Module, node: ast.Name) -> list[Binding]:
    found = module.names.lookup(node.id, node)
    return found[1] if found else []


def _outside(module: Module, branch: ast.If, function: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Walk the runs of a trained model in a function that stand before a branch, whatever it asks."""
    wanted = ast.unparse(branch.test)
    trained = (
        models(module) | _run_to_train(module) | {p for c in mode_calls(module, "train") if (p := key(receiver(c)))}
    )
    if any(b.kind == "loop" for n in walk(branch.test) if isinstance(n, ast.Name) for b in _bindings(module, n)):
        inner = (run_model(n) for n in walk_scope(function))
        trained |= {p for p in inner if p and MODEL.search(p)}  # the function itself goes through the phases
    for place in sorted(trained):
        for call in runs(module, place):
            asked = any(inside and ast.unparse(t) == wanted for t, inside in tests_above(module, call))
            if enclosing(module, call) is function and call.lineno < branch.lineno and not asked:
                yield call, place


def _off_here(module: Module, call: ast.Call) -> bool:
    """Whether the call stands in a `with torch.no_grad()` that goes around the loop over data."""
    loop = next(module.tree.loops(call), None)
    if loop is None or not isinstance(loop, ast.For) or not off_around(module, call):
        return False
    return bool(re.search(r"val|test|eval|dev", ast.unparse(loop.iter), re.IGNORECASE))


def _data_of(module: Module, loop: ast.For) -> str:
    """Return what a loop goes over, and what the names in it stand for: `for batch in bar`, of `bar = tqdm(loader)`."""
    names = [n for n in walk(loop.iter) if isinstance(n, ast.Name)]
    values = [v for n in names if len(v := module.names.values(n.id, n)) == 1]
    return " ".join([ast.unparse(loop.iter), *(ast.unparse(v[0]) for v in values if isinstance(v[0], ast.Call))])


_HELD_OUT = regex(
    r"(?:^|[^a-z])(?:val(?:id(?:ation)?)?|test(?:ing)?|eval(?:uation)?|held_?out|holdout)"
    r"_?(?:data|load|dl\b|ds\b|set\b|it|gen|batch|x\b|[^a-z_(.]|$)",
    re.IGNORECASE,
)
"""Data that a model is judged by, by its name: `val_loader`, `testdataloader`, `loaders["val"]`; not `d.values()`."""


def _on_held_out(module: Module, call: ast.Call) -> bool:
    """Whether the model runs on data that is held out, in a block of its own that has no backward pass."""
    block: ast.AST | None = next(module.tree.loops(call), None)
    if isinstance(block, ast.For) and _HELD_OUT.search(_data_of(module, block)):
        return not _trains_or_needs(ast.unparse(block))
    for at in module.tree.above(call):
        if isinstance(at, (*FUNCTIONS, ast.For, ast.While)):
            return False
        if isinstance(at, ast.If | ast.With):
            drawn = [c for c in module.calls.get("next", ()) if c.args and module.tree.inside(c, at)]
            if any(c.lineno < call.lineno and _HELD_OUT.search(ast.unparse(c.args[0])) for c in drawn):
                return not _trains_or_needs(ast.unparse(at))
    return False


def _trains_or_needs(text: str) -> bool:
    return bool(NEEDS.search(text) or TRAINING_MODE_WANTED.search(text))
