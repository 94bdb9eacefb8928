"""Faults of checkpoints, and of what may be None or zero."""

import ast
from collections.abc import Iterator

from plants.edits import Page, Plant, alone, called, edited, like_scaler, receiver


def scaler_not_saved(page: Page) -> Iterator[Plant]:
    """Take the scaler's state out of what is saved, and its loading with it."""
    saves = [c for c in page.calls("state_dict") if like_scaler(c)]
    edits, places = [], []
    for call in saves:
        statement, above = page.statement(call), page.parents[call]
        while isinstance(above, ast.IfExp | ast.BoolOp):
            above = page.parents[above]
        if isinstance(above, ast.Dict):
            others = [v for v in above.values if "state_dict" in ast.unparse(v)]
            if len(others) < 2:
                return
            position = next(i for i, v in enumerate(above.values) if any(n is call for n in ast.walk(v)))
            edits += [(above.keys[position], repr("padding")), (above.values[position], "0")]
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
            edits.append((statement, "pass"))
        else:
            return
        function = page.function(call)
        if isinstance(function, ast.Module):
            places += list(range(statement.lineno - 15, statement.end_lineno + 15))
        else:
            places += list(range(function.lineno, function.end_lineno + 1))
    loads = [c for c in page.calls("load_state_dict") if like_scaler(c)]
    edits += [(page.statement(c), "pass") for c in loads if alone(page, c)]
    text = edited(page, edits)
    resumable = any("optim" in ast.unparse(page.statement(c)).lower() for c in page.calls("state_dict"))
    if edits and text and resumable:
        yield Plant("scaler-not-in-checkpoint", text, tuple(places))


def scaler_not_loaded(page: Page) -> Iterator[Plant]:
    """Load everything but the scaler's state."""
    loads = [c for c in page.calls("load_state_dict") if like_scaler(c) and alone(page, c)]
    saves = [c for c in page.calls("state_dict") if like_scaler(c)]
    text = edited(page, [(page.statement(c), "pass") for c in loads])
    if text and loads and saves:
        beside = [c for c in page.calls("load_state_dict") if "optim" in receiver(c).lower()]
        places = [line for c in (*loads, *saves, *beside) for line in _around(page, c)]
        yield Plant("scaler-state-not-loaded", text, tuple(places))


def _around(page: Page, node: ast.AST) -> range:
    function = page.function(node)
    if isinstance(function, ast.Module):
        return range(node.lineno - 15, node.lineno + 15)
    return range(function.lineno, function.end_lineno + 1)


def no_map_location(page: Page) -> Iterator[Plant]:
    """Load onto whatever device the file names."""
    for call in page.calls("load"):
        if receiver(call) != "torch":
            continue
        words = [k for k in call.keywords if k.arg == "map_location"]
        if words and len(call.args) == 1:
            rest = [k for k in call.keywords if k.arg != "map_location"]
            new = ", ".join([page.source(call.args[0]), *(f"{k.arg}={page.source(k.value)}" for k in rest)])
            text = edited(page, [(call, f"torch.load({new})")])
            if text:
                yield Plant("load-without-map-location", text, (call.lineno,))
                return


def unguarded_scaler(page: Page) -> Iterator[Plant]:
    """Use a scaler that may be None without asking."""
    for node in ast.walk(page.tree):
        if not isinstance(node, ast.If) or node.orelse:
            continue
        test = ast.unparse(node.test)
        if not (test.endswith(" is not None") and "scaler" in test.lower() and "lr" not in test.lower()):
            continue
        name = test.removesuffix(" is not None")
        uses = [c for c in ast.walk(node) if isinstance(c, ast.Call) and receiver(c) == name]
        if f"{name} = None" in page.text or f"{name}=None" in page.text:
            text = edited(page, [(node.test, "True")])
            if text and uses:
                yield Plant("optional-none-dereference", text, tuple(c.lineno for c in uses))
                return


def unguarded_quotient(page: Page) -> Iterator[Plant]:
    """Divide by what a `max(x, 1)` or a `+ eps` had kept from zero."""
    for node in ast.walk(page.tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Call)):
            continue
        call = node.right
        if called(call) == "max" and not receiver(call) and len(call.args) == 2:
            plain = [a for a in call.args if not isinstance(a, ast.Constant)]
            measured = "time" in ast.unparse(call) or "len(" in ast.unparse(call) or "count" in ast.unparse(call)
            text = edited(page, [(call, f"({page.source(plain[0])})")]) if len(plain) == 1 and measured else None
            if text:
                yield Plant("unguarded-division", text, (node.lineno,))
                return


def always_on_the_gpu(page: Page) -> Iterator[Plant]:
    """Move to the GPU what was moved to the chosen device, in a file that chooses one."""
    if "is_available()" not in page.text:
        return
    for call in page.calls("to"):
        if len(call.args) == 1 and not call.keywords and ast.unparse(call.args[0]) == "device" and receiver(call):
            text = edited(page, [(call, f"{receiver(call)}.cuda()")])
            if text:
                yield Plant("cuda-assumed", text, (call.lineno,))
                return


def silenced(page: Page) -> Iterator[Plant]:
    """Say and do nothing in a handler that logged what it caught."""
    for handler in [n for n in ast.walk(page.tree) if isinstance(n, ast.ExceptHandler)]:
        body = "\n".join(ast.unparse(s) for s in handler.body)
        logs = any(word in body for word in ("log", "warn", "print"))
        leaves = any(isinstance(n, ast.Raise | ast.Return | ast.Break | ast.Continue) for n in ast.walk(handler))
        broad = handler.type is not None and ast.unparse(handler.type) in ("Exception", "BaseException")
        if broad and logs and not leaves and "=" not in body.replace("==", ""):
            text = edited(page, [(s, "pass") for s in handler.body])
            if text:
                yield Plant("swallowed-exception", text, (handler.lineno, handler.body[0].lineno))
                return


PLANTERS = (
    scaler_not_saved,
    scaler_not_loaded,
    no_map_location,
    unguarded_scaler,
    unguarded_quotient,
    always_on_the_gpu,
    silenced,
)
