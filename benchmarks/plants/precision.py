"""Faults in the choice of precision: the dtype beside a scaler, the flags of both, float16 that nothing scales."""

import ast
from collections.abc import Iterator

from plants.edits import Edit, Page, Plant, alone, called, edited, like_scaler, receiver

HALVES = ("torch.float16", "torch.half")


def scalers(page: Page) -> list[ast.Call]:
    """Return the constructions of gradient scalers."""
    return list(page.calls("GradScaler"))


def autocasts(page: Page) -> list[ast.Call]:
    """Return the calls that open an autocast."""
    return list(page.calls("autocast"))


def word(call: ast.Call, name: str) -> ast.keyword | None:
    """Return a keyword of a call."""
    return next((k for k in call.keywords if k.arg == name), None)


def with_word(page: Page, call: ast.Call, given: str) -> Edit:
    """Write a further keyword into a call."""
    source = page.source(call).rstrip().removesuffix(")").rstrip().removesuffix(",")
    return call, " ".join(f"{source}{'' if source.endswith('(') else ', '}{given})".split("\n"))


def without_word(page: Page, call: ast.Call, name: str) -> Edit:
    """Leave a keyword of a call out."""
    rest = [page.source(a) for a in call.args]
    rest += [f"{k.arg}={page.source(k.value)}" for k in call.keywords if k.arg != name]
    return call, f"{page.source(call.func)}({', '.join(rest)})"


def lines_of(page: Page, *names: str) -> tuple[int, ...]:
    """Return the lines of a scaler's methods."""
    return tuple(c.lineno for name in names for c in page.calls(name) if like_scaler(c))


def bfloat16_beside_scaler(page: Page) -> Iterator[Plant]:
    """Compute in bfloat16 wherever the file computed in float16."""
    if "bf16" in page.text.lower() or "bfloat16" in page.text or not scalers(page) or not autocasts(page):
        return
    edits: list[Edit] = [(n, "torch.bfloat16") for n in ast.walk(page.tree) if isinstance(n, ast.Attribute | ast.Name)]
    edits = [(n, new) for n, new in edits if ast.unparse(n) in HALVES]
    if not any("dtype" in ast.unparse(c) for c in autocasts(page)) and "import torch\n" in page.text:
        plain = [c for c in autocasts(page) if len(c.args) < 2 and word(c, "dtype") is None]
        edits += [with_word(page, c, "dtype=torch.bfloat16") for c in plain if page.source(c).isascii()]
    text = edited(page, edits) if edits else None
    if text and lines_of(page, "scale"):
        places = (*(c.lineno for c in (*scalers(page), *autocasts(page))), *lines_of(page, "scale"))
        yield Plant("bf16-with-gradscaler", text, places)


def half_beside_scaler(page: Page) -> Iterator[Plant]:
    """Cast the model to float16 right before its optimizer is made."""
    if not scalers(page) or ".half()" in page.text:
        return
    for call in page.calls("parameters"):
        statement, model = page.statement(call), receiver(call)
        made = statement.value if isinstance(statement, ast.Assign) else None
        if not isinstance(made, ast.Call) or not model or "optim" not in ast.unparse(made.func).lower():
            continue
        if call not in (*made.args, *(k.value for k in made.keywords)) or "Scaler" in ast.unparse(statement):
            continue
        first = page.source(statement.targets[0])
        text = edited(page, [(statement.targets[0], f"{model}.half(); {first}")])
        if text:
            places = (statement.lineno, *(c.lineno for c in scalers(page)), *lines_of(page, "step"))
            yield Plant("half-with-gradscaler", text, places)
            return


def scaler_taken_away(page: Page) -> Iterator[Plant]:
    """Leave out everything of the scaler, and keep the autocast in float16."""
    edits: list[Edit] = []
    for name, how in (("scale", "loss"), ("step", "step"), ("update", "pass"), ("unscale_", "pass")):
        for call in [c for c in page.calls(name) if like_scaler(c)]:
            if how == "pass" and alone(page, call):
                edits.append((page.statement(call), "pass"))
            elif how == "loss" and len(call.args) == 1:
                edits.append((call, f"({page.source(call.args[0])})"))
            elif how == "step" and alone(page, call) and len(call.args) == 1:
                edits.append((call, f"{page.source(call.args[0])}.step()"))
    edits += [(page.statement(call), "pass") for call in scalers(page)]
    for node in ast.walk(page.tree):
        if isinstance(node, ast.ImportFrom) and any(a.name == "GradScaler" for a in node.names):
            kept = [a.name for a in node.names if a.name != "GradScaler"]
            edits.append((node, f"from {node.module} import {', '.join(kept)}" if kept else "pass"))
    text = edited(page, edits) if scalers(page) else None
    if text is None or "scaler" in text.lower() or "bf16" in text.lower() or "bfloat16" in text:
        return
    backward = tuple(c.lineno for c in page.calls("backward"))
    if backward and autocasts(page):
        yield Plant("fp16-without-scaler", text, (*backward, *(c.lineno for c in autocasts(page))))


def under_autocast(page: Page, node: ast.AST) -> bool:
    """Whether a node stands in a block that an autocast opens, and not in one that is off inside it."""
    blocks = [at for at in page.above(node) if isinstance(at, ast.With) and "autocast" in ast.unparse(at.items[0])]
    return bool(blocks) and "enabled=False" not in ast.unparse(blocks[0].items[0])


def bce_of_probabilities(page: Page) -> Iterator[Plant]:
    """Take the loss of probabilities, where the one of logits was taken under autocast."""
    functions = [c for c in page.calls("binary_cross_entropy_with_logits") if under_autocast(page, c)]
    if functions:
        call = functions[0]
        source = page.source(call.func).replace("_with_logits", "")
        logits = page.source(call.args[0]) if call.args else ""
        text = edited(page, [(call.args[0], f"torch.sigmoid({logits})"), (call.func, source)]) if call.args else None
        if text:
            yield Plant("bce-under-autocast", text, (call.lineno,))
        return
    for call in page.calls("BCEWithLogitsLoss"):
        statement = page.statement(call)
        place = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
        uses = [c for c in page.calls(place.rpartition(".")[2]) if under_autocast(page, c)] if place else []
        text = edited(page, [(call.func, page.source(call.func).replace("BCEWithLogitsLoss", "BCELoss"))])
        if text and uses and "import BCEWithLogitsLoss" not in page.text and not call.args and not call.keywords:
            yield Plant("bce-under-autocast", text, (call.lineno, *(c.lineno for c in uses)))
            return


def same_flags(page: Page) -> tuple[ast.Call, ast.keyword, list[ast.Call]] | None:
    """Return the one scaler, its flag, and the autocasts that listen to the same one; None where they do not."""
    made = scalers(page)
    flag = word(made[0], "enabled") if len(made) == 1 else None
    regions = autocasts(page)
    if flag is None or isinstance(flag.value, ast.Constant) or not regions or not lines_of(page, "scale"):
        return None
    theirs = [word(c, "enabled") for c in regions]
    if any(t is None or ast.unparse(t.value) != ast.unparse(flag.value) for t in theirs):
        return None
    return made[0], flag, regions


def other_flag(page: Page) -> Iterator[Plant]:
    """Have the scaler listen to another flag that the file asks."""
    found = same_flags(page)
    if found is None or not isinstance(found[1].value, ast.Attribute):
        return
    made, flag, regions = found
    base = ast.unparse(flag.value.value)
    asked = [n.test for n in ast.walk(page.tree) if isinstance(n, ast.If) and isinstance(n.test, ast.Attribute)]
    others = [t for t in asked if ast.unparse(t.value) == base and t.attr != flag.value.attr]
    others = [t for t in others if not any(w in t.attr.lower() for w in ("amp", "fp16", "half", "mixed"))]
    if others and (text := edited(page, [(flag.value, ast.unparse(others[0]))])):
        yield Plant("scaler-autocast-flag-mismatch", text, (made.lineno, *(c.lineno for c in regions)))


def _asked_before_scaling(page: Page, flag: str) -> bool:
    scales = [c for c in page.calls("scale") if like_scaler(c)]
    return all(any(isinstance(at, ast.If) and flag in ast.unparse(at.test) for at in page.above(c)) for c in scales)


def scaler_always_on(page: Page) -> Iterator[Plant]:
    """Leave the flag of the scaler out, and keep that of the autocast; not where the flag is asked before it scales."""
    found = same_flags(page)
    found = None if found is not None and _asked_before_scaling(page, ast.unparse(found[1].value)) else found
    text = edited(page, [without_word(page, found[0], "enabled")]) if found is not None else None
    if found is not None and text:
        made, _, regions = found
        yield Plant("scaler-autocast-flag-mismatch", text, (made.lineno, *(c.lineno for c in regions)))


def autocast_always_on(page: Page) -> Iterator[Plant]:
    """Leave the flags of the autocasts out, and keep that of the scaler."""
    found = same_flags(page)
    text = edited(page, [without_word(page, c, "enabled") for c in found[2]]) if found is not None else None
    if found is not None and text:
        made, _, regions = found
        yield Plant("scaler-autocast-flag-mismatch", text, (made.lineno, *(c.lineno for c in regions)))


def trained(page: Page) -> str:
    """Return the model whose parameters are clipped, or stepped, as the file spells it."""
    found = [receiver(c) for c in page.calls("parameters") if receiver(c).rpartition(".")[2] in ("model", "net")]
    return found[0] if found else ""


def _scaled_backward(page: Page) -> list[ast.Expr]:
    calls = [c for c in page.calls("backward") if alone(page, c) and isinstance(c.func, ast.Attribute)]
    scaled = [c for c in calls if isinstance(c.func.value, ast.Call) and called(c.func.value) == "scale"]
    return [page.statement(c) for c in scaled if like_scaler(c.func.value)]  # type: ignore[misc,arg-type]


NORM = "torch.norm(torch.stack([p.grad.detach().norm(2) for p in {model}.parameters() if p.grad is not None]), 2)"


def _beside_model(page: Page, statement: ast.AST, model: str) -> bool:
    function = page.function(statement)
    return "import torch\n" in page.text and bool(model) and f"{model}(" in (page.source(function) or page.text)


def norm_logged(page: Page) -> Iterator[Plant]:
    """Measure the norm of the gradients right behind the backward pass."""
    model = trained(page)
    for statement in _scaled_backward(page):
        text = edited(page, [(statement, f"{page.source(statement)}; grad_norm = {NORM.format(model=model)}")])
        if text and _beside_model(page, statement, model):
            yield Plant("grad-norm-logged-before-unscale", text, (statement.lineno,))
            return


MEASURE = """
def measured_norm(model):
    total = 0.0
    for p in model.parameters():
        if p.grad is not None:
            total += p.grad.data.norm(2).item() ** 2
    return total ** 0.5
"""


def norm_by_a_function(page: Page) -> Iterator[Plant]:
    """Measure the norm of the gradients in a function of the file, right behind the backward pass."""
    model = trained(page)
    for statement in _scaled_backward(page):
        text = edited(page, [(statement, f"{page.source(statement)}; grad_norm = measured_norm({model})")])
        inside = isinstance(page.function(statement), ast.FunctionDef)
        if text and inside and _beside_model(page, statement, model):
            last = page.text.count("\n") + 1
            places = (statement.lineno, last + 4, last + 6)
            yield Plant("grad-norm-logged-before-unscale", f"{text.rstrip()}\n{MEASURE}", places)
            return


PLANTERS = (
    bfloat16_beside_scaler,
    half_beside_scaler,
    scaler_taken_away,
    bce_of_probabilities,
    other_flag,
    scaler_always_on,
    autocast_always_on,
    norm_logged,
    norm_by_a_function,
)
