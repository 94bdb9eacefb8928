"""States that a checkpoint leaves out or that nobody takes up again, and checkpoints written to their final name."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from plants.edits import Edit, Page, Plant, alone, called, edited, like_scaler, receiver

KIND = "scheduler-not-in-checkpoint"
WORDS = ("optim", "sched", "opt_", "_opt")


def left_out(page: Page) -> Iterator[Plant]:
    """Take the state of one optimizer or schedule out of what is saved, and its loading with it."""
    for place, saves in _stated(page, "state_dict").items():
        edits, lines = _taken_out(page, saves)
        loads = _stated(page, "load_state_dict").get(place, [])
        edits += [(page.statement(c), "pass") for c in loads if alone(page, c)]
        near = [line for call in (*saves, *loads, *_steps(page, place)) for line in _around(page, call)]
        text = edited(page, edits) if lines and len(_stated(page, "state_dict")) > 1 else None
        if text and _steps(page, place):
            yield Plant(KIND, text, tuple(near))


def not_loaded(page: Page) -> Iterator[Plant]:
    """Load everything but the state of one optimizer or schedule, which is saved."""
    loads = _stated(page, "load_state_dict")
    for place, calls in loads.items():
        if len(loads) < 2 or not all(alone(page, c) for c in calls) or place not in _stated(page, "state_dict"):
            continue
        text = edited(page, [(page.statement(c), "pass") for c in calls])
        near = [line for call in (*calls, *_stated(page, "state_dict")[place]) for line in _around(page, call)]
        if text and _steps(page, place):
            yield Plant(KIND, text, tuple(near))


def straight_to_its_name(page: Page) -> Iterator[Plant]:
    """Write a checkpoint to the name that it keeps, where it went through another."""
    for rename in (c for name in ("replace", "rename") for c in page.calls(name) if receiver(c) == "os"):
        function = page.function(rename)
        writes = [c for c in page.calls("save") if receiver(c) == "torch" and page.function(c) is function]
        if len(writes) != 1 or len(writes[0].args) < 2 or len(rename.args) < 2 or not alone(page, rename):
            continue
        path, final = writes[0].args[1], rename.args[1]
        text = edited(page, [(path, page.source(final)), (page.statement(rename), "pass")])
        if text and ast.unparse(path) == ast.unparse(rename.args[0]):
            yield Plant("non-atomic-checkpoint", text, (writes[0].lineno,))
            return


def _stated(page: Page, method: str) -> dict[str, list[ast.Call]]:
    """Return the calls of a method of states by what they are called on: optimizers and schedules by their names."""
    found: dict[str, list[ast.Call]] = defaultdict(list)
    for call in page.calls(method):
        last = receiver(call).rpartition(".")[2].lower()
        if any(word in last for word in WORDS) and not like_scaler(call):
            found[receiver(call)].append(call)
    return found


def _steps(page: Page, place: str) -> list[ast.Call]:
    """Return the steps of an object, also those that a scaler takes with it."""
    stepped = [c for c in page.calls("step") if receiver(c) == place or place in map(ast.unparse, c.args)]
    return stepped or [c for c in page.calls("prepare") if place in map(ast.unparse, c.args)]


def _taken_out(page: Page, saves: list[ast.Call]) -> tuple[list[Edit], list[int]]:
    """Return the edits that leave a state out of the dictionaries it is put into; ([], []) where one cannot be."""
    edits: list[Edit] = []
    for call in saves:
        statement, above = page.statement(call), page.parents[call]
        while isinstance(above, ast.IfExp | ast.BoolOp):
            above = page.parents[above]
        if isinstance(above, ast.Dict):
            position = next(i for i, v in enumerate(above.values) if any(n is call for n in ast.walk(v)))
            key = above.keys[position]
            if key is None:
                return [], []
            edits += [(key, repr("padding")), (above.values[position], "0")]
        elif isinstance(above, ast.keyword) and called(page.parents[above]) == "dict":  # type: ignore[arg-type]
            edits.append((above, "padding=0"))
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
            edits.append((statement, "pass"))
        else:
            return [], []
    return edits, [call.lineno for call in saves]


def _around(page: Page, node: ast.AST) -> range:
    function = page.function(node)
    if isinstance(function, ast.Module):
        return range(node.lineno - 15, node.lineno + 15)
    return range(function.lineno, function.end_lineno + 1)


PLANTERS = (left_out, not_loaded, straight_to_its_name)
