"""Which one rule a handler belongs to, and how bad it is there: the whole family asks here, so no handler counts twice.

From worst to mildest: a critical operation swallowed (ERR006), a bare `except` (ERR001), a silent failing import
(ERR003), nothing done at all (ERR002), told without the cause (ERR005), everything caught (ERR004). A handler from
which an exception may leave is no fault of any of them.
"""

import ast
import re
from dataclasses import dataclass

from ampguard.auditing.findings import Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.critical import Critical, critical_calls
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.handlers import Catch, catches
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.errors._ended import ends_untold
from ampguard.auditing.rules.errors._expected import cleaning, explained, falls_back, observing, probing, silenced

_ANYTHING = frozenset({"RuntimeError", "OSError", "IOError", "EnvironmentError"})
"""Types so wide that catching them around a critical operation and doing nothing hides most of its failures."""

_PUTS_IN = regex(r"load_(?!file$|json|yaml|config)|from_pretrained$|resume|restore")
"""Calls that put what was read into a model."""

_GOES_ON = regex(
    r"scratch|start|default|fall|skip|instead|without|random|fresh|continu|base|init|ignor|retry|next|other"
    r"|try(?!ing to| to)|old|new",
    re.IGNORECASE,
)
"""Words that say how it goes on after a load that failed."""

_STOPS = regex(r"(re)?raise|skip|x?fail$|abort|_?exit|quit", re.I)
"""Calls that do not come back: a test that is skipped, a program that ends."""

_LOUD = ("error", "warn", "critical", "fatal", "print", "fail")


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a handler.

    Attributes:
        catch: The handler.
        code: The rule that reports it.
        severity: How bad it is there.
        critical: The critical operation in its block, whoever reports it.
        unbound: A name that only the block binds and that is read behind the handler.
    """

    catch: Catch
    code: str
    severity: Severity
    critical: Critical | None = None
    unbound: str | None = None


def verdicts(module: Module, code: str) -> list[Verdict]:
    """Return the handlers of a file that the rule `code` reports."""
    found: list[Verdict] = module.once("verdicts", lambda: [v for c in catches(module) if (v := _verdict(c))])
    return [verdict for verdict in found if verdict.code == code]


def _verdict(catch: Catch) -> Verdict | None:
    if catch.leaves or "?" in catch.kinds:
        return Verdict(catch, "ERR001" if catch.bare else "ERR005", Severity.LOW) if ends_untold(catch) else None
    if catch.imports:
        severity = Severity.INFO if explained(catch) else Severity.LOW
        return Verdict(catch, "ERR003", severity) if _silent_import(catch) else None
    if not catch.broad:
        return _narrow(catch)
    critical = _felt(catch, critical_calls(catch.module, catch.guarded))
    first = critical[0] if critical else None
    if first is not None and (swallowed := _swallowed(catch, critical)) is not None:
        return Verdict(catch, "ERR006", swallowed, first)
    if catch.bare:
        return None if catch.raises else Verdict(catch, "ERR001", _bare(catch, first), first)
    return _broad(catch, first)


def _narrow(catch: Catch) -> Verdict | None:
    wide = "RuntimeError" in catch.kinds and not catch.raises
    if wide and not catch.inert and (verdict := _taken_for_another(catch)) is not None:
        return verdict
    if not _fails_at_once(catch) and (unbound := needed_after(catch, branches=wide)) is not None:
        sure = wide and needed_after(catch) is not None
        return Verdict(catch, "ERR004", Severity.MEDIUM if sure else Severity.LOW, unbound=unbound)
    if not catch.inert or catch.tells or not any(kind in _ANYTHING for kind in catch.kinds):
        return None
    critical = _felt(catch, critical_calls(catch.module, catch.guarded))
    if not critical or _answered(catch):
        return None
    if all("load" in c.operation for c in critical) and not any(kind == "RuntimeError" for kind in catch.kinds):
        return None  # a checkpoint that is not there is the usual first start
    return Verdict(catch, "ERR006", Severity.CRITICAL, critical[0])


def _taken_for_another(catch: Catch) -> Verdict | None:
    """Whether every failure of a training step or a load is taken for one kind, such as too little memory.

    torch raises RuntimeError for shapes, devices and autograd as well, so who only tells it has told all of these.
    """
    critical = _felt(catch, critical_calls(catch.module, catch.guarded))
    if not critical or (swallowed := _swallowed(catch, critical)) is None:
        return None
    if not any(c.operation in _OF_A_STEP for c in critical) and not catch.uses:
        return None
    return Verdict(catch, "ERR006", min(swallowed, Severity.MEDIUM), critical[0])


def _fails_at_once(catch: Catch) -> bool:
    """Whether the exception is one that only asks whether a name or an attribute is there."""
    return all(kind in ("NameError", "UnboundLocalError", "StopIteration", "KeyboardInterrupt") for kind in catch.kinds)


_OF_A_STEP = frozenset({"backward", "optimizer step", "scaler step", "scaler update"})


def _swallowed(catch: Catch, critical: list[Critical]) -> Severity | None:
    """Return how bad it is that the operations' failure goes nowhere; None where it goes somewhere."""
    if catch.raises or catch.signals or _answered(catch):
        return None
    if all("load" in c.operation for c in critical) and catch.tells:
        return Severity.MEDIUM if needed_after(catch) or not _states_fallback(catch) else None
    if critical_calls(catch.module, catch.body):
        return None
    if not catch.tells:
        return Severity.CRITICAL
    return Severity.MEDIUM if catch.uses else Severity.HIGH


def _states_fallback(catch: Catch) -> bool:
    """Whether what is told says how it goes on; a text that is not written there counts as saying so."""
    texts = [n.value for log in catch.logs for n in walk(log) if isinstance(n, ast.Constant)]
    words = " ".join(text for text in texts if isinstance(text, str))
    return not words or bool(_GOES_ON.search(words))


def _answered(catch: Catch) -> bool:
    """Whether other code answers for the failure: a default, what follows a `return`, a raise after the retries."""
    return falls_back(catch) or _retried(catch)


def _retried(catch: Catch) -> bool:
    module = catch.module
    function = module.tree.function(catch.node)
    for loop in module.tree.loops(catch.node):
        after = loop.end_lineno or loop.lineno
        within = walk(function) if function is not None else iter(())
        if any(isinstance(node, ast.Raise) and node.lineno > after for node in within):
            return True
        if any(isinstance(node, ast.Raise) for s in loop.orelse for node in walk(s)):
            return True
    return False


def _bare(catch: Catch, critical: Critical | None) -> Severity:
    if critical is not None:
        return Severity.HIGH
    if silenced(catch) or cleaning(catch) or _only_imports(catch):
        return Severity.LOW
    return Severity.MEDIUM


def _only_imports(catch: Catch) -> bool:
    """Whether the block imports, and at most takes down that it did."""
    return isinstance(catch.guarded[0], ast.Import | ast.ImportFrom) and all(
        isinstance(s, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr) for s in catch.guarded
    )


def _felt(catch: Catch, critical: list[Critical]) -> list[Critical]:
    """Return the operations without loads that only look into a file.

    A load is felt where it is put into a model there, or where what it gave is used behind the block.
    """
    if any("load" not in c.operation for c in critical) or (critical and needed_after(catch) is not None):
        return critical
    calls = [n for s in catch.guarded for n in (s, *walk_scope(s)) if isinstance(n, ast.Call)]
    return critical if any(_PUTS_IN.match(called(call)) for call in calls) else []


def _broad(catch: Catch, critical: Critical | None) -> Verdict | None:
    if catch.raises or (catch.uses and not catch.logs):
        return None
    if catch.logs:
        if (unbound := needed_after(catch, branches=True)) is not None:
            severity = Severity.LOW if needed_after(catch) is None else Severity.MEDIUM
            return Verdict(catch, "ERR004", severity, critical, unbound)
        if not catch.uses and any(any(word in called(c) for word in _LOUD) for c in catch.logs):
            return Verdict(catch, "ERR005", Severity.LOW if critical is None else Severity.MEDIUM, critical)
        return Verdict(catch, "ERR004", Severity.INFO if critical is None else Severity.LOW, critical)
    if cleaning(catch):
        return None
    if catch.inert and not catch.signals:
        return Verdict(catch, "ERR002", _silent(catch, Severity.MEDIUM), critical)
    if critical is not None:
        return Verdict(catch, "ERR004", _silent(catch, Severity.MEDIUM), critical)
    return Verdict(catch, "ERR004", Severity.LOW, critical)


def _silent(catch: Catch, usual: Severity) -> Severity:
    if isinstance(catch.node, ast.With | ast.AsyncWith):
        return Severity.LOW  # suppress() says on purpose that nothing is to be done
    expected = explained(catch) or probing(catch) or falls_back(catch) or observing(catch)
    return Severity.LOW if expected else usual


def needed_after(catch: Catch, *, branches: bool = False) -> str | None:
    """Return a name that only the block binds and that code behind it reads, after a handler that goes on; else None.

    Such a name is unbound (or is that of an earlier round) when the handler ran: its NameError hides the cause. With
    `branches`, a read under a condition counts, where that cannot know what came.
    """
    module, last = catch.module, catch.statement.end_lineno or 0
    stored = [n.id for s in catch.guarded for n in (s, *walk_scope(s)) if isinstance(n, ast.Name) and _is_store(n)]
    if not stored or _leaves_block(catch):
        return None
    scope = module.tree.function(catch.node) or module.root
    bound = module.names.bindings_in(scope)
    only_here = {
        name
        for name in stored
        if name in bound
        and all(any(module.tree.inside(b.node, s) for s in catch.guarded) for b in bound[name] if _line(b.node) <= last)
    }
    if not only_here:
        return None
    behind = (n for n in walk_scope(scope) if isinstance(n, ast.Name) and n.id in only_here and n.lineno > last)
    for node in sorted(behind, key=lambda n: _evaluated(module, n)):
        if _is_store(node) and not isinstance(module.tree.parents[node], ast.AugAssign):
            only_here.discard(node.id)
        elif node.id in only_here and _always_behind(catch, node, branches):
            return node.id
    return None


def _evaluated(module: Module, node: ast.Name) -> tuple[int, int]:
    """Return a place in the order of evaluation: a name is given its value at the end of its assignment."""
    statement = module.tree.statement(node) if _is_store(node) else None
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return statement.end_lineno or node.lineno, (statement.end_col_offset or 0) + 1
    return node.lineno, node.col_offset


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _is_store(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _leaves_block(catch: Catch) -> bool:
    """Whether the handler returns, goes to the next round or raises, on one way at least."""
    jumps = (ast.Return, ast.Continue, ast.Break, ast.Raise)
    return catch.raises or any(
        isinstance(node, jumps) or (isinstance(node, ast.Call) and _may_raise(catch.module, node))
        for node in catch.nodes
    )


def _may_raise(module: Module, call: ast.Call) -> bool:
    if _STOPS.match(called(call)) or (called(call) == "error" and "parser" in (key(receiver(call)) or "")):
        return True
    found = target(module, call)
    return found is not None and any(isinstance(node, ast.Raise) for node in walk_scope(found[1]))


def _always_behind(catch: Catch, node: ast.Name, branches: bool) -> bool:
    """Whether the node stands in the block that the statement is in, or in a condition there.

    With `branches`, behind one too, where its test reads nothing that the block or its handler sets.
    """
    module = catch.module
    parent = module.tree.parents[catch.statement]
    at: ast.AST = node
    for above in module.tree.above(node):
        if above is parent:
            return not _left_between(catch, parent, at)
        if isinstance(above, ast.Try | ast.TryStar | ast.ExceptHandler):
            return False
        if isinstance(above, ast.While | ast.For) and at not in (getattr(above, "test", 0), getattr(above, "iter", 0)):
            return False
        if isinstance(above, ast.If) and at is not above.test and (not branches or _knows_of(catch, above.test)):
            return False
        at = above
    return False


def _left_between(catch: Catch, parent: ast.AST, last: ast.AST) -> bool:
    """Whether a branch in between leaves and may know what came: `if not ok: continue`."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and catch.statement in block and last in block:
            between = block[block.index(catch.statement) + 1 : block.index(last)]
            return any(
                isinstance(s, ast.If) and (leaves(s.body) or leaves(s.orelse)) and _knows_of(catch, s.test)
                for s in between
            )
    return False


def _knows_of(catch: Catch, test: ast.expr) -> bool:
    """Whether a test reads what the block or its handler sets, or asks a function that may know."""
    below = [*catch.nodes, *(n for s in catch.guarded for n in (s, *walk_scope(s)))]
    targets = [t for n in below if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in below if isinstance(n, ast.AugAssign | ast.AnnAssign | ast.For)]
    set_there = {key(part) for t in targets for part in (*getattr(t, "elts", ()), t)}
    read = {key(n) for n in walk(test) if isinstance(n, ast.Name | ast.Attribute | ast.Subscript)} - {None}
    return bool(read & set_there) or any(isinstance(n, ast.Call) and called(n) != "len" for n in walk(test))


def _silent_import(catch: Catch) -> bool:
    """Whether a feature is left out without a word where an import fails, and nothing holds that it did."""
    if not catch.inert or catch.tells or not isinstance(catch.guarded[0], ast.Import | ast.ImportFrom):
        return False
    return not catch.signals and not falls_back(catch)
