"""Time training steps with trackers that fail in every way over steps without; write benchmarks/results/trackers.json.

One model trains on, block by block. In each block every row gets a run folder and deliveries of its own and trains the
same number of steps, a row of metrics every tenth step as `--log-every` does; the order is drawn anew. Each block gives
one ratio a row, over the row without trackers; the figure is the median with a 95 % interval (paired.py) and the
quartiles. "none again" is a second row without trackers: what it shows is noise. The faults are those of
tests/faults/bad_trackers.py; "replay" is a tracker that is sent 20,000 rows that waited, while training goes on.

    python benchmarks/trackers.py [--blocks N] [--quick] [--rows ROW ...] [--out FILE]

The real trackers run only by name (--rows wandb mlflow): offline, each with a file of its own as its service.

Left out: what a tracker's start costs (its thread starts before the clock), the wait at the end (at most
--track-timeout), accelerators.
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.optim import AdamW

from ampguard import Guard
from ampguard.tasks import text
from ampguard.tracking import Deliveries, RunLog
from overhead import environment, ratio_record
from paired import block_ratios, summarise

RESULT = Path(__file__).parent / "results" / "trackers.json"
FAULTS = Path(__file__).parents[1] / "tests" / "faults" / "bad_trackers.py"
AIM = 1.02
"""The ratio that a fault may cost."""
BLOCKS, QUICK_BLOCKS = 40, 4
WARMUP_STEPS, STEPS = 10, 40
LOG_EVERY = 10
BATCH = 8
WAITING_ROWS = 20_000

REFERENCE = "none"
ROWS = {
    REFERENCE: (),
    "none again": (),
    "works": ("Fine",),
    "log raises": ("LogRaises",),
    "every third log raises": ("EveryThirdRaises",),
    "log hangs": ("LogHangs",),
    "log takes 1 s": ("LogTakesASecond",),
    "raises at init": ("InitRaises",),
    "start raises": ("StartRaises",),
    "start hangs": ("StartHangs",),
    "disk full": ("FullDisk",),
    "replay": ("Fine",),
    "four that fail at once": ("LogRaises", "LogHangs", "StartHangs", "FullDisk"),
}
REAL = ("tensorboard", "wandb", "mlflow", "trackio")
FACTS = {
    "name": "bench",
    "tags": ["bench"],
    "task": {"name": "bench"},
    "precision": {"requested": "fp32", "granted": "fp32", "reason": "asked for"},
    "device": "CPU",
    "config": {},
    "versions": {},
}


class Bench:
    """A model in training, and the clock of its steps."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.task = text.build(size="tiny")
        windows: Any = self.task.train_data
        self.batches = torch.stack([windows[index] for index in range(0, 64 * BATCH, 64)]).split(BATCH)
        self.model = self.task.model()
        self.guard = Guard(self.model, AdamW(self.model.parameters(), lr=1e-3, fused=True), precision="fp32")
        self.step = 0

    def block(self, row: str) -> float:
        """Return the seconds of STEPS steps with the trackers of `row`."""
        trackers = (row,) if row in REAL else tuple(f"{FAULTS}:{name}" for name in ROWS[row])
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            run_dir = Path(folder) / "run"
            run_dir.mkdir()
            os.environ["TRACKIO_DIR"] = folder
            log = RunLog(run_dir)
            if row == "replay":
                self._fill(log)
            deliveries = Deliveries(trackers, run_dir)
            deliveries.start(FACTS)
            self._steps(WARMUP_STEPS, log, deliveries)
            if row in REAL:
                self._await_start(deliveries)
            began = time.perf_counter()
            self._steps(STEPS, log, deliveries)
            seconds = time.perf_counter() - began
            self._end(deliveries, run_dir)
        return seconds

    def _fill(self, log: RunLog) -> None:
        for step in range(-WAITING_ROWS, 0):
            log.log({"step": WAITING_ROWS + step, **dict.fromkeys(("train/loss", "train/lr", "amp/enabled"), 0.5)})

    def _steps(self, count: int, log: RunLog, deliveries: Deliveries) -> None:
        for _ in range(count):
            batch = self.batches[self.step % len(self.batches)]
            with self.guard.autocast():
                loss = self.task.loss(self.model, batch)
            self.guard.backward(loss)
            self.guard.step()
            self.step += 1
            if self.step % LOG_EVERY == 0:
                log.log({"step": WAITING_ROWS + self.step, **self.guard.read().metrics(enabled=False)})
                for event in deliveries.wake(self.step):
                    log.event(event.as_dict())

    def _await_start(self, deliveries: Deliveries) -> None:
        """Wait until a real service has begun its run and taken a row: that is once in a run, not in each step."""
        until = time.monotonic() + 120.0
        while not all(member.rows_sent for member in deliveries) and time.monotonic() < until:
            time.sleep(0.05)

    def _end(self, deliveries: Deliveries, run_dir: Path) -> None:
        """Free what hangs, so that no thread of this row runs in the next."""
        (run_dir / "healed").touch()
        deliveries.close()
        for member in deliveries:
            member.join(60.0)


def measure(rows: Sequence[str], blocks: int, console: Console) -> dict[str, list[float]]:
    """Return the seconds of every block of every row."""
    bench, order, draw = Bench(), list(rows), random.Random(0)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for row in rows:
        bench.block(row)
    for block in range(1, blocks + 1):
        draw.shuffle(order)
        for row in order:
            seconds[row].append(bench.block(row))
        if block % max(1, blocks // 10) == 0:
            console.print(f"block {block} of {blocks}")
    return seconds


def record_of(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the figures of every row over the reference."""
    found = {}
    for row in seconds:
        if row != REFERENCE:
            samples = block_ratios(seconds[row], seconds[REFERENCE])
            ratio = summarise(samples)
            quartiles = [round(value, 4) for value in quantiles(samples, n=4)]
            found[row] = {**ratio_record(ratio, samples), "quartiles": quartiles, "aim_met": ratio.median < AIM}
    return found


def table_of(rows: dict[str, Any]) -> Table:
    """Return the figures as a table for people."""
    table = Table("tracker", "step time over none", "95 %", "quartiles", "below 1.02")
    for name, row in rows.items():
        low, _, high = row["quartiles"]
        interval = "{:.3f} to {:.3f}".format(*row["ci95"])
        table.add_row(
            name, f"{row['median']:.3f}", interval, f"{low:.3f}, {high:.3f}", "yes" if row["aim_met"] else "no"
        )
    return table


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, help=f"blocks of each row, at least 2; default: {BLOCKS}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_BLOCKS} blocks: a trial, not a figure to publish")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *REAL], help="beside the reference; default: all faults")
    parser.add_argument("--out", type=Path, help="the record; default: results/trackers.json, with --quick none")
    return parser.parse_args(arguments)


def main() -> None:
    options, console = parse(sys.argv[1:]), Console()
    before = environment()
    logging.getLogger("ampguard").setLevel(logging.ERROR)
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    blocks = options.blocks or (QUICK_BLOCKS if options.quick else BLOCKS)
    rows = list(dict.fromkeys([REFERENCE, *(options.rows or ROWS)]))
    seconds = measure(rows, blocks, console)
    found = record_of(seconds)
    console.print(table_of(found))
    record = {
        "schema": 1,
        "what": "time of a training step with failing trackers over none, paired by blocks",
        "command": " ".join(["python", "benchmarks/trackers.py", *sys.argv[1:]]),
        **before,
        "subject": f"Task text, size tiny, batch {BATCH}, fp32, one thread",
        "steps_per_block": STEPS,
        "log_every": LOG_EVERY,
        "step_ms": round(median(seconds[REFERENCE]) / STEPS * 1e3, 4),
        "aim": AIM,
        "rows": found,
    }
    out = options.out or (None if options.quick else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {out}")


if __name__ == "__main__":
    main()
