"""Questions for an active run that fail where there is none, asked before anything says that this process has one.

`swanlab.get_run() is not None and is_main_process`: only the main process has started a run, and on the others the
question raises. `wandb.run` and `mlflow.active_run()` answer None instead.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.guards import tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk_scope
from ampguard.auditing.rules.trackers._isolation import isolated

_RAISE = ("swanlab.get_run", "aim.sdk.get_run", "dvclive.get_live", "neptune.get_run", "neptune.new.get_run")


def questions_that_raise(module: Module) -> Iterator[ast.Call]:
    """Walk the calls in tests, of each function the first, that raise where no run was started."""
    told: set[ast.AST] = set()
    for call in module.calls_of("get_run", "get_live"):
        if not module.names.stands_for(call.func, *_RAISE):
            continue
        function = module.tree.function(call) or module.root
        if (
            function in told
            or _of_one_process(module, call)
            or not _is_asked(module, call)
            or isolated(module, call, function)
        ):
            continue
        begun = (n for n in walk_scope(function) if isinstance(n, ast.Call) and n.lineno < call.lineno)
        if not any(module.names.stands_for(n.func, "swanlab.init", "neptune.init_run") for n in begun):
            told.add(function)
            yield call


_ONE = regex(r"main|rank|master|zero|chief", re.IGNORECASE)


def _of_one_process(module: Module, call: ast.Call) -> bool:
    """Whether a test before the question leaves only the process that has started a run."""
    if _ONE.search(getattr(module.tree.function(call), "name", "")):
        return True
    return any(_ONE.search(ast.unparse(test)) for test, _ in tests_before(module, call))


def _is_asked(module: Module, call: ast.Call) -> bool:
    """Whether a call is compared with None, or its truth is asked."""
    above = module.tree.parents[call]
    if isinstance(above, ast.Compare):
        return any(isinstance(c, ast.Constant) and c.value is None for c in above.comparators)
    return isinstance(above, ast.BoolOp | ast.If | ast.IfExp) or (
        isinstance(above, ast.UnaryOp) and isinstance(above.op, ast.Not)
    )
