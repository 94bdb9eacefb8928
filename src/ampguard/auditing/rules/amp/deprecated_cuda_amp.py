"""The names of `torch.cuda.amp` and `torch.cpu.amp`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Edit, Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.old_names import (
    NAMES,
    SYMBOLS,
    deprecated,
    imported_and_not_called,
    is_fallback,
    mentioned_and_not_called,
)

_FIRST_POSITION = {"autocast": "enabled"}
"""What the first positional argument of the old name becomes; a scaler's keeps its place behind the device."""


class DeprecatedCudaAmp(Rule):
    """Autocast, scalers and autograd decorators are taken from `torch.cuda.amp` or `torch.cpu.amp`.

    ## What it does
    Finds calls and decorators of `torch.cuda.amp.autocast`, `GradScaler`, `custom_fwd`, `custom_bwd` and of their
    `torch.cpu.amp` twins, through any import alias. One finding a file and name; the message counts the others.
    Where a file calls no such name, the import counts, or the first use in a type, a base class or an `isinstance`.
    A fallback for old versions (`try: from torch.amp import ... except ImportError`, or a test of the version) is
    fine; a handler of something else is none.

    ## Why is this bad
    Since torch 2.4 each of them warns with a FutureWarning when it is called, every step for an autocast, and
    they are announced to go. They also tie the code to one kind of device.

    ## Example
    ```python
    import torch

    scaler = torch.cuda.amp.GradScaler()
    ```

    ## Use instead
    ```python
    import torch

    scaler = torch.amp.GradScaler("cuda")
    ```

    ## Fix safety
    The new names do the same. They need torch 2.3 (`GradScaler`) or 2.4 (`custom_fwd`, `custom_bwd`), and the order of
    autocast's arguments is another: the device comes first, then the dtype, then `enabled`.

    ## References
    - PyTorch 2.4 release notes, deprecations: `torch.cuda.amp` and `torch.cpu.amp`
    - https://pytorch.org/docs/stable/amp.html
    """

    code = "AMP027"
    name = "deprecated-cuda-amp"
    severity = Severity.LOW
    likelihood = "certain"
    impact = "torch 2.4 and later print a FutureWarning here, and a coming version drops the name."
    risk = "Low: the new name does the same, but it needs torch 2.3 or 2.4."
    fix = 'Take the name from torch.amp and give the device first, as in torch.amp.GradScaler("cuda").'
    words = ("cuda.amp", "cpu.amp", "from torch.cuda import", "from torch.cpu import")
    torch = ">=2.4"

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first use of each deprecated name."""
        found: dict[str, list[ast.expr | ast.alias]] = {}
        for node in sorted(_used(module), key=lambda n: (n.lineno, n.col_offset)):
            dotted = deprecated(module.names.dotted(node))
            if dotted is not None and not is_fallback(module, node):
                found.setdefault(dotted, []).append(node)
        for walks in (mentioned_and_not_called, imported_and_not_called):
            for dotted, at in walks(module):
                if SYMBOLS[dotted] not in {SYMBOLS[name] for name in found}:
                    found[dotted] = [at]
        for dotted, uses in found.items():
            yield self._one(module, dotted, uses)

    def _one(self, module: Module, dotted: str, uses: list[ast.expr | ast.alias]) -> Finding:
        device, name = SYMBOLS[dotted]
        others = sorted({n.lineno for n in uses[1:]} - {uses[0].lineno})
        more = f" (and {len(others)} more, lines {_listed(others)})" if others else ""
        return self.finding(
            module,
            uses[0],
            f"{dotted} is deprecated since torch 2.4; torch.amp.{name} takes the device{more}",
            fix=f"Write {_new_text(device, name)}.",
            edit=_edit(module, uses[0], device, name),
        )


def _used(module: Module) -> Iterator[ast.expr]:
    """Walk what is called and what decorates."""
    for name in NAMES:
        yield from (c.func for c in module.calls.get(name, ()))
    for last, calls in module.calls.items():
        if last not in NAMES and module.names.bindings_in(module.root).get(last):
            yield from (c.func for c in calls if isinstance(c.func, ast.Name))
    for function in module.functions:
        yield from (d for d in function.decorator_list if isinstance(d, ast.Name | ast.Attribute))


def _new_text(device: str, name: str) -> str:
    if name.startswith("custom"):
        return f'torch.amp.{name}(device_type="{device}")'
    return f'torch.amp.{name}("{device}", ...)'


def _edit(module: Module, node: ast.expr | ast.alias, device: str, name: str) -> Edit | None:
    """Return the line with the new name, where that is mechanical: one line, and `torch` itself imported."""
    if isinstance(node, ast.alias) or not _runs(module, node):
        return None
    if module.names.dotted(ast.Name("torch", ast.Load())) != ("torch",) or not _binds_torch(module):
        return None
    parent = module.tree.parents[node]
    whole = parent if isinstance(parent, ast.Call) and parent.func is node else node
    if whole.lineno != whole.end_lineno:
        return None
    line = module.lines[whole.lineno - 1]
    text = _rewritten(whole, device, name, line) if line.isascii() else None
    if text is None:
        return None
    new = line[: whole.col_offset] + text + line[whole.end_col_offset :]
    return Edit(first_line=whole.lineno, last_line=whole.lineno, lines=(new,))


def _runs(module: Module, node: ast.expr) -> bool:
    """Whether a name is called here, or decorates."""
    parent = module.tree.parents[node]
    return (isinstance(parent, ast.Call) and parent.func is node) or node in getattr(parent, "decorator_list", ())


def _binds_torch(module: Module) -> bool:
    return any(b.dotted == "torch" for b in module.names.bindings_in(module.root).get("torch", ()))


def _rewritten(whole: ast.expr, device: str, name: str, line: str) -> str | None:
    args = whole.args if isinstance(whole, ast.Call) else []
    keywords = whole.keywords if isinstance(whole, ast.Call) else []
    if any(isinstance(a, ast.Starred) for a in args) or any(k.arg is None for k in keywords):
        return None
    if len(args) > {"custom_fwd": 0, "autocast": 1}.get(name, 9):
        return None
    given = [f'device_type="{device}"' if name.startswith("custom") else f'"{device}"']
    for arg in args:
        before = f"{_FIRST_POSITION[name]}=" if name in _FIRST_POSITION else ""
        given.append(before + line[arg.col_offset : arg.end_col_offset])
    given += [line[k.col_offset : k.end_col_offset] for k in keywords]
    return f"torch.amp.{name}({', '.join(given)})"


def _listed(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5]))
    return shown if len(lines) <= 5 else f"{shown}, ..."
