"""The table of `ampguard doctor`: what a machine can do in each precision, and which to use."""

from typing import Any

from ampguard.hardware import Hardware, inspect, pick_device
from ampguard.precision.names import AUTO
from ampguard.precision.resolve import resolve
from ampguard.records import SCHEMA


def doctor(device: str | None = None) -> dict[str, Any]:
    """Return what a device can do in each precision, with sources, and what to use.

    Args:
        device: cpu, cuda, cuda:1 ...; None: the accelerator, if there is one.

    Raises:
        ConfigError: The device is unknown or absent.
    """
    return doctor_record(inspect(pick_device(device)))


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

    On a CPU with native bf16 only the model can tell: there bf16 is faster for some and slower for others.
    """
    if hardware.kind == "cpu" and "bf16-mixed" in hardware.native:
        return AUTO, (
            "bf16 is native here, but on a CPU it is faster for large models and slower for small ones: "
            "'ampguard train' with precision 'auto' times your model in fp32 and bf16 and takes the faster"
        )
    decision = resolve(AUTO, hardware)
    return decision.granted, decision.reason
