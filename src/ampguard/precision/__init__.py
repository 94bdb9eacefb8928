"""Which precision a run gets, why, and how it reaches torch."""

from ampguard.precision.autocast import autocast, enable_tf32
from ampguard.precision.dtypes import DtypeRow, dtype_table
from ampguard.precision.measure import time_passes
from ampguard.precision.names import AUTO, NAMES, canonical
from ampguard.precision.overridden import precision_of
from ampguard.precision.overrides import (
    apply_overrides,
    check_ran,
    compile_backward_as_eager,
    grant_overrides,
    remove_overrides,
)
from ampguard.precision.patterns import parse_overrides
from ampguard.precision.policy import IMPLEMENTED, Policy, policy_of
from ampguard.precision.recommend import doctor, doctor_record, recommend
from ampguard.precision.resolve import Decision, Measure, OnUnsupported, resolve

__all__ = [
    "AUTO",
    "IMPLEMENTED",
    "NAMES",
    "Decision",
    "DtypeRow",
    "Measure",
    "OnUnsupported",
    "Policy",
    "apply_overrides",
    "autocast",
    "canonical",
    "check_ran",
    "compile_backward_as_eager",
    "doctor",
    "doctor_record",
    "dtype_table",
    "enable_tf32",
    "grant_overrides",
    "parse_overrides",
    "policy_of",
    "precision_of",
    "recommend",
    "remove_overrides",
    "resolve",
    "time_passes",
]
