"""Process groups that are set up and that nothing in the project ever destroys.

A group is set up by `init_process_group`, or by a function of the project that calls it: told where that is called.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, walk_scope

WORDS = (
    *("init_process_group", "init_dist", "setup_dist", "initialize_dist", "init_ddp", "setup_ddp", "ddp_setup"),
    *("ddp_init", "dist_init", "dist_setup", "distributed_init", "distributed_setup"),
)
_SETS_UP = regex(
    r"(^|_)(init|initialize|setup|start)_(\w+_)?(dist|distributed|ddp|process_group|process)(_|$)"
    r"|(^|_)(dist|distributed|ddp)_(init|setup)(_|$)"
)
_FEW = 4
"""Files that hold the name of a helper, its own among them; where more do, its own is told, and not each of them."""


def groups_left(module: Module) -> Iterator[ast.Call]:
    """Walk the first call of a file that sets up a group, in a project without `destroy_process_group`."""
    if module.role in ("test", "benchmark") or not module.mentions(WORDS):
        return
    if not module.project.says(_DESTROYS, "destroy_process_group"):
        yield from sorted(_setting_up(module), key=lambda c: c.lineno)[:1]


_DESTROYS = regex(r"destroy_process_group")


def _setting_up(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that set up a group: where a helper is called, or in it where many files call it."""
    for call in _own(module, module.calls_of("init_process_group")):
        function = module.tree.function(call)
        callers = module.calls.get(function.name, []) if function is not None else []
        if callers:
            yield callers[0]
        elif function is None or not _SETS_UP.search(function.name) or _is_called_by_many(module, function.name):
            yield call
    for name in [name for name in module.calls if _SETS_UP.search(name) and name != "init_process_group"]:
        place = target(module, module.calls[name][0], ("init_process_group",))
        if place is None or place[0] is module or _is_called_by_many(module, place[1].name):
            continue
        inner = (n for n in walk_scope(place[1]) if isinstance(n, ast.Call) and called(n) == "init_process_group")
        if any(True for _ in _own(place[0], inner)):
            yield module.calls[name][0]


def _is_called_by_many(module: Module, name: str) -> bool:
    return sum(1 for _ in module.project.texts(f"{name}(")) > _FEW


def _own(module: Module, calls: Iterator[ast.Call]) -> Iterator[ast.Call]:
    return (c for c in calls if module.names.stands_for(c.func, "torch.distributed.init_process_group"))
