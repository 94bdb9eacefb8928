"""Outputs of a model that a loop over data gathers off the device, with gradients on: features, hidden states, codes.

What goes `.to("cpu")` into a list is kept for its values; a loop that trains takes a loss or a backward pass of it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, NEEDS, OFF, off_around, run_model, source
from ampguard.auditing.rules.amp._steps import callers

_ENCODES = regex(r"(.*[._])?(\w*encoder|backbone|\w*extractor|\w*vae)")
_TRAINS = regex(r"backward|\bloss|criterion|optimi[sz]er|\.step\(|reward|\bact(ion|or)?s?\b|\benvs?\b")
_OFF_DEVICE = regex(r"\.to\(['\"]cpu['\"]\)|\.cpu\(\)|\.numpy\(\)")


def collected_outputs(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong) of loops that gather what a model gives, once a loop."""
    if not module.mentions((".cpu()", ".numpy()", ".to('cpu')", '.to("cpu")')):
        return
    if not module.mentions((".append(", ".extend(")) or module.mentions(("ightning", "set_grad_enabled")):
        return
    for loop, run in collecting_loops(module):
        function = module.tree.function(loop)
        text = source(module, function) if isinstance(function, FUNCTIONS) else module.text
        whole = module.text_of(loop)
        if OFF.search(whole) or NEEDS.search(whole) or off_around(module, run) or "no_grad" in _before(text, whole):
            continue
        if isinstance(function, FUNCTIONS) and (
            any(off_around(module, c) for c in callers(module, function)) or called_where_off(module, function)
        ):
            continue
        yield run, f"{module.segment(run, 40)} runs with gradients on, though the loop keeps its values alone"


def _before(text: str, whole: str) -> str:
    """Return the lines above a loop that are no `with`: `torch.set_grad_enabled(False)` among them."""
    above = text.partition(whole.split("\n")[0])[0]
    return "\n".join(line for line in above.split("\n") if not line.lstrip().startswith("with "))


def collecting_loops(module: Module) -> Iterator[tuple[ast.For, ast.Call]]:
    """Walk (the loop over data, the run of a model whose outputs it gathers off the device)."""
    return iter(module.once("collecting loops", lambda: list(_collecting_loops(module))))


def _collecting_loops(module: Module) -> Iterator[tuple[ast.For, ast.Call]]:
    for loop in module.tree.all(ast.For):
        if not _OFF_DEVICE.search(module.text_of(loop)):
            continue
        kept = [c for c in walk_scope(loop) if isinstance(c, ast.Call) and called(c) in ("append", "extend") and c.args]
        if not kept or _TRAINS.search(module.text_of(loop)) or "range(" in ast.unparse(loop.iter):
            continue
        inner = [n for n in walk_scope(loop) if isinstance(n, ast.Assign)]
        for run in (c for a in inner for c in walk(a.value) if isinstance(c, ast.Call) and _is_run(c)):
            statement = module.tree.statement(run)
            names = {n.id for t in statement.targets for n in walk(t) if isinstance(n, ast.Name)}  # type: ignore[attr-defined]
            here = bool(_OFF_DEVICE.search(ast.unparse(statement)))
            if any(_keeps(c, names, inner, here) for c in kept):
                yield loop, run
                break


def _is_run(call: ast.Call) -> bool:
    place = run_model(call) or ""
    model = MODEL.search(place) or _ENCODES.fullmatch(place)
    return bool(call.args or call.keywords) and bool(model) and receiver(call) is not call


def _keeps(call: ast.Call, names: set[str], inner: list[ast.Assign], here: bool) -> bool:
    """Whether a list is given what one of the names holds, off its device, be it under another name."""
    known = set(names)
    for node in inner:
        if any(isinstance(n, ast.Name) and n.id in known for n in walk(node.value)):
            known |= {place for t in node.targets if (place := key(t)) and "." not in place}
    told = ast.unparse(call.args[0])
    off = here or bool(_OFF_DEVICE.search(told))
    return off and any(isinstance(n, ast.Name) and n.id in known for n in walk(call.args[0]))
