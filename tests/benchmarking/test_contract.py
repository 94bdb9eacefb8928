"""The JSON of a bench is that of docs/design.md, section 4, key by key and type by type."""

import json
import re
from pathlib import Path

import pytest

import ampguard

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"

Number = (int, float)
Maybe = (int, float, type(None))
Interval = "interval"
"""[low, high], or null."""

SPEC = {
    "schema": int,
    "task": str,
    "device": str,
    "baseline": str,
    "settings": {"tf32": bool, "cudnn_benchmark": bool, "compile": bool, "torch": str, "driver": (str, type(None))},
    "trials": [
        {
            "precision": str,
            "status": str,
            "reason": str,
            "step_ms": {"median": Maybe, "iqr": Maybe, "n": int},
            "samples_ms": [Number],
            "samples_per_s": Maybe,
            "peak_memory_mib": Maybe,
            "memory_mib": {
                "weights": Maybe,
                "gradients": Maybe,
                "optimizer": Maybe,
                "activations": Maybe,
                "workspace": Maybe,
            },
            "speedup": {"median": Maybe, "ci95": Interval},
            "memory_reduction_pct": Maybe,
            "parity": {
                "metric": str,
                "kind": str,
                "seeds": int,
                "steps": int,
                "difference": Maybe,
                "ci90": Interval,
                "margin": Number,
                "result": str,
                "seeds_needed": (int, type(None)),
            },
            "targets": {
                "speedup_1_5x": (bool, type(None)),
                "memory_reduction_40pct": (bool, type(None)),
                "accuracy_stable": (bool, type(None)),
            },
            "skipped_steps": (int, type(None)),
        }
    ],
    "recommendation": {"precision": str, "why": str},
}


def check(value, spec, where=""):
    if spec is Interval:
        assert value is None or (len(value) == 2 and all(isinstance(end, Number) for end in value)), where
    elif isinstance(spec, dict):
        assert isinstance(value, dict), where
        for key, inner in spec.items():
            assert key in value, f"{where}.{key}"
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(spec, list):
        assert isinstance(value, list), where
        for item in value:
            check(item, spec[0], f"{where}[]")
    else:
        assert isinstance(value, spec), f"{where} is {value!r}"


@pytest.fixture
def values(build, quick, no_memory):
    options = {"precisions": ("fp32", "bf16", "fp16", "fp8"), "on_unsupported": "skip"}
    report = ampguard.bench(build(half="raise", validation=False), **quick | options)
    found = json.loads((Path(report.out) / "bench.json").read_text())
    assert {trial["status"] for trial in found["trials"]} >= {"ok", "unsupported"}
    return found


def test_every_trial_has_every_key_of_the_contract_whatever_became_of_it(values):
    check(values, SPEC)
    statuses = {"ok", "unsupported", "failed"}
    results = {"equivalent", "different", "inconclusive", "not_measured"}
    for trial in values["trials"]:
        assert trial["status"] in statuses
        assert trial["parity"]["result"] in results
        assert trial["parity"]["kind"] in ("absolute", "relative")
        assert trial["status"] == "ok" or trial["reason"]
    assert values["trials"][0]["speedup"]["median"] == 1.0


def test_a_figure_that_is_null_has_its_reason(values):
    for trial in values["trials"]:
        if trial["status"] == "ok":
            for name in ("samples_per_s", "peak_memory_mib", "memory_reduction_pct", "largest_micro_batch"):
                assert trial[name] is not None or trial["reasons"][name]
            assert trial["speedup"]["ci95"] is not None or trial["reasons"]["speedup"]
        assert trial["parity"]["difference"] is not None or trial["parity"]["reason"]


def test_the_design_names_every_key_that_a_bench_writes(values):
    text = next(line for line in DESIGN.read_text().split("\n\n") if line.startswith("**bench**"))
    told = set(re.findall(r'"(\w+)"', text))

    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                # Keyed by what was given or measured, not by names of ours.
                if key not in ("reasons", "command"):
                    yield from keys(inner)
        elif isinstance(value, list):
            for item in value:
                yield from keys(item)

    assert set(keys(values)) - told == set()
    assert set(_names(SPEC)) - told == set()


def _names(spec):
    if isinstance(spec, dict):
        for key, inner in spec.items():
            yield key
            yield from _names(inner)
    elif isinstance(spec, list):
        yield from _names(spec[0])
