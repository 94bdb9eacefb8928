"""The fixed runs still give the losses that were written down (regenerate.py tells how)."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden_regenerate", FOLDER / "regenerate.py")
assert _spec is not None and _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

# Another CPU sums in another order, which moves a sum of at most 16 terms by at most 16u, u = 2**-24: 1e-6, and over
# 24 steps of a run that converges at most 24 times as much: 2.3e-5. In bf16 such a sum rounds the other way only if
# it lies within 16u of a tie, one activation in 2**-8 / 16u = 4,000: 0.05 of some 200 a step move by 2**-7. All 24
# steps' flips on one activation's share of the loss (1/200) stay below 2**-8 / 4. bf16-true rounds its 200 weights
# too, and a flipped weight stays flipped: 2**-8. A CPU without fp16 instructions also sums fp16 in another dtype:
# a rounding or two of 2**-11 more, hence 2**-9.
# Seen, with torch held to AVX2 and to no vector instructions at all: fp32 5e-7, fp16 8e-4, bf16 and bf16-true 3e-7.
RTOL = {"fp32": 2.3e-5, "fp16-mixed": 2.0**-9, "bf16-mixed": 2.0**-10, "bf16-true": 2.0**-8}


def stored(precision: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{precision}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", golden.PRECISIONS)
def test_the_fixed_run_gives_the_numbers_written_down(precision):
    rows = list(golden.run(precision))
    for row, kept in zip(rows, stored(precision), strict=True):
        for key in ("step", "applied", "loss_scale"):
            assert row[key] == kept[key], f"{key} of step {kept['step']}"
        assert row["lr"] == pytest.approx(kept["lr"], rel=1e-12)  # libm's cosine, in float64
        for key in ("loss", "grad_norm"):
            assert row[key] == (None if kept[key] is None else pytest.approx(kept[key], rel=RTOL[precision])), key


@pytest.mark.parametrize("precision", golden.PRECISIONS)
def test_the_fixed_run_learns_and_skips_once(precision):
    rows = stored(precision)
    assert [row["step"] for row in rows if not row["applied"]] == [golden.BAD_STEP]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_the_tolerance_tells_a_precision_from_fp32(precision):
    """And yet half precisions follow fp32 within a few of their own roundings, far less than what is learned."""
    pairs = [(row["loss"], fp32["loss"]) for row, fp32 in zip(stored(precision), stored("fp32"), strict=True)]
    differences = [abs(loss / fp32 - 1) for loss, fp32 in pairs if fp32 is not None]
    assert RTOL[precision] < max(differences) < 0.1
