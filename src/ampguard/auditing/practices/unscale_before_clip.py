"""Gradients are unscaled before they are clipped."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver

_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads")


class UnscaleBeforeClip(Practice):
    """`scaler.unscale_(optimizer)`, then clipping, then `scaler.step(optimizer)`: the threshold means what it says."""

    name = "unscale-before-clip"
    title = "Gradients unscaled before clipping"
    words = ("unscale_",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every unscale that is followed by clipping and by the step of the same scaler."""
        for call in module.calls.get("unscale_", ()):
            owner = receiver(call)
            place = key(owner)
            if place is None or not is_scaler(module, owner):
                continue
            clip = _next(module, call, _CLIPS)
            step = _next(module, call, ("step",), of=place)
            if clip is not None and step is not None and call.lineno <= clip.lineno <= step.lineno:
                message = f"{place}.unscale_ comes before {called(clip)}, which comes before {place}.step"
                yield self.practice(module, call, message, end=clip)


def _next(module: Module, call: ast.Call, names: tuple[str, ...], of: str | None = None) -> ast.Call | None:
    """Return the first such call behind another one in the same function."""
    function = module.tree.function(call)
    behind = [
        c
        for c in module.calls_of(*names)
        if c.lineno > call.lineno and module.tree.function(c) is function and (of is None or key(receiver(c)) == of)
    ]
    return min(behind, key=lambda c: c.lineno, default=None)
