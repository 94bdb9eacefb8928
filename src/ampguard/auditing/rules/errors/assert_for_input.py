"""An assertion on what a caller gives."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, walk
from ampguard.auditing.rules._base import Rule

_TYPE_QUESTIONS = frozenset({"isinstance", "issubclass", "callable", "hasattr", "type"})


class AssertForInput(Rule):
    """A public function checks what it is given with `assert`, which `python -O` leaves out.

    ## What it does
    Names, as information, the first assertion with a message of each public function that asks about nothing but the
    function's parameters. Questions of type and of `None` narrow types for a checker and are left alone, as are tests.

    ## Why is this bad
    The check has a message for the caller, so the caller is expected to see it; with `-O` or `PYTHONOPTIMIZE` the wrong
    value goes on. `AssertionError` cannot be told from a mistake in the function itself.

    ## Example
    ```python
    def schedule(step, warmup_steps):
        assert warmup_steps > 0, "warmup_steps must be positive"
        return min(1.0, step / warmup_steps)
    ```

    ## Use instead
    ```python
    def schedule(step, warmup_steps):
        if warmup_steps <= 0:
            raise ValueError(f"warmup_steps is {warmup_steps}; it must be positive")
        return min(1.0, step / warmup_steps)
    ```

    ## Fix safety
    Callers that catch `AssertionError` see another type.

    ## References
    - [The assert statement](https://docs.python.org/3/reference/simple_stmts.html#the-assert-statement)
    - ruff S101 reports every assertion.
    """

    code = "ERR011"
    name = "assert-for-input"
    severity = Severity.INFO
    likelihood = "unlikely"
    impact = "Under `python -O` a wrong argument is not refused."
    risk = "Low: callers that catch AssertionError see another type."
    fix = "Raise ValueError with what was given and what is allowed."
    words = ("assert ",)
    ruff = ("S101",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first assertion on parameters of every public function."""
        if module.role != "library":
            return
        seen = set()
        for node in module.tree.all(ast.Assert):
            if node.msg is None:
                continue
            function = module.tree.function(node)
            if function is None or function in seen or function.name.startswith("_") or not _top(node, function):
                continue
            asked = _asked(node.test)
            given = {arg.arg for arg, _ in parameters(function)} - {"self", "cls"}
            if asked and asked <= given:
                seen.add(function)
                names = ", ".join(sorted(asked))
                yield self.finding(module, node, f"{function.name}() checks its argument {names} with assert")


def _top(node: ast.Assert, function: Function) -> bool:
    return node in function.body


def _asked(test: ast.expr) -> set[str]:
    """Return the names that a test of values is about; nothing for questions of type or of None."""
    names = set()
    for node in walk(test):
        if isinstance(node, ast.Attribute) or _narrows(node):
            return set()
        if isinstance(node, ast.Name):
            names.add(node.id)
    return names - {"len", "min", "max", "all", "any", "sum", "abs", "set", "sorted", "range", "int", "float", "str"}


def _narrows(node: ast.AST) -> bool:
    """Whether a checker learns a type from the node, or it asks something that is not about values."""
    if isinstance(node, ast.Compare):
        return any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
    return isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.func.id in _TYPE_QUESTIONS)
