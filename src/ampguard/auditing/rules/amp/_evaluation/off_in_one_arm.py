"""One function that runs the same thing with gradients off where it is distributed, and on where it is not.

`if not dist.is_initialized(): return fn(*args)`, and `with torch.no_grad(): fn(*args)` below, in no test of training.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import OFF
from ampguard.auditing.rules.amp._steps import tests_above

_DISTRIBUTED = regex(r"dist(ributed)?\b|is_initialized|world_size|multi_?gpu|\brank\b|n_gpus?\b")
_TOLD_APART = regex(r"train|grad|optim|backward|loss")


def off_in_one_arm(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call with gradients on, what is wrong), once a function."""
    if not module.mentions(("no_grad", "inference_mode")) or not module.mentions(("dist", "world_size", "gpu")):
        return
    for node in module.tree.all(ast.With):
        function = module.tree.function(node)
        if function is None or not any(OFF.search(ast.unparse(item.context_expr)) for item in node.items):
            continue
        below = {ast.unparse(c.func): c for c in walk_scope(node) if isinstance(c, ast.Call) and c.args}
        calls = (c for c in walk_scope(function) if isinstance(c, ast.Call))
        found = next((c for c in calls if _is_the_other_arm(module, c, node, below, function)), None)
        if found is not None:
            what = f"{module.segment(found, 30)} runs with gradients on here"
            yield found, f"{what}, and with gradients off at line {node.lineno}, whether it trains or not"
            return


def _is_the_other_arm(
    module: Module, call: ast.Call, off: ast.With, below: dict[str, ast.Call], function: Function
) -> bool:
    """Whether a call runs, where nothing is distributed, what runs below the `with` elsewhere."""
    if module.tree.inside(call, off):
        return False
    twin = below.get(ast.unparse(call.func))
    if twin is None or not isinstance(twin.func, ast.Name) or ast.dump(twin) != ast.dump(call):
        return False
    tests = [ast.unparse(test) for test, _ in tests_above(module, call)]
    if not any(_DISTRIBUTED.search(t) for t in tests) or any(_TOLD_APART.search(t) for t in tests):
        return False
    around = [n for n in module.tree.above(call) if isinstance(n, ast.With | ast.AsyncWith)]
    return not any(module.tree.inside(n, function) for n in around)
