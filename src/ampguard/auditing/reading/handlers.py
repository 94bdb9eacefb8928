"""What the handlers of a file do with what they catch: tell it, raise it, hand it on, or swallow it.

A `Catch` is one `except` clause, or one `with contextlib.suppress(...)`. It is judged once per file; rules and
practices ask about it. What a handler's calls do is read one function deep through the project, no further.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk, walk_scope

BROAD = frozenset({"Exception", "BaseException"})
IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError"})

_TELLING = regex(
    r"^_*([a-z0-9]+_)*(p?print|log|warn|warning|error|exception|critical|fatal|info|debug|s?echo|notify|alert|fail"
    r"|abort|report|message|toast|showerror|showwarning|skiptest|skip|traceback|breakpoint|emit)"
    r"(s|ed|ln|f|_?once|_exc|_exception|_stack|_[a-z0-9_]+)?$",
    re.IGNORECASE,
)
"""The last name of a call that tells a human something."""

_MATHS = frozenset({"math", "torch", "numpy", "np", "tf", "jnp", "jax", "cmath", "tensorflow"})
_EXITS = frozenset({"sys.exit", "os._exit", "exit", "quit", "os.abort", "os.kill", "pytest.exit"})
_RAISER = regex(r"raise|throw|fail|error|abort|die|fatal|exit|stop|handle", re.IGNORECASE)
"""What a function is called that may be there to raise."""

_STREAM = regex(r"(stderr|stdout|tqdm|console|out)$")
_CONTEXT = frozenset(
    {"format_exc", "print_exc", "print_exception", "exc_info", "exception", "print_last", "format_exception"}
)
"""Calls that read the exception in flight."""

_INERT = (ast.Pass, ast.Continue, ast.Break)
_FILLERS = frozenset(
    {"append", "add", "put", "put_nowait", "set", "set_exception", "extend", "insert", "update", "send", "increment"}
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Catch:
    """One place where exceptions are caught.

    Attributes:
        module: The file.
        node: The `except` clause, or the `with` statement of `suppress`.
        statement: The `try` statement, or again the `with`.
        guarded: The statements whose exceptions are caught.
        body: What runs then; nothing for `suppress`.
        kinds: Last names of the types caught; () where none is named.
    """

    module: Module
    node: ast.ExceptHandler | ast.With | ast.AsyncWith
    statement: ast.Try | ast.TryStar | ast.With | ast.AsyncWith
    guarded: list[ast.stmt]
    body: list[ast.stmt]
    kinds: tuple[str, ...]

    @property
    def bare(self) -> bool:
        """Whether no type is named."""
        return not self.kinds

    @property
    def broad(self) -> bool:
        """Whether every error is caught: no type, `Exception` or `BaseException`."""
        return not self.kinds or any(kind in BROAD for kind in self.kinds)

    @property
    def imports(self) -> bool:
        """Whether it is for imports that fail."""
        return bool(self.kinds) and all(kind in IMPORT_ERRORS for kind in self.kinds)

    @property
    def name(self) -> str | None:
        """Return what the exception is bound to."""
        return self.node.name if isinstance(self.node, ast.ExceptHandler) else None

    @property
    def label(self) -> str:
        """Return how messages name it: "except Exception", "suppress(OSError)"."""
        if isinstance(self.node, ast.ExceptHandler):
            return f"except {self.module.segment(self.node.type)}" if self.node.type is not None else "bare except"
        return f"suppress({', '.join(self.kinds)})"

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Return everything that the body holds in its own scope, in source order."""
        return tuple(node for statement in self.body for node in (statement, *walk_scope(statement)))

    @cached_property
    def calls(self) -> tuple[ast.Call, ...]:
        """Return the calls that the body makes."""
        return tuple(node for node in self.nodes if isinstance(node, ast.Call))

    @cached_property
    def logs(self) -> tuple[ast.Call, ...]:
        """Return the calls of the body that tell a human something: log, print, warn, through a helper too."""
        return tuple(call for call in self.calls if tells(self.module, call))

    @cached_property
    def raised(self) -> tuple[ast.Raise, ...]:
        """Return the `raise` statements of the body."""
        return tuple(node for node in self.nodes if isinstance(node, ast.Raise))

    @cached_property
    def raises(self) -> bool:
        """Whether an exception (or the end of the process) may leave the body."""
        return bool(self.raised) or any(never_returns(self.module, call) for call in self.calls)

    @cached_property
    def leaves(self) -> bool:
        """Whether an exception (or the end of the process) always leaves the body."""
        return any(
            isinstance(s, ast.Raise)
            or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and never_returns(self.module, s.value))
            for s in self.body
        )

    @cached_property
    def uses(self) -> bool:
        """Whether the body reads the exception: by its name, `exc_info`, `logger.exception` or `traceback`."""
        return any(reads_exception(node, self.name) for node in self.nodes)

    @property
    def tells(self) -> bool:
        """Whether somebody learns of the exception: a log line, a raise, or the exception given to something."""
        return self.raises or self.uses or bool(self.logs)

    @property
    def inert(self) -> bool:
        """Whether the body does nothing at all: `pass`, `continue`, `break`, a constant, a bare `return`."""
        return all(
            isinstance(s, _INERT)
            or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            or (isinstance(s, ast.Return) and _is_none(s.value))
            for s in self.body
        )

    @cached_property
    def signals(self) -> bool:
        """Whether the rest of the program can see that it failed: a value returned, a flag, a record, a fallback."""
        return any(_leaves_a_trace(self, node) for node in self.nodes)


def catches(module: Module) -> list[Catch]:
    """Return every catch of a file, in source order."""
    return module.once("catches", lambda: sorted(_catches(module), key=lambda c: (c.node.lineno, c.node.col_offset)))


def catch_of(module: Module, node: ast.ExceptHandler) -> Catch:
    """Return the catch that an `except` clause is."""
    by_node: dict[ast.AST, Catch] = module.once("catch by node", lambda: {c.node: c for c in catches(module)})
    return by_node[node]


def count_handlers(module: Module) -> dict[str, int]:
    """Return a file's `try_blocks`, and how many handlers are `logged`, `silent`, `bare` and `broad`.

    Logged: it logs, prints, warns, raises or hands the exception on; silent: none of these. `suppress` is not counted.
    """
    handlers = [catch for catch in catches(module) if isinstance(catch.node, ast.ExceptHandler)]
    logged = sum(catch.tells for catch in handlers)
    return {
        "try_blocks": sum(bool(node.handlers) for node in module.tree.all(ast.Try, ast.TryStar)),
        "logged": logged,
        "silent": len(handlers) - logged,
        "bare": sum(catch.bare for catch in handlers),
        "broad": sum(catch.broad and not catch.bare for catch in handlers),
    }


def tells(module: Module, call: ast.Call) -> bool:
    """Whether a call tells a human something: by its name, or as a function of the project that does."""
    if _tells_by_name(call):
        return True
    found = target(module, call)
    if found is None:
        return False
    below = [node for node in walk_scope(found[1]) if isinstance(node, ast.Call | ast.Raise)]
    return any(isinstance(node, ast.Raise) or _tells_by_name(node) for node in below)


def ends(module: Module, call: ast.Call) -> bool:
    """Whether a call ends the process."""
    if any(name in _EXITS for name in module.names.dotted(call.func)):
        return True
    return called(call) == "exit" and (key(receiver(call)) or "").endswith("parser")


def never_returns(module: Module, call: ast.Call) -> bool:
    """Whether a call ends the process, or runs a function of the project that raises whatever it is given."""
    if ends(module, call):
        return True
    found = target(module, call) if _RAISER.search(called(call)) else None
    if found is None or not isinstance(found[1].body[-1], ast.Raise):
        return False
    return not any(isinstance(node, ast.Return | ast.Yield) for node in walk_scope(found[1]))


def reads_exception(node: ast.AST, name: str | None) -> bool:
    """Whether a node reads the exception in flight, bound to `name` or not."""
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.keyword):
        return node.arg in ("exc_info", "exception") and not (
            isinstance(node.value, ast.Constant) and not node.value.value
        )
    return isinstance(node, ast.Call) and called(node) in _CONTEXT


def _catches(module: Module) -> Iterator[Catch]:
    for block in module.tree.all(ast.Try, ast.TryStar):
        for handler in block.handlers:
            kinds = _kinds(module, handler.type)
            yield Catch(
                module=module, node=handler, statement=block, guarded=block.body, body=handler.body, kinds=kinds
            )
    for block in module.tree.all(ast.With, ast.AsyncWith) if "suppress(" in module.text else ():
        for item in block.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and module.names.stands_for(call.func, "contextlib.suppress"):
                kinds = tuple(kind for arg in call.args for kind in _kinds(module, arg))
                yield Catch(
                    module=module, node=block, statement=block, guarded=block.body, body=[], kinds=kinds or ("?",)
                )


def _kinds(module: Module, node: ast.expr | None, groups: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the last names of the exceptions that an expression stands for.

    Args:
        module: The file.
        node: What is caught; None catches everything.
        groups: Names of tuples being opened: `ERRORS = (*ERRORS, KeyError)` names itself.
    """
    if node is None:
        return ()
    if isinstance(node, ast.Tuple):
        return tuple(kind for item in node.elts for kind in _kinds(module, item, groups)) or ("?",)
    if isinstance(node, ast.Starred):
        return _kinds(module, node.value, groups)
    if isinstance(node, ast.Name) and node.id not in groups:
        values = [value for value in module.names.values(node.id, node) if isinstance(value, ast.Tuple)]
        if values:
            return _kinds(module, values[0], groups | {node.id})
    dotted = module.names.dotted(node)
    return (dotted[0].split(".")[-1],) if dotted else ("?",)


def _tells_by_name(call: ast.Call) -> bool:
    name, owner = called(call), receiver(call)
    if name == "write":
        return bool(_STREAM.search(key(owner) or ""))
    if not _TELLING.match(name):
        return False
    return not (isinstance(owner, ast.Name) and owner.id in _MATHS)


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _leaves_a_trace(catch: Catch, node: ast.AST) -> bool:
    if isinstance(node, ast.Return):
        return not _is_none(node.value) or _returns_values(catch)
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(_is_read_outside(catch, place) for place in targets)
    if isinstance(node, ast.Call):
        return called(node) in _FILLERS
    return isinstance(node, ast.Yield | ast.YieldFrom)


def _returns_values(catch: Catch) -> bool:
    function = catch.module.tree.function(catch.node)
    return function is not None and any(
        isinstance(node, ast.Return) and not _is_none(node.value) for node in walk_scope(function)
    )


def _is_read_outside(catch: Catch, place: ast.expr) -> bool:
    if isinstance(place, ast.Tuple | ast.List):
        return any(_is_read_outside(catch, item) for item in place.elts)
    if not isinstance(place, ast.Name):
        return True
    scope = catch.module.tree.scope(catch.node)
    within = set(catch.nodes)
    return isinstance(scope, ast.Module) or any(
        isinstance(node, ast.Name) and node.id == place.id and isinstance(node.ctx, ast.Load) and node not in within
        for node in walk(scope)
    )
