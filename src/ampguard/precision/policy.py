"""The Policy: which dtype the weights are kept in, the math runs in and gradients are summed in.

One row per precision. A precision without a row is not implemented; adding its row is what makes `resolve` grant it.
The loss scale is another noun, of another room: a Policy only says whether there is one.
"""

from dataclasses import dataclass

import torch

from ampguard.errors import PrecisionError


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The dtypes of one precision."""

    name: str
    """Name of the precision."""
    storage_dtype: torch.dtype
    """Dtype of the master weights, which the optimizer updates."""
    compute_dtype: torch.dtype
    """Dtype of matrix products and convolutions; autocast keeps sensitive operations in float32."""
    reduce_dtype: torch.dtype = torch.float32
    """Dtype in which gradients are summed over ranks; 8 bits of mantissa lose small addends."""
    scaled: bool = False
    """Whether the loss is scaled: only fp16 lacks the exponents that gradients need."""

    @property
    def autocasts(self) -> bool:
        """Whether forwards run under autocast."""
        return self.compute_dtype is not torch.float32


_FLOAT, _BF16, _FP16 = torch.float32, torch.bfloat16, torch.float16
_POLICIES = {
    policy.name: policy
    for policy in (
        Policy(name="fp32", storage_dtype=_FLOAT, compute_dtype=_FLOAT),
        # tf32 is a mode of the matrix units: every tensor stays float32.
        Policy(name="tf32", storage_dtype=_FLOAT, compute_dtype=_FLOAT),
        Policy(name="bf16-mixed", storage_dtype=_FLOAT, compute_dtype=_BF16),
        Policy(name="fp16-mixed", storage_dtype=_FLOAT, compute_dtype=_FP16, scaled=True),
        Policy(name="bf16-true", storage_dtype=_BF16, compute_dtype=_BF16),
    )
}
IMPLEMENTED = tuple(_POLICIES)
"""Names of the precisions that this version trains in."""


def policy_of(name: str) -> Policy:
    """Return the policy of a precision.

    Args:
        name: A canonical name, never "auto": `resolve` turns that into one.

    Raises:
        PrecisionError: This version does not implement the precision.
    """
    if name not in _POLICIES:
        raise PrecisionError(f"precision {name!r} is not available in this version of ampguard.", allowed=IMPLEMENTED)
    return _POLICIES[name]
