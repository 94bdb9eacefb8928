"""A result that says "failed", used as if it were the value."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.handlers import catches, tells
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.errors._flagged import used_as_failed
from ampguard.auditing.rules.errors._unasked import searches_unasked, stored_as_values
from ampguard.auditing.rules.errors._use import used_unchecked

_HARMLESS = frozenset({"staticmethod", "classmethod", "cache", "lru_cache", "no_grad", "inference_mode", "wraps"})


class FailureSignalUnchecked(Rule):
    """A function answers a failure with `None`, `-1` or `False`, and a caller uses the answer as the value.

    ## What it does
    Looks for functions of the file that return such a value from an `except` clause, or after telling that something
    failed, while their other ways return a result. It reports callers that take an attribute, an item or an element of
    the answer, or call it, without a check in between. Of a pair, `False, None` on failure, it reports such a use where
    the flag says that it failed (low where only the name of a method tells which one is called). Low: a search that
    ends in `return None` where two uses in other files take it that something was found; and an answer that is declared
    to be None at times, put into a dictionary that is declared to hold none of it.

    ## Why is this bad
    The failure surfaces as `'NoneType' object has no attribute ...`, somewhere else and without its reason; `-1` as an
    index does not surface at all, it takes the last element.

    ## Example
    ```python
    import json


    def read_settings(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            print(f"no settings: {error}")
            return None


    def learning_rate(path):
        settings = read_settings(path)
        return settings["lr"]
    ```

    ## Use instead
    ```python
    import json


    def read_settings(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            print(f"no settings: {error}")
            return None


    def learning_rate(path):
        settings = read_settings(path)
        if settings is None:
            return 1e-3
        return settings["lr"]
    ```

    ## Fix safety
    Decide what the caller does without the value: a default, or an error that names the reason.

    ## References
    - [PEP 8](https://peps.python.org/pep-0008/#programming-recommendations), on consistent return statements
    """

    code = "ERR008"
    name = "failure-signal-unchecked"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = "When the function fails, its caller fails too, elsewhere and with an error that hides the reason."
    risk = "Low: the check only matters where the function has failed."
    fix = "Check the answer before it is used, or let the function raise."
    words = ("except", "return None")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every use of an answer that may say that it failed."""
        yield from self._used_here(module) if "except" in module.text else ()
        for function, statement, uses in searches_unasked(module):
            where = " and ".join(sorted({use.user for use in uses}))
            text = f"{function.name}() returns None where nothing is found, and {where} use the answer without a check"
            yield self.finding(module, statement, text, severity=Severity.LOW)
        for node, function, none in stored_as_values(module):
            text = (
                f"{function.name}() returns None at times (line {none.lineno}), which {module.segment(node.targets[0])}"
            )
            yield self.finding(module, node, f"{text} keeps as a value", severity=Severity.LOW)

    def _used_here(self, module: Module) -> Iterator[Finding]:
        """Yield the uses in the file of what its functions answer when they fail."""
        for function, signal in _signalling(module).items():
            for call in module.calls_of(function.name):
                place = target(module, call)
                if place is None or place[1] is not function:
                    continue
                use = used_unchecked(module, call, signal.value)
                if use is not None:
                    yield self.finding(
                        module,
                        use,
                        f"{function.name}() returns {_text(signal.value)} when it fails (line {signal.lineno}), "
                        f"and {module.segment(use)} uses the answer without a check",
                    )
        for found in used_as_failed(module):
            text = module.segment(found.use)
            yield self.finding(
                module,
                found.use,
                f"{found.function}() answers `False, None` when it fails, and {text} uses the None where it has failed",
                severity=Severity.MEDIUM if found.sure else Severity.LOW,
            )


def _signalling(module: Module) -> dict[Function, ast.Return]:
    """Return the functions of a file that answer a failure by a value, with the `return` that does."""
    found: dict[Function, ast.Return] = {}
    for catch in catches(module):
        function = module.tree.function(catch.node)
        if function is None or function in found or not catch.body:
            continue
        if catch.imports:
            continue  # what is not installed is asked for elsewhere, before the use
        signals = (n for n in catch.nodes if isinstance(n, ast.Return) and _is_signal(n.value))
        signal = next((n for n in signals if not _is_asked_for(module, function, n)), None)
        if signal is not None and _returns_results(module, function, signal):
            found[function] = signal
    for function, signal in _told(module):
        found.setdefault(function, signal)
    return found


def _told(module: Module) -> Iterator[tuple[Function, ast.Return]]:
    """Walk `return None` right behind a line that tells: a failure that was found before it happened."""
    for node in module.tree.all(ast.Return):
        parent = module.tree.parents[node]
        if not isinstance(parent, ast.If) or node not in parent.body or not _is_signal(node.value):
            continue
        before = parent.body[parent.body.index(node) - 1] if len(parent.body) > 1 else None
        told = isinstance(before, ast.Expr) and isinstance(before.value, ast.Call) and tells(module, before.value)
        function = module.tree.function(node)
        if (
            told
            and function is not None
            and not _is_asked_for(module, function, node)
            and _returns_results(module, function, node)
        ):
            yield function, node


def _is_asked_for(module: Module, function: Function, signal: ast.Return) -> bool:
    """Whether a parameter decides that the failure is answered by a value (`if skip_errors: return None`)."""
    given = {arg.arg for arg, _ in parameters(function)} - {"self", "cls"}
    for at in module.tree.above(signal):
        if at is function:
            return False
        if isinstance(at, ast.If) and isinstance(at.test, ast.Name | ast.UnaryOp | ast.BoolOp):
            names = {node.id for node in walk(at.test) if isinstance(node, ast.Name)}
            if names & given or any(_is_option(module, name, at) for name in names):
                return True
    return False


def _is_option(module: Module, name: str, at: ast.AST) -> bool:
    """Whether a name was read from keyword options (`skip = kwargs.pop("skip", False)`)."""
    values = module.names.values(name, at)
    return any(isinstance(v, ast.Call) and (key(receiver(v)) or "") in ("kwargs", "options") for v in values)


def _returns_results(module: Module, function: Function, signal: ast.Return) -> bool:
    """Whether the function returns something else than signals, and is called as it stands."""
    if any(name.split(".")[-1] not in _HARMLESS for d in function.decorator_list for name in _names(module, d)):
        return False
    own = list(walk_scope(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return False
    results = [n.value for n in own if isinstance(n, ast.Return) and n is not signal and not _is_signal(n.value)]
    return bool(results) and not all(isinstance(r, ast.Constant) and isinstance(r.value, bool) for r in results)


def _names(module: Module, decorator: ast.expr) -> tuple[str, ...]:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return module.names.dotted(named) or ("unknown",)


def _is_signal(value: ast.expr | None) -> bool:
    if isinstance(value, ast.UnaryOp):
        return isinstance(value.op, ast.USub) and isinstance(value.operand, ast.Constant) and value.operand.value == 1
    return value is None or (isinstance(value, ast.Constant) and (value.value is None or value.value is False))


def _text(value: ast.expr | None) -> str:
    return "None" if value is None else ast.unparse(value)
