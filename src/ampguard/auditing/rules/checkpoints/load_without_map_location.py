"""A state loaded onto the device that it was saved from."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._no_device import gives_no_device
from ampguard.auditing.rules.checkpoints._paths import in_memory
from ampguard.auditing.rules.checkpoints._states import gpu_is_there, is_state, written_before


class LoadWithoutMapLocation(Rule):
    """States are loaded onto the device that they were saved from, wherever the program runs now.

    ## What it does

    Reports `torch.load` without `map_location` whose result goes into `load_state_dict`, is read as a checkpoint
    (`state["model"]`), is used as a model, or is called one (by its name, its path, or its function); the
    same for a `map_location` that is a `device=None` as its function, or the caller of it, is given by default; and
    `torch.jit.load` without it, as information. A load behind a question for the GPU, beside another with a
    `map_location`, is left alone, and so is a file that the same function wrote.

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
            if _names_no_device(module, call) and is_state(module, call) and not written_before(module, call):
                where = argument(call, 1, "map_location")
                names = (
                    "names no `map_location`"
                    if where is None
                    else f"is told `{module.segment(where)}`, which is None unless somebody says more"
                )
                yield self.finding(module, call, f"`{module.segment(call)}` {names}")
        for call in module.calls_of("load"):
            if module.names.stands_for(call.func, "torch.jit.load") and _names_no_device(module, call):
                text = f"`{module.segment(call)}` puts the module where it was when it was exported"
                yield self.finding(module, call, text, severity=Severity.INFO)


def _names_no_device(module: Module, call: ast.Call) -> bool:
    where = argument(call, 1, "map_location")
    if (where is not None and not gives_no_device(module, call, where)) or any(k.arg is None for k in call.keywords):
        return False
    return not in_memory(module, argument(call, 0, "f")) and not gpu_is_there(module, call)
