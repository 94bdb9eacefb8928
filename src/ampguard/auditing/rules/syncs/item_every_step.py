"""A value fetched from the device at every step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import is_tensor
from ampguard.auditing.reading.tree import Function, Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.syncs._forward import fetched_in_forward
from ampguard.auditing.rules.syncs._hot import per_loop, tensors_at
from ampguard.auditing.rules.syncs._loops import fetched_one_by_one

_STEPS = ("backward", "step(")


class ItemEveryStep(Rule):
    """A tensor of the training step is turned into a number at every step.

    ## What it does

    Looks in loops that take a training step, and in functions that are one step of such a loop, for `.item()`,
    `.tolist()`, `.cpu()`, `.to("cpu")`, `.numpy()`, `float(t)` and `int(t)` on the loss, on what it is computed from
    or on what is computed from it, without a condition around it; `.item()` and `.tolist()` also in the `forward` of a
    module, and `starts[i].item()` in a loop over `i`, where `.tolist()` before the loop fetches all at once. Low:
    `.item()` in the loop over parameters of an optimizer's own step, which waits once for each of them.

    ## Why is this bad

    The host waits until the device has finished all that is queued, and the device then waits for the next kernels.
    What it costs depends on the step: under one percent for long steps, most of the time for short ones.

    ## Example

    ```python
    def train(model, optimizer, batches):
        total = 0.0
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total
    ```

    ## Use instead

    ```python
    def train(model, optimizer, batches):
        total = 0.0
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total)
    ```

    ## Fix safety

    Safe. A sum of tensors needs `detach()`, or it keeps every graph alive.

    ## References

    - The PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization"
    """

    code = "SYN001"
    name = "item-every-step"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The host waits for the device at every step."
    risk = "Low: only what is shown, and when, changes."
    fix = "Sum detached tensors and fetch them every so many steps."
    words = (*_STEPS, ".item()", ".tolist()")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first of such places that stand together in a training loop."""

        def say(node: ast.AST, more: str) -> Finding:
            return self.finding(module, node, f"`{module.segment(node)}` waits for the device at every step{more}")

        fetched = [*_fetches(module)] if module.mentions(_STEPS) else []
        single: dict[ast.AST, Loop] = dict(fetched_one_by_one(module))
        yield from per_loop(
            module, dict.fromkeys((*fetched, *fetched_in_forward(module), *single)), say, lambda node: single.get(node)
        )
        for first, rest in _in_optimizers(module):
            more = f" ({rest} more such place{'s' * (rest > 1)} in this function)" if rest else ""
            text = f"`{module.segment(first)}` waits for the device once a parameter, at every step{more}"
            yield self.finding(module, first, text, severity=Severity.LOW)


def _in_optimizers(module: Module) -> Iterator[tuple[ast.Call, int]]:
    """Walk the first fetch of each optimizer's step that fetches in its loop over parameters, and how many follow."""
    found: dict[Function, list[ast.Call]] = {}
    for call in module.calls_of("item") if module.mentions(("Optimizer",)) else ():
        function, cls = module.tree.function(call), module.tree.class_of(call)
        over = (ast.unparse(loop.iter) for loop in module.tree.loops(call) if isinstance(loop, ast.For))
        if function is None or cls is None or "step" not in function.name or not any("param" in text for text in over):
            continue
        counts = "step" in ast.unparse(receiver(call) or call)  # a count of steps is kept on the host
        if not counts and any((key(base) or "").endswith("Optimizer") for base in cls.bases):
            found.setdefault(function, []).append(call)
    for calls in found.values():
        first = min(calls, key=lambda call: (call.lineno, call.col_offset))
        yield first, len(calls) - 1


def _fetches(module: Module) -> Iterator[ast.Call]:
    for call in module.calls_of("item", "tolist", "cpu", "numpy"):
        owner = receiver(call)
        if owner is None or not is_tensor(_source(owner), tensors_at(module, call)):
            continue
        if not _goes_on(module, call):
            yield call
    for call in module.calls_of("to"):
        onto = call.args[0] if call.args else None
        owner = receiver(call)
        ends = isinstance(onto, ast.Constant) and onto.value == "cpu" and not _goes_on(module, call)
        if ends and owner is not None and is_tensor(owner, tensors_at(module, call)):
            yield call
    for name in _fetchers(module):
        for call in module.calls.get(name, ()):
            if len(call.args) == 1 and is_tensor(call.args[0], tensors_at(module, call)):
                yield call
    for call in module.calls_of("float", "int"):
        plain = isinstance(call.func, ast.Name) and len(call.args) == 1
        if plain and is_tensor(call.args[0], tensors_at(module, call)):
            yield call


def _fetchers(module: Module) -> list[str]:
    """Return the functions of the file that give back what `.item()` makes of their one argument."""
    if ".item()" not in module.text:
        return []
    found = []
    for function in module.root.body:
        if not isinstance(function, ast.FunctionDef) or len(function.args.args) != 1:
            continue
        given = function.args.args[0].arg
        returned = (n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None)
        calls = [n for value in returned for n in walk(value) if isinstance(n, ast.Call) and called(n) == "item"]
        if any(isinstance(n, ast.Name) and n.id == given for call in calls for n in walk(call)):
            found.append(function.name)
    return found


def _goes_on(module: Module, call: ast.Call) -> bool:
    """Whether the next call of a chain is the one that counts: `x.cpu().numpy()` waits once."""
    parent = module.tree.parents.get(call)
    return isinstance(parent, ast.Attribute) and parent.attr in ("item", "tolist", "numpy")


def _source(node: ast.expr) -> ast.expr:
    """Return what is fetched by `x.cpu().numpy()`: `x`."""
    while isinstance(node, ast.Call) and called(node) in ("cpu", "numpy") and receiver(node) is not None:
        node = receiver(node)  # type: ignore[assignment]
    return node
