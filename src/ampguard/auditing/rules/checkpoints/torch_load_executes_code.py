"""`torch.load` as a pickle."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import definition
from ampguard.auditing.reading.checkpoints import torch_loads, torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.requirements import Version, torch_range
from ampguard.auditing.reading.tree import argument, key, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.checkpoints._paths import (
    comes_from_outside,
    in_memory,
    is_downloaded,
    names_file_outside,
    written_here,
)

_SAFE_SINCE = (2, 6)
_BASES = 4
"""Base classes followed upward."""

_COMMENT_LINES = 3
_LOOKED_AT = regex(r"nosec|trust|pickl|weights_only|\bsafe", re.IGNORECASE)
"""The release of torch in which `weights_only=True` became the default."""


class TorchLoadExecutesCode(Rule):
    """A `torch.load` that unpickles anything, and so runs whatever the file tells it to.

    ## What it does

    Reports `torch.load` with `weights_only=False`, and without `weights_only` where the project does not require
    torch 2.6, in which `True` became the default. `False` is high for a file that is downloaded, medium for another
    file that is named from outside (a parameter, an option). Without the argument it is medium where the project
    holds torch below 2.6 and the file is named from outside, or allows older torch and downloads the file. All else
    is low: a file that the same code wrote, a name of the project's own, an origin that is unknown, a default that is
    safe in the torch that is usually installed, and a line with `# nosec`. Buffers in memory and calls with a
    `pickle_module` of their own are left alone.

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
            if said is None or in_memory(module, path) or _is_buffer(module, path):
                continue
            message, outside, downloaded = said
            severity = Severity.LOW
            settled = written_here(module, path) or _is_excused(module, call) or _is_own(module, call)
            if not settled and comes_from_outside(module, path):
                severity = outside if names_file_outside(module, path) else Severity.LOW
                severity = downloaded if is_downloaded(module, path) else severity
            yield self.finding(
                module,
                call,
                message,
                severity=severity,
                likelihood="possible" if severity > Severity.LOW else "unlikely",
            )

    def _how(self, module: Module, call: ast.Call) -> tuple[str, Severity, Severity] | None:
        """Return what is wrong with a call, and how bad that is for a path from outside and for a downloaded file."""
        given = argument(call, None, "weights_only")
        if any(k.arg is None for k in call.keywords) or argument(call, 2, "pickle_module") is not None:
            return None
        if given is not None:
            off = isinstance(given, ast.Constant) and given.value is False
            text = "`weights_only=False`: the file may run any code while it is read"
            return (text, Severity.MEDIUM, Severity.HIGH) if off else None
        floor, ceiling = torch_range(module)
        if floor is not None and floor >= _SAFE_SINCE:
            return None
        if ceiling is not None and ceiling <= _SAFE_SINCE:
            text = f"no `weights_only`: False before torch 2.6, and this project holds torch below {_text(ceiling)}"
            return text, Severity.MEDIUM, Severity.MEDIUM
        if floor is not None:
            text = f"no `weights_only`: False in torch {_text(floor)}, which this project allows (True since 2.6)"
            return text, Severity.LOW, Severity.MEDIUM
        text = "no `weights_only`: False before torch 2.6, and nothing here requires 2.6"
        return text, Severity.LOW, Severity.LOW


def _is_excused(module: Module, call: ast.Call) -> bool:
    """Whether a comment at the call, or right above it, says that the unpickling was looked at."""
    above = max(0, call.lineno - 1 - _COMMENT_LINES)
    comments = (line.partition("#")[2] for line in module.lines[above : call.end_lineno])
    return any(_LOOKED_AT.search(comment) for comment in comments)


def _is_own(module: Module, call: ast.Call) -> bool:
    """Whether the class that loads also saves (itself, or a base of it): what it reads, it has written."""
    cls = module.tree.class_of(call)
    return cls is not None and any(_saves(where, one) for where, one in _with_bases(module, cls))


def _with_bases(module: Module, cls: ast.ClassDef, depth: int = 0) -> Iterator[tuple[Module, ast.ClassDef]]:
    yield module, cls
    for base in cls.bases if depth < _BASES else ():
        found = definition(module, base, ("torch.save",))
        if found is not None and isinstance(found[1], ast.ClassDef):
            yield from _with_bases(found[0], found[1], depth + 1)


def _saves(module: Module, cls: ast.ClassDef) -> bool:
    return any(module.tree.class_of(save) is cls for save in torch_saves(module))


def _is_buffer(module: Module, path: ast.expr | None) -> bool:
    """Whether what is read is rewound like a buffer or a file: `state.seek(0)`."""
    place = key(path)
    return place is not None and any(key(receiver(call)) == place for call in module.calls_of("seek"))


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
