"""The table of `ampguard doctor`: what a machine can do in each precision, and which to use."""

from typing import Any

from ampguard.hardware import Hardware
from ampguard.precision.names import AUTO
from ampguard.precision.resolve import resolve
from ampguard.records import SCHEMA


def doctor_record(hardware: Hardware) -> dict[str, Any]:
    """Return the JSON object of `ampguard doctor`; nothing is measured here, so every figure is None."""
    precisions = [
        {"precision": fact.precision, "support": fact.support, "source": fact.source, "measured_tflops": None}
        for fact in hardware.precisions
    ]
    precision, why = recommend(hardware)
    recommendation = {"precision": precision, "why": why}
    return {"schema": SCHEMA, "device": hardware.label, "precisions": precisions, "recommendation": recommendation}


def recommend(hardware: Hardware) -> tuple[str, str]:
    """Return (precision, why) without a model at hand.

    On a CPU with native bf16 the answer depends on the model: bf16 was measured 1.65 to 1.8 times faster for a GPT of
    6 layers x 384, and 1.2 to 2 times slower for one of 2 x 64 (fp32 against bf16, AVX512-BF16, torch 2.13).
    """
    if hardware.kind == "cpu" and "bf16-mixed" in hardware.native:
        return AUTO, (
            "bf16 is native here, but on a CPU it is faster for large models and slower for small ones: "
            "'ampguard train' with precision 'auto' times your model in fp32 and bf16 and takes the faster"
        )
    decision = resolve(AUTO, hardware)
    return decision.granted, decision.reason
