"""The record of `ampguard doctor`: what a machine can do in each precision, how fast, and which to use."""

from dataclasses import asdict
from typing import Any

from ampguard.hardware import Hardware, inspect, pick_device
from ampguard.precision.blocks import Tell
from ampguard.precision.names import AUTO
from ampguard.precision.rates import Rates, measure_rates
from ampguard.precision.resolve import resolve
from ampguard.records import SCHEMA

NOT_MEASURED = Rates()


def doctor(device: str | None = None, *, measure: bool = False, tell: Tell | None = None) -> dict[str, Any]:
    """Return what a device can do in each precision, with sources, and what to use.

    Args:
        device: cpu, cuda, cuda:1 ...; None: the accelerator, if there is one.
        measure: Whether to measure each precision too: about ten seconds, and 400 MB of the device's memory.
        tell: Is told how far the measurement is: what is being done, and the share of it that is done.

    Raises:
        ConfigError: The device is unknown or absent.
    """
    found = pick_device(device)
    hardware = inspect(found)
    return doctor_record(hardware, measure_rates(hardware, found, tell=tell) if measure else NOT_MEASURED)


def doctor_record(hardware: Hardware, rates: Rates = NOT_MEASURED) -> dict[str, Any]:
    """Return the JSON object of `ampguard doctor`; what was not measured is None."""
    precisions = [
        {
            "precision": fact.precision,
            "support": fact.support,
            "source": fact.source,
            **asdict(rates.of(fact.precision)),
        }
        for fact in hardware.precisions
    ]
    precision, why = recommend(hardware, rates)
    return {
        "schema": SCHEMA,
        "device": hardware.label,
        "precisions": precisions,
        "settings": rates.settings,
        "recommendation": {"precision": precision, "why": why},
    }


def recommend(hardware: Hardware, rates: Rates = NOT_MEASURED) -> tuple[str, str]:
    """Return (precision, why) without a model at hand; never a precision that was measured slower than fp32.

    On a CPU with native bf16 only the model can tell: there bf16 is faster for some and slower for others.
    """
    if hardware.kind == "cpu" and "bf16-mixed" in hardware.native:
        return AUTO, (
            "bf16 is native here, but on a CPU it is faster for large models and slower for small ones: "
            "'ampguard train' with precision 'auto' times your model in fp32 and bf16 and takes the faster"
        )
    decision = resolve(AUTO, hardware)
    if rates.of(decision.granted).slower_than_fp32:
        return "fp32", f"{decision.granted} is {decision.reason}, and was measured slower than fp32"
    return decision.granted, decision.reason
