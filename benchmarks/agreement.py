"""Whether all rows train the same: their weights after a few steps, and the dtype that they computed in.

Few steps, because rounding grows into chaos. The bound is on the distance from the plain loop's weights, relative to
their norm.

fp32: loops that multiply by a rounded reciprocal where others divide may round a weight the other way once a step:
steps * 2**-24. bf16: a weight at the edge of two bf16 numbers may be cast the other way, which changes the gradients by
their own precision: 2**-8 of the way that the weights have come.
"""

from typing import Any

import numpy as np

from subjects import Subject
from worker import Row, Trained, flat

REFERENCE = "plain"


def agreement(subject: Subject, precision: str, trained: dict[Row, Trained]) -> dict[str, Any]:
    """Return how far the rows' weights are from the reference's, the bound, and whether all keep it."""
    ends = {loop: end for (loop, its_precision), end in trained.items() if its_precision == precision}
    reference = ends[REFERENCE]
    scale = float(np.linalg.norm(reference.weights))
    moved = float(np.linalg.norm(reference.weights - flat(subject.model()).numpy())) / scale
    bound = subject.agreement_steps * 2**-24 if precision == "fp32" else 2**-8 * moved
    differences = {
        loop: float(np.linalg.norm(end.weights - reference.weights)) / scale
        for loop, end in ends.items()
        if loop != REFERENCE
    }
    return {
        "steps": subject.agreement_steps,
        "moved": moved,
        "bound": bound,
        "difference": differences,
        "dtype": {loop: end.dtype for loop, end in ends.items()},
        # A NaN is within no bound.
        "agree": all(value <= bound for value in differences.values())
        and all(end.dtype == reference.dtype for end in ends.values()),
    }
