"""Names that a call of a tracker is given and that an `if` may have left without a value.

    if isinstance(augs, Compose):
        augs_file = "augs.yaml"
    ...
    run["augs"].upload(augs_file)

Without the `if`, the word to the tracker is an UnboundLocalError, and the training does not begin.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.guards import leaves, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.rules.trackers._isolation import isolated

_SENDS = regex(r"log|log_\w+|upload\w*|track|track_\w+|report_\w+|add_(scalars?|text|image|figure|hparams)|set_tags?")
_OWNER = regex(r"wandb|mlflow|neptune|comet|clearml|swanlab|tracker|logger|experiment|(^|\.)run$|writer", re.IGNORECASE)
_RANKS = regex(r"rank|main|master|zero|chief|distrib|\blocal", re.IGNORECASE)
_NAME = regex(r"[A-Za-z_]\w+")
_COMMON = frozenset({"self", "args", "cfg", "config", "isinstance", "is", "not", "None", "and", "or", "in", "len"})


def names_bound_on_one_path(module: Module) -> Iterator[tuple[ast.Call, str, ast.If]]:
    """Walk (the first such call of a function, the name, the `if` that alone gives it a value)."""
    told = set()
    for name, calls in module.calls.items():
        for call in calls if _SENDS.fullmatch(name) and module.role != "test" else ():
            function = module.tree.function(call)
            if function is None or function in told or not _is_tracker(call) or isolated(module, call, function):
                continue
            for given in _names_given(call):
                branch = _binding_branch(module, given)
                if branch is not None and not _asks_for(module, call, branch, given.id):
                    told.add(function)
                    yield call, given.id, branch
                    break


def _is_tracker(call: ast.Call) -> bool:
    owner = receiver(call)
    while isinstance(owner, ast.Subscript):
        owner = owner.value
    return bool(_OWNER.search(key(owner) or "")) and called(call) != "log_every"


def _names_given(call: ast.Call) -> Iterator[ast.Name]:
    """Walk the names that a call is given as they are."""
    for given in (*call.args, *(k.value for k in call.keywords)):
        values = [v for v in (*given.keys, *given.values) if v is not None] if isinstance(given, ast.Dict) else [given]
        yield from (value for value in values if isinstance(value, ast.Name))


def _binding_branch(module: Module, given: ast.Name) -> ast.If | None:
    """Return the `if` without an `else`, in no loop, in whose body alone a local name gets its values."""
    function = module.tree.function(given)
    bindings = module.names.bindings_in(function).get(given.id, []) if function is not None else []
    branches = {_branch_around(module, b.node) if b.kind == "assign" else None for b in bindings}
    branch = next(iter(branches)) if len(branches) == 1 else None
    if branch is None or branch.orelse or leaves(branch.body) or any(True for _ in module.tree.loops(branch)):
        return None
    above = module.tree.parents[branch]
    beside = above is function or (isinstance(above, ast.If) and module.tree.inside(given, above))
    return branch if beside and given.lineno > (branch.end_lineno or branch.lineno) else None


def _branch_around(module: Module, node: ast.AST) -> ast.If | None:
    """Return the `if` whose block a statement stands in, at any depth of plain blocks."""
    above = module.tree.parents.get(node)
    return above if isinstance(above, ast.If) else None


def _asks_for(module: Module, call: ast.Call, branch: ast.If, name: str) -> bool:
    """Whether a test before a call may come to the same as the one that the name got its value under."""
    text = ast.unparse(branch.test)
    asked = {*_NAME.findall(text), name} - _COMMON
    for test, _ in tests_before(module, call):
        words = set(_NAME.findall(ast.unparse(test)))
        if words & asked or (_RANKS.search(text) and _RANKS.search(" ".join(words))):
            return True
    given = {n.id for n in walk(branch.test) if isinstance(n, ast.Name)}
    return any(
        n.id in given and isinstance(n.ctx, ast.Store) for s in branch.body for n in walk(s) if isinstance(n, ast.Name)
    )
