"""Forward passes that switch gradients on by a flag of their own, whoever has switched them off.

`set_grad_enabled(self.finetune)` does both: it switches gradients off where the flag is False, and on where it is True,
also in the validation that stands in `torch.no_grad()`. What asks `torch.is_grad_enabled()` too only switches off.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk

_FORWARD = regex(r"_?(forward|encode|extract|embed|get|compute)(_\w+)?")
_LIMITED = regex(r"is_grad_enabled|\.training\b|requires_grad|grad_enabled\b")
_NETWORK = regex(r"Module\b|LightningModule")


def switched_on_again(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call, what is wrong) of forward passes of networks that set gradients by an attribute alone."""
    if not module.mentions(("set_grad_enabled",)):
        return
    for call in module.calls_of("set_grad_enabled"):
        function, owner = module.tree.function(call), module.tree.class_of(call)
        if function is None or owner is None or not call.args or not _FORWARD.fullmatch(function.name):
            continue
        if not is_network(module, owner) and not any(_NETWORK.search(ast.unparse(base)) for base in owner.bases):
            continue
        flag = call.args[0]
        own = [n for n in walk(flag) if isinstance(n, ast.Attribute) and (key(n) or "").startswith("self.")]
        plain = flag.operand if isinstance(flag, ast.UnaryOp) else flag
        if own == [plain] and not _LIMITED.search(ast.unparse(flag)):
            message = f"set_grad_enabled({ast.unparse(flag)}) switches gradients on again where the caller has none"
            yield call, message
