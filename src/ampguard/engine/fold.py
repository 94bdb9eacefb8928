"""One read of the gradients: their norm, and the one divisor that unscales, averages and clips.

Stock AMP reads the gradients to unscale them, again to measure them, again to clip them and again in the
optimizer. Here the norm is the only pass before the optimizer: a non-finite gradient shows as a non-finite
norm, and everything else is one number that a fused optimizer divides by as it reads (`grad_scale`).
A norm that overflows float32 counts as non-finite.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

CLIP_EPS = 1e-6
"""Added to the norm before dividing by it. Source: torch.nn.utils.clip_grad_norm_."""


class Fold:
    """Norm and divisor of one set of parameters.

    Args:
        dtypes: The dtypes of the parameters.
        max_norm: Threshold on the norm of the unscaled gradients, > 0; None: no clipping.
        device: Where the parameters live.
    """

    def __init__(self, dtypes: Iterable[torch.dtype], max_norm: float | None, device: torch.device) -> None:
        kinds = set(dtypes)
        self._wide = bool(kinds & {torch.float64, torch.complex128})
        self._accumulate = None if kinds <= {torch.float32, torch.complex64} else torch.float32
        self._eps = max_norm and torch.full((), CLIP_EPS / max_norm, dtype=torch.float32, device=device)
        self._one = torch.ones((), dtype=torch.float32, device=device)
        self._max_norm = max_norm

    def norm(self, grads: list[Tensor]) -> Tensor:
        """Return the global L2 norm of `grads` as they are (scaled), float32, shape ().

        Accumulates in float32 (in float64 where a gradient is that wide).

        Sync: none.
        """
        if self._wide:
            norms = [torch.linalg.vector_norm(grad.double()).float() for grad in grads]
        elif self._accumulate is None:
            norms = torch._foreach_norm(grads)  # type: ignore[assignment]
        else:
            norms = torch._foreach_norm(grads, 2, self._accumulate)  # type: ignore[assignment]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def divisor(self, norm: Tensor, unscale: Tensor | None) -> Tensor | None:
        """Return the one divisor that unscales and clips, so that gradients are read once.

        Args:
            norm: L2 norm of the scaled gradients, float32, shape ().
            unscale: U = S * sum(count) / c_ref, float32, shape (); None: 1 by construction.

        Returns:
            float32, shape (): U * max(1, (norm / U + 1e-6) / max_norm); None: 1 by construction. It is
            meaningless where the norm is not finite: that step is skipped.

        Sync: none.
        Source: torch.nn.utils.clip_grad_norm_.
        """
        if self._max_norm is None or self._eps is None:
            return unscale
        if unscale is None:
            return torch.maximum(self._one, torch.add(self._eps, norm, alpha=1 / self._max_norm))
        return torch.maximum(unscale, torch.add(unscale * self._eps, norm, alpha=1 / self._max_norm))


def dense(grads: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients with each sparse one replaced by its coalesced values, which share its memory."""
    return [grad._values() if grad.is_sparse else grad for grad in grads]
