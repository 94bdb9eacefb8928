"""Clips by torch's own function behind the backward pass of Accelerate or Fabric, which left the gradients scaled.

`accelerator.clip_grad_norm_` and `fabric.clip_gradients` unscale first; `torch.nn.utils.clip_grad_norm_` does not, and
the framework unscales as it steps. Only where the precision may be float16, which the project's own text tells.

Source: accelerate/accelerator.py (`clip_grad_norm_` calls `unscale_gradients`), lightning/fabric/fabric.py
(`clip_gradients` calls `strategy.precision.unscale_gradients`).
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._steps import arms, enclosing

_CLIPS = ("clip_grad_norm_", "clip_grad_value_")
_FRAMEWORK = regex(r"(^|[._])(accelerator|fabric)$", re.IGNORECASE)
_UNSCALES = regex(r"unscale_gradients|unscale_\(|clip_gradients\(|(accelerator|fabric)\.clip_grad", re.IGNORECASE)
_PRECISION = regex(r"\b(?:mixed_)?precision\s*=\s*[\"']([\w-]+)[\"']")
_HALF = regex(r"(^|-)(fp16|16)(-mixed)?$")


def clips_past_framework(module: Module) -> Iterator[tuple[ast.Call, ast.Call, bool]]:
    """Walk (the clip, the backward pass, whether the file writes out float16) of a function, a script or a class."""
    if not module.mentions(("clip_grad_",)) or not module.mentions(("ccelerator.backward(", "fabric.backward(")):
        return
    passes = [c for c in module.calls_of("backward") if c.args and _FRAMEWORK.search(key(receiver(c)) or "")]
    written = _PRECISION.findall(module.text)
    said = written or _said(module)
    if not passes or (said and not any(map(_HALF.search, said))):
        return
    for clip in module.calls_of(*_CLIPS):
        around: ast.AST | None = enclosing(module, clip)
        before = (c for c in passes if enclosing(module, c) is around and c.lineno < clip.lineno)
        found = max((c for c in before if not arms(module, c, clip)), key=lambda c: c.lineno, default=None)
        if found is None:
            found, around = _in_another_method(module, clip, passes), module.tree.class_of(clip)
        if found is None or around is None or not _is_torch(module, clip) or _FRAMEWORK.search(_owner(clip)):
            continue
        if not _UNSCALES.search(module.text_of(around)):
            yield clip, found, bool(written) and all(map(_HALF.search, written))


def _in_another_method(module: Module, clip: ast.Call, passes: list[ast.Call]) -> ast.Call | None:
    """Return the backward pass of a class that clips in another of its methods, where no other pass is there."""
    owner, function = module.tree.class_of(clip), module.tree.function(clip)
    if owner is None or any(module.tree.function(c) is function for c in module.calls_of("backward")):
        return None
    own = [c for c in module.calls_of("backward") if module.tree.class_of(c) is owner]
    return own[0] if own and all(c in passes for c in own) else None


def _is_torch(module: Module, call: ast.Call) -> bool:
    return module.names.stands_for(call.func, *(f"torch.nn.utils.{name}" for name in _CLIPS))


def _owner(call: ast.Call) -> str:
    return key(receiver(call)) or ""


def _said(module: Module) -> list[str]:
    """Return the precisions that the project writes out where it makes the framework's object."""
    question = ("precisions of frameworks",)
    if question not in module.project.memo:
        texts = (text for _, text in module.project.texts("Accelerator(", "Fabric("))
        module.project.memo[question] = [found for text in texts for found in _PRECISION.findall(text)]
    return module.project.memo[question]  # type: ignore[no-any-return]
