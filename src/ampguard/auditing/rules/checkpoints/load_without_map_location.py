"""A state loaded onto the device that it was saved from."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._paths import in_memory

_STATE_KEY = re.compile(r"state|model|optim|weights|net\b|ema|epoch", re.I)


class LoadWithoutMapLocation(Rule):
    """States are loaded onto the device that they were saved from, wherever the program runs now.

    ## What it does

    Reports `torch.load` without `map_location` whose result goes into `load_state_dict`, or is read as a
    checkpoint (`state["model"]`).

    ## Why is this bad

    Tensors saved on `cuda:0` are put on `cuda:0` again: a machine without a GPU raises, every rank of a
    distributed run fills the first GPU, and a large checkpoint is in GPU memory twice.

    ## Example

    ```python
    import torch

    def resume(model, path):
        model.load_state_dict(torch.load(path, weights_only=True))
    ```

    ## Use instead

    ```python
    import torch

    def resume(model, path):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    ```

    ## Fix safety

    Safe: `load_state_dict` copies onto the parameters' own device. An optimizer moves what it loads, too.

    ## References

    - torch.load, parameter `map_location`
    - The PyTorch tutorial "Saving and loading models across devices"
    """

    code = "CKP006"
    name = "load-without-map-location"
    severity = Severity.LOW
    likelihood = "possible"
    impact = "The load raises without the GPU that saved, and in distributed runs every rank loads onto one GPU."
    risk = "None: loading a state copies it onto the parameters' own device."
    fix = 'Pass `map_location="cpu"` (or the device of this process).'
    words = ("torch.load", "from torch import", "load(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the loads of states that name no device."""
        for call in torch_loads(module):
            if argument(call, 1, "map_location") is not None or any(k.arg is None for k in call.keywords):
                continue
            if not in_memory(module, argument(call, 0, "f")) and _is_state(module, call):
                yield self.finding(module, call, f"`{module.segment(call)}` names no `map_location`")


def _is_state(module: Module, call: ast.Call) -> bool:
    """Whether the result is used as a state: given to `load_state_dict`, or read by a key that states have."""
    parent = module.tree.parents.get(call)
    if isinstance(parent, ast.Call) and called(parent) == "load_state_dict":
        return True
    if isinstance(parent, ast.Subscript):
        return _names_state(parent)
    place = key(parent.targets[0]) if isinstance(parent, ast.Assign) else None
    if place is None:
        return False
    scope = module.tree.scope(call)
    given = any(
        key(value) == place and module.tree.scope(c) is scope
        for c in module.calls_of("load_state_dict")
        for value in c.args
    )
    read = module.tree.all(ast.Subscript)
    return given or any(key(s.value) == place and _names_state(s) and module.tree.scope(s) is scope for s in read)


def _names_state(node: ast.Subscript) -> bool:
    return (
        isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and bool(_STATE_KEY.search(node.slice.value))
    )
