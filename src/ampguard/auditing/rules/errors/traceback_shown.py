"""A traceback that goes to the user of a service."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.handlers import catches
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._requests import SERVERS, answers_requests, shown_by

_TRACES = tuple(f"traceback.{n}" for n in ("format_exc", "format_exception", "format_tb", "format_stack"))


class TracebackShown(Rule):
    """A service answers with its own traceback.

    ## What it does
    Reports text of `traceback.format_exc()` and its like in what a web handler or a gradio callback returns, in an
    HTTP response, or in a message of streamlit or gradio. As low it reports the text of any exception in an answer
    with which a broad handler ends. A program that prints to its own terminal is not meant.

    ## Why is this bad
    Paths, versions, queries and sometimes keys stand in a traceback; a stranger learns them by sending a bad request.

    ## Example
    ```python
    import traceback

    from fastapi import FastAPI

    app = FastAPI()


    @app.post("/generate")
    def generate(prompt: str):
        try:
            return {"text": model.generate(prompt)}
        except ValueError:
            return {"error": traceback.format_exc()}
    ```

    ## Use instead
    ```python
    import logging

    from fastapi import FastAPI

    app = FastAPI()


    @app.post("/generate")
    def generate(prompt: str):
        try:
            return {"text": model.generate(prompt)}
        except ValueError:
            logging.exception("a prompt could not be answered")
            return {"error": "the prompt could not be answered"}
    ```

    ## Fix safety
    Clients that parse the text of the error see another one.

    ## References
    - [CWE-209](https://cwe.mitre.org/data/definitions/209.html): error message containing sensitive information
    """

    code = "ERR007"
    name = "traceback-shown"
    severity = Severity.MEDIUM
    impact = "Whoever sends a bad request reads paths, versions and code of the service."
    risk = "Low: clients that parse the text of the error see another one."
    fix = "Log the traceback, and answer with a sentence of your own."
    words = SERVERS

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every answer that holds a traceback, or the text of any exception."""
        seen: set[int] = set()
        for call in module.calls_of("format_exc", "format_exception", "format_tb", "format_stack"):
            if module.names.stands_for(call.func, *_TRACES) and (shown := _shown(module, call)) is not None:
                seen.add(shown.lineno)
                yield self.finding(module, shown, "the traceback is part of the answer")
        for catch in catches(module):
            for node in catch.nodes if catch.broad and catch.name else ():
                shown = _shown(module, node) if _is_text_of(node, catch.name or "") else None
                if shown is not None and shown.lineno not in seen:
                    seen.add(shown.lineno)
                    yield self.finding(
                        module,
                        shown,
                        f"the text of any exception ({catch.name}) is part of the answer",
                        severity=Severity.LOW,
                        likelihood="possible",
                    )


def _is_text_of(node: ast.AST, name: str) -> bool:
    """Whether the node turns the exception bound to `name` into text: `str(e)`, `repr(e)`, `{e}` of an f-string."""
    if isinstance(node, ast.FormattedValue):
        return isinstance(node.value, ast.Name) and node.value.id == name
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("str", "repr")
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Name)
        and node.args[0].id == name
    )


def _shown(module: Module, node: ast.AST) -> ast.expr | ast.stmt | None:
    """Return the statement or call that shows the node's text to a user; None where nothing does."""
    where = _sink(module, node)
    if where is not None:
        return where
    statement = module.tree.statement(node)
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return None
    name, scope = statement.targets[0].id, module.tree.scope(node)
    uses = (
        use
        for use in walk(scope)
        if isinstance(use, ast.Name) and use.id == name and isinstance(use.ctx, ast.Load) and use.lineno > node.lineno  # type: ignore[attr-defined]
    )
    return next((found for use in uses if (found := _sink(module, use)) is not None), None)


def _sink(module: Module, node: ast.AST) -> ast.expr | ast.stmt | None:
    for at in module.tree.above(node):
        if isinstance(at, ast.Call) and shown_by(module, at):
            return at
        if isinstance(at, ast.Return):
            function = module.tree.function(at)
            return at if function is not None and answers_requests(module, function) else None
        if isinstance(at, ast.stmt):
            return None
    return None
