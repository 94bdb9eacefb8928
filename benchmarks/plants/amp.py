"""Faults of loss scaling, accumulation and autocast."""

import ast
from collections.abc import Iterator

from plants.edits import Page, Plant, alone, called, edited, indented_into, like_scaler, receiver, siblings_after

CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm")


def clip_before_unscale(page: Page) -> Iterator[Plant]:
    """Take every `unscale_` of the file away; the clips of those functions are then of scaled gradients."""
    unscales = [c for c in page.calls("unscale_") if alone(page, c)]
    functions = {page.function(c) for c in unscales}
    clips = [c.lineno for name in CLIPS for c in page.calls(name) if page.function(c) in functions]
    text = edited(page, [(page.statement(c), "pass") for c in unscales])
    if text and clips and len(unscales) == len(list(page.calls("unscale_"))):
        yield Plant("clip-before-unscale", text, tuple(clips))


def unscale_twice(page: Page) -> Iterator[Plant]:
    """Write an `unscale_` a second time."""
    for call in page.calls("unscale_"):
        if alone(page, call) and like_scaler(call):
            source = page.source(call)
            text = edited(page, [(page.statement(call), f"{source}; {source}")])
            if text:
                yield Plant("unscale-twice", text, (call.lineno,))
                return


def missing_update(page: Page) -> Iterator[Plant]:
    """Take every `update` of a scaler away."""
    updates = [c for c in page.calls("update") if like_scaler(c)]
    steps = [c.lineno for c in page.calls("step") if like_scaler(c)]
    text = edited(page, [(page.statement(c), "pass") for c in updates if alone(page, c)])
    if text and updates and steps:
        scales = [c.lineno for c in page.calls("scale") if like_scaler(c)]
        yield Plant("missing-scaler-update", text, (*steps, *scales, *(c.lineno for c in updates)))


def missing_scale(page: Page) -> Iterator[Plant]:
    """Call `backward` on the loss itself, everywhere."""
    scales = [c for c in page.calls("scale") if like_scaler(c) and len(c.args) == 1]
    steps = [c.lineno for c in page.calls("step") if like_scaler(c)]
    backward = [c for c in scales if isinstance(page.parents[c], ast.Attribute) and page.parents[c].attr == "backward"]
    text = edited(page, [(c, f"({page.source(c.args[0])})") for c in backward])
    if text and steps and backward and len(backward) == len(scales):
        yield Plant("missing-scale", text, (*steps, *(c.lineno for c in backward)))


def plain_step(page: Page) -> Iterator[Plant]:
    """Step the optimizer itself, where a scaler stepped it."""
    for call in page.calls("step"):
        if like_scaler(call) and alone(page, call) and len(call.args) == 1:
            text = edited(page, [(call, f"{page.source(call.args[0])}.step()")])
            if text:
                yield Plant("plain-step-beside-scaler", text, (call.lineno,))
                return


def update_per_optimizer(page: Page) -> Iterator[Plant]:
    """Update the scale after each of several optimizers' steps."""
    steps = [c for c in page.calls("step") if like_scaler(c) and alone(page, c)]
    for function in {page.function(c) for c in steps}:
        here = [c for c in steps if page.function(c) is function]
        places = {ast.unparse(c.args[0]) for c in here if c.args}
        one_scaler = len({receiver(c) for c in here}) == 1
        if len(places) < 2 or len(here) != len(places) or len({page.loop(c) for c in here}) > 1 or not one_scaler:
            continue
        text = edited(page, [(c, f"{page.source(c)}; {receiver(c)}.update()") for c in here])
        if text:
            updates = [c.lineno for c in page.calls("update") if page.function(c) is function]
            yield Plant("scaler-update-per-optimizer", text, (*(c.lineno for c in here), *updates))
            return


def recreated(page: Page) -> Iterator[Plant]:
    """Make the scaler anew before each backward pass."""
    for call in page.calls("scale"):
        statement = page.statement(call)
        if like_scaler(call) and page.loop(call) and isinstance(statement, ast.Expr):
            made = f"{receiver(call)} = torch.cuda.amp.GradScaler(); {page.source(statement)}"
            text = edited(page, [(statement, made)])
            if text and "import torch\n" in page.text:
                yield Plant("scaler-recreated-each-step", text, (call.lineno,))
                return


def backward_in_autocast(page: Page) -> Iterator[Plant]:
    """Take the statements after an autocast block, through the backward pass, into it."""
    for block in [n for n in ast.walk(page.tree) if isinstance(n, ast.With)]:
        if not any(isinstance(i.context_expr, ast.Call) and "autocast" in called(i.context_expr) for i in block.items):
            continue
        rest: list[ast.stmt] = []
        for statement in siblings_after(page, block)[:6]:
            rest.append(statement)
            found = [n.lineno for n in ast.walk(statement) if isinstance(n, ast.Call) and called(n) == "backward"]
            if found:
                text = indented_into(page, block, rest)
                if text:
                    yield Plant("backward-in-autocast", text, (block.lineno, *found))
                    return
                break


ACCUMULATION = ("accum", "iter_size", "update_freq", "grad_acc")


def not_divided(page: Page) -> Iterator[Plant]:
    """Take the division of a loss by the number of micro-batches away."""
    for node in ast.walk(page.tree):
        divisor = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        divisor = node.value if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div) else divisor
        if divisor is None or not any(word in ast.unparse(divisor).lower() for word in ACCUMULATION):
            continue
        whole = node.left if isinstance(node, ast.BinOp) else node.target
        if "loss" not in ast.unparse(whole).lower() or not page.loop(node):
            continue
        new = page.source(whole) if isinstance(node, ast.BinOp) else "pass"
        backward = [c.lineno for c in page.calls("backward") if page.function(c) is page.function(node)]
        text = edited(page, [(node, new)])
        if text and backward:
            yield Plant("loss-not-divided-by-accum", text, (node.lineno, *backward))
            return


def no_zero_grad(page: Page) -> Iterator[Plant]:
    """Take every `zero_grad` of the file away."""
    zeros = list(page.calls("zero_grad"))
    steps = [c.lineno for c in page.calls("step") if "optim" in receiver(c) or like_scaler(c)]
    backward = [c.lineno for c in page.calls("backward")]
    text = edited(page, [(page.statement(c), "pass") for c in zeros if alone(page, c)])
    if text and zeros and steps and backward and "zero_grad" not in text:
        yield Plant("missing-zero-grad", text, (*steps, *backward))


def zeroed_between(page: Page) -> Iterator[Plant]:
    """Empty the gradients right before the step."""
    for call in page.calls("step"):
        if like_scaler(call) and alone(page, call) and len(call.args) == 1:
            name = page.source(call.args[0])
            text = edited(page, [(call, f"{name}.zero_grad(); {page.source(call)}")])
            if text:
                yield Plant("zero-grad-between-backward-and-step", text, (call.lineno,))
                return


def no_eval(page: Page) -> Iterator[Plant]:
    """Take `model.eval()` out of functions that evaluate."""
    calls = [c for c in page.calls("eval") if alone(page, c) and not c.args and receiver(c)]
    for call in calls:
        function = page.function(call)
        name = getattr(function, "name", "")
        if any(word in name.lower() for word in ("eval", "valid", "test")):
            here = [c for c in calls if page.function(c) is function]
            text = edited(page, [(page.statement(c), "pass") for c in here])
            if text:
                yield Plant("eval-without-model-eval", text, tuple(range(function.lineno, function.end_lineno + 1)))
                return


def no_no_grad(page: Page) -> Iterator[Plant]:
    """Let a function that evaluates record gradients."""
    for function in [n for n in ast.walk(page.tree) if isinstance(n, ast.FunctionDef)]:
        if not any(word in function.name.lower() for word in ("eval", "valid", "test")):
            continue
        edits = []
        for node in ast.walk(function):
            if isinstance(node, ast.With):
                items = [i for i in node.items if "no_grad" in ast.unparse(i) or "inference_mode" in ast.unparse(i)]
                edits += [(i.context_expr, "open('/dev/null')") for i in items]
        decorators = [
            d for d in function.decorator_list if "no_grad" in ast.unparse(d) or "inference" in ast.unparse(d)
        ]
        edits += [(d, "staticmethod") for d in decorators]
        if len(edits) == 1 and not decorators and any("loss" in ast.unparse(n) for n in function.body):
            text = edited(page, edits)
            if text:
                yield Plant("eval-without-no-grad", text, tuple(range(function.lineno, function.end_lineno + 1)))
                return


PLANTERS = (
    clip_before_unscale,
    unscale_twice,
    missing_update,
    missing_scale,
    plain_step,
    update_per_optimizer,
    recreated,
    backward_in_autocast,
    not_divided,
    no_zero_grad,
    zeroed_between,
    no_eval,
    no_no_grad,
)
