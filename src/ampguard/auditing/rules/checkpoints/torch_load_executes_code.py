"""`torch.load` as a pickle."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.checkpoints import torch_loads
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.requirements import torch_range
from ampguard.auditing.reading.tree import argument
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._paths import comes_from_outside, in_memory, written_here

_SAFE_SINCE = (2, 6)
"""The release of torch in which `weights_only=True` became the default."""


class TorchLoadExecutesCode(Rule):
    """A `torch.load` that unpickles anything, and so runs whatever the file tells it to.

    ## What it does

    Reports `torch.load` with `weights_only=False`, and without `weights_only` where the project does not require
    torch 2.6, in which `True` became the default. With a path from outside (a parameter, an option, a download)
    it is high for `False` or a project held below 2.6, medium where the project allows older and newer torch, low
    where it names no version; one step less where the same file wrote the path or its origin is unknown. Buffers
    in memory and calls with a `pickle_module` of their own are left alone.

    ## Why is this bad

    A pickle is a program. A checkpoint that somebody else made can run any command with the rights of the one who
    loads it, before a single weight is looked at.

    ## Example

    ```python
    import torch

    def resume(model, path):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    ```

    ## Use instead

    ```python
    import torch

    def resume(model, path):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    ```

    ## Fix safety

    Files that hold more than tensors, numbers, strings and containers are refused then: allow their classes with
    `torch.serialization.add_safe_globals`, or save states only. Below torch 2.6 even `weights_only=True` can be
    broken (CVE-2025-32434): require 2.6 where files come from outside.

    ## References

    - torch.load; release notes of torch 2.6; CVE-2025-32434
    - TorchFix TOR102 asks for the argument alone
    """

    code = "CKP005"
    name = "torch-load-executes-code"
    severity = Severity.HIGH
    impact = "Loading a file that somebody tampered with runs that person's code."
    risk = "Medium: files that hold whole objects instead of states are refused with weights_only=True."
    fix = "Pass `weights_only=True`; allow the classes that are needed with `torch.serialization.add_safe_globals`."
    words = ("torch.load", "from torch import", "load(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every `torch.load` that unpickles freely."""
        for call in torch_loads(module):
            said = self._how(module, call)
            path = argument(call, 0, "f")
            if said is None or in_memory(module, path):
                continue
            message, sure = said
            outside = comes_from_outside(module, path) and not written_here(module, path)
            yield self.finding(
                module,
                call,
                message,
                severity=Severity(max(Severity.LOW, sure - (not outside))),
                likelihood="possible" if outside else "unlikely",
            )

    def _how(self, module: Module, call: ast.Call) -> tuple[str, Severity] | None:
        """Return what is wrong with a call, and how bad that is where the path comes from outside."""
        given = argument(call, None, "weights_only")
        if any(k.arg is None for k in call.keywords) or argument(call, 2, "pickle_module") is not None:
            return None
        if given is not None:
            off = isinstance(given, ast.Constant) and given.value is False
            return ("`weights_only=False`: the file may run any code while it is read", Severity.HIGH) if off else None
        floor, ceiling = torch_range(module)
        if floor is not None and floor >= _SAFE_SINCE:
            return None
        if ceiling is not None and ceiling <= _SAFE_SINCE:
            return "no `weights_only`, which is False in the torch that this project requires", Severity.HIGH
        if floor is not None:
            return (
                f"no `weights_only`: False in torch {floor[0]}.{floor[1]}, which this project allows",
                Severity.MEDIUM,
            )
        return "no `weights_only`: False before torch 2.6, and nothing here requires 2.6", Severity.LOW
