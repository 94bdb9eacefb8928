"""Time ours against bare loops and the peers, in turn and block by block; write benchmarks/results/overhead.json.

Every block runs each loop in each precision for the same few steps on the same batches, in an order drawn anew, and
gives one ratio for each pair of loops. The figure is the median ratio with a 95 % interval (paired.py). Each row has a
process of its own; one runs at a time (worker.py). The loops are in loops/, what they train in subjects.py. That all of
them train the same is checked apart from the timing (agreement.py).

    python benchmarks/overhead.py [--only mlp|text] [--rows LOOP ...] [--blocks N] [--quick] [--out FILE]

About 8 minutes on two cores. Left out: memory (no loop here needs more than another on a CPU), accelerators
(tests/gpu/check.py), and data loading (every loop is fed from memory).
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

import ampguard
from agreement import REFERENCE, agreement
from loops import LOOPS, OURS
from paired import RESAMPLES, Ratio, block_ratios, summarise
from subjects import SUBJECTS
from tables import tables_of
from targets import SPEEDUP, Pair, judge, label
from timing import PRECISIONS, Seconds, measure

RESULT = Path(__file__).parent / "results" / "overhead.json"
QUICK_BLOCKS = 6
PACKAGES = ("torch", "pytorch-ignite", "lightning", "accelerate", "transformers")


def bench(name: str, loops: Sequence[str], blocks: int | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure one subject and return everything that was found."""
    subject = SUBJECTS[name]()
    loops = [loop for loop in LOOPS if loop == REFERENCE or loop in (loops or subject.loops)]
    seconds, trained = measure(name, loops, blocks=blocks or subject.blocks, tell=tell)
    samples = {pair: block_ratios(seconds[pair[0]], seconds[pair[1]]) for pair in pairs(loops)}
    ratios = {pair: summarise(values) for pair, values in samples.items()}
    return {
        "what": subject.what,
        "loops": loops,
        "threads": subject.threads,
        "steps_per_block": subject.steps_per_block,
        "warmup_steps": subject.warmup_steps,
        "step_ms": step_ms(seconds, subject.steps_per_block),
        "ratios": {label(pair): ratio_record(ratios[pair], samples[pair]) for pair in samples},
        "agreement": {precision: agreement(subject, precision, trained) for precision in PRECISIONS},
        "targets": judge(subject.name, ratios),
    }


def pairs(loops: Sequence[str]) -> list[Pair]:
    """Return the ratios taken: ours over each row, each row over plain, and the speed-up of bf16; each once."""
    over = [(ours, loop) for ours in OURS if ours in loops for loop in loops if loop != ours]
    over += [(loop, REFERENCE) for loop in loops if loop not in (REFERENCE, *OURS)]
    within = [((upper, precision), (lower, precision)) for precision in PRECISIONS for upper, lower in over]
    return [*within, SPEEDUP] if "ours" in loops else within


def step_ms(seconds: Seconds, steps: int) -> dict[str, float]:
    """Return the median duration of a step of every row: for orientation, the ratios are the result."""
    return {" ".join(row): round(median(times) / steps * 1e3, 4) for row, times in seconds.items()}


def ratio_record(ratio: Ratio, samples: Sequence[float]) -> dict[str, Any]:
    """Return {"median", "ci95", "blocks", "samples"}."""
    return {
        "median": round(ratio.median, 4),
        "ci95": [round(ratio.low, 4), round(ratio.high, 4)],
        "blocks": ratio.blocks,
        "samples": [round(value, 5) for value in samples],
    }


def environment() -> dict[str, Any]:
    """Return what is needed to judge the figures and to repeat them."""
    return {
        "versions": {
            "ampguard": ampguard.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "architecture": platform.machine()},
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def cpu_model() -> str:
    """Return the CPU's name, as Linux gives it; elsewhere as Python does."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def block_count(text: str) -> int:
    """Return a count of blocks, at least 2: an interval needs two."""
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"{count} blocks; at least 2 are needed")
    return count


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(SUBJECTS), help="one subject; default: both")
    parser.add_argument(
        "--rows", nargs="+", choices=LOOPS, default=(), help="the loops; plain always runs; default: all, text few"
    )
    parser.add_argument("--blocks", type=block_count, help="blocks of each subject; default: 200 (mlp) and 50 (text)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_BLOCKS} blocks: a trial, not a figure to publish")
    parser.add_argument("--out", type=Path, help="the record; default: results/overhead.json, with --quick none")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    console, began = Console(), time.perf_counter()
    found, before = {}, environment()
    for name in [options.only] if options.only else SUBJECTS:
        blocks = QUICK_BLOCKS if options.quick else options.blocks
        found[name] = bench(
            name, options.rows, blocks, lambda line: console.print(f"{time.perf_counter() - began:4.0f} s  {line}")
        )
        console.print(*tables_of(name, found[name]), sep="\n")
    record = {
        "schema": 2,
        "what": "time of a training step, ours over bare loops and peers, paired by blocks",
        "command": " ".join(["python", "benchmarks/overhead.py", *sys.argv[1:]]),
        **before,
        "interval": f"95 %, moving-block bootstrap of the median, {RESAMPLES} resamples",
        "subjects": found,
    }
    out = options.out or (None if options.quick else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {out}")


if __name__ == "__main__":
    main()
