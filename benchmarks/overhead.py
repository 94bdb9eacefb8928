"""Time ours against two bare loops, in turn and block by block; write benchmarks/results/overhead.json.

Every block runs each loop in each precision for the same few steps on the same batches, in an order drawn anew, and
gives one ratio for each pair of loops. The figure is the median ratio with a 95 % interval (paired.py). The clock is
read once before and once after a block's run; the garbage collector is off in between. The loops are in loops.py, what
they train in subjects.py. The weights of the three are compared apart from the timing, after steps few enough that
rounding has not grown into chaos.

    python benchmarks/overhead.py [--only mlp|text] [--blocks N] [--quick] [--out FILE]

Left out: memory (no loop here needs more than another on a CPU), and accelerators (tests/gpu/check.py).
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import ampguard
from loops import LOG_EVERY
from paired import RESAMPLES, Ratio, block_ratios, summarise
from subjects import SUBJECTS, Subject
from targets import judge, label
from timing import PRECISIONS, Row, Seconds, agreement, measure

RESULT = Path(__file__).parent / "results" / "overhead.json"
QUICK_BLOCKS = 6
PAIRS: list[tuple[Row, Row]] = [
    *((("ours", precision), (bare, precision)) for precision in PRECISIONS for bare in ("plain", "tuned")),
    (("ours", "fp32"), ("ours", "bf16-mixed")),
]
"""The ratios taken: each is time over time. The last is the speed-up of bf16."""


def bench(subject: Subject, blocks: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Measure one subject and return everything that was found."""
    seconds = measure(subject, blocks, advance)
    samples = {pair: block_ratios(seconds[pair[0]], seconds[pair[1]]) for pair in PAIRS}
    ratios = {pair: summarise(values) for pair, values in samples.items()}
    return {
        "what": subject.what,
        "threads": subject.threads,
        "steps_per_block": subject.steps_per_block,
        "warmup_steps": subject.warmup_steps,
        "step_ms": step_ms(seconds, subject.steps_per_block),
        "ratios": {label(*pair): ratio_record(ratios[pair], samples[pair]) for pair in PAIRS},
        "agreement": {precision: agreement(subject, precision) for precision in PRECISIONS},
        "targets": judge(subject.name, ratios),
    }


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
            "torch": torch.__version__,
            "python": platform.python_version(),
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


def table_of(name: str, found: dict[str, Any]) -> Table:
    """Return the terminal's view of one subject: ratios, agreement and targets."""
    table = Table(title=f"{name}: {found['what']}; {found['threads']} threads", title_justify="left")
    for column in ("what", "value", "limit", ""):
        table.add_column(column)
    for row, value in found["step_ms"].items():
        table.add_row(f"{row}, ms a step", f"{value:.3f}")
    table.add_section()
    for row, ratio in found["ratios"].items():
        low, high = ratio["ci95"]
        table.add_row(row, f"{ratio['median']:.3f} [{low:.3f}, {high:.3f}]")
    table.add_section()
    for precision, agreed in found["agreement"].items():
        worst = max(agreed["difference"].values())
        text = f"weights after {agreed['steps']} steps, {precision}"
        table.add_row(text, f"{worst:.1e}", f"at most {agreed['bound']:.1e}", mark(agreed["agree"]))
    table.add_section()
    for target in found["targets"]:
        text = f"{target['kind']}: {target['ratio']}, {target['statistic']}"
        table.add_row(text, f"{target['value']:.3f}", target["limit"], mark(target["met"]))
    return table


def mark(fine: bool) -> str:
    return "[green]met[/]" if fine else "[red]missed[/]"


def block_count(text: str) -> int:
    """Return a count of blocks, at least 2: an interval needs two."""
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"{count} blocks; at least 2 are needed")
    return count


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(SUBJECTS), help="one subject; default: both")
    parser.add_argument("--blocks", type=block_count, help="blocks of each subject; default: 200 (mlp) and 50 (text)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_BLOCKS} blocks: a trial, not a figure to publish")
    parser.add_argument("--out", type=Path, help="the record; default: results/overhead.json, with --quick none")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    console = Console()
    subjects = [SUBJECTS[name]() for name in ([options.only] if options.only else SUBJECTS)]
    found = {}
    before = environment()
    for subject in subjects:
        blocks = QUICK_BLOCKS if options.quick else options.blocks or subject.blocks
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task(f"{subject.name}, {blocks} blocks", total=blocks)
            found[subject.name] = bench(subject, blocks, lambda bar=bar, show=progress: show.advance(bar))
        console.print(table_of(subject.name, found[subject.name]))
    record = {
        "schema": 1,
        "what": "time of a training step, ours over bare loops, paired by blocks",
        "command": " ".join(["python", "benchmarks/overhead.py", *sys.argv[1:]]),
        **before,
        "log_every_steps": LOG_EVERY,
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
