"""Which precision a run gets, why, and how it reaches torch."""

from ampguard.precision.autocast import autocast, enable_tf32
from ampguard.precision.measure import time_passes
from ampguard.precision.names import AUTO, NAMES, canonical
from ampguard.precision.policy import IMPLEMENTED, Policy, policy_of
from ampguard.precision.recommend import doctor, doctor_record, recommend
from ampguard.precision.resolve import Decision, Measure, OnUnsupported, resolve

__all__ = [
    "AUTO",
    "IMPLEMENTED",
    "NAMES",
    "Decision",
    "Measure",
    "OnUnsupported",
    "Policy",
    "autocast",
    "canonical",
    "doctor",
    "doctor_record",
    "enable_tf32",
    "policy_of",
    "recommend",
    "resolve",
    "time_passes",
]
