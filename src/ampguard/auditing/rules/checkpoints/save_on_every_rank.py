"""Every rank of a distributed run writes the same file."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import Save, callers, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._paths import in_memory, words_of

_RANK = regex(
    r"rank|main|master|primary|chief|leader|zero|gpu|device|process|worker|writer|dist|local|global|world|save|log",
    re.I,
)
_DEPTH = 3


class SaveOnEveryRank(Rule):
    """In distributed code a checkpoint is saved without asking which rank this is.

    ## What it does

    In a file that wraps a model in `DistributedDataParallel`: a `torch.save` of states that no condition about the
    rank stands around, before, or around the calls of its function, to a path without the rank in it.

    ## Why is this bad

    All ranks write one file at once. What is left may be a mixture that does not load.

    ## Example

    ```python
    import torch
    from torch.nn.parallel import DistributedDataParallel

    def fit(model, optimizer, batches):
        model = DistributedDataParallel(model)
        for batch in batches:
            model(batch).backward()
            optimizer.step()
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    ```

    ## Use instead

    ```python
    import torch
    from torch.nn.parallel import DistributedDataParallel

    def fit(model, optimizer, batches, rank):
        model = DistributedDataParallel(model)
        for batch in batches:
            model(batch).backward()
            optimizer.step()
        if rank == 0:
            torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    ```

    ## Fix safety

    Safe for DDP. With sharded states every rank has to take part in gathering them: guard only the writing.

    ## References

    - PyTorch tutorial "Getting started with DistributedDataParallel", section "Save and load checkpoints"
    """

    code = "CKP008"
    name = "save-on-every-rank"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "All ranks write the same file at once, and what is left may not load."
    risk = "Low: keep collective calls outside the condition."
    fix = "Save on rank 0 only, and let the others wait at a barrier."
    words = ("DistributedDataParallel",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the saves of states that nothing guards."""
        if not any(module.calls_of("DistributedDataParallel", "DDP")):
            return
        for save in saves(module):
            if _evident(module, save):
                yield self.finding(module, save.call, f"`{module.segment(save.call)}` runs on every rank")


def _evident(module: Module, save: Save) -> bool:
    if save.path is None or "model" not in save.holds.kinds or in_memory(module, argument(save.call, 1, "f")):
        return False
    return not _RANK.search(words_of(module, save.path)) and _reached(module, save.call, 0)


def _reached(module: Module, node: ast.AST, depth: int) -> bool:
    """Whether every rank runs the node: no condition here, and some caller in this file without one."""
    if _guarded(module, node):
        return False
    function = module.tree.function(node)
    if function is None:
        return True
    above = callers(module, function) if depth < _DEPTH else []
    wraps = any(module.tree.inside(c, function) for c in module.calls_of("DistributedDataParallel", "DDP"))
    return any(_reached(module, call, depth + 1) for call in above) or (wraps and not above)


def _guarded(module: Module, node: ast.AST) -> bool:
    function = module.tree.function(node)
    for at in module.tree.above(node):
        if at is function:
            break
        if isinstance(at, ast.If | ast.IfExp) and _RANK.search(ast.unparse(at.test)):
            return True
    return any(
        _RANK.search(ast.unparse(test.test)) and isinstance(test.body[-1], ast.Return | ast.Raise)
        for test in (function.body if function is not None else ())
        if isinstance(test, ast.If)
    )
