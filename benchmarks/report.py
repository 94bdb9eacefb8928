"""Time `ampguard report` on a run of ten million rows; write benchmarks/results/report.json.

The rows are made up and look like a run's: twelve metrics, a skip every 2,011 steps, a validation every 100,000. They
are written to a temporary folder (4 GB) and read from there, as a rule from the system's file cache. The processor's
time is that of all processes; the memory is that of the largest one. The load of the machine before and after stands
in the record: beside other work the elapsed time says more about that work, the processor's time less so.

    python benchmarks/report.py [--rows 10000000] [--folder DIR] [--out FILE]
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ampguard
from ampguard.hardware import inspect

RESULT = Path(__file__).parent / "results" / "report.json"
LIMIT_S = 30.0
LIMIT_BYTES = 5_000_000
RUN = """schema = 1
device = "made up"
[task]
name = "made-up"
[precision]
requested = "fp16-mixed"
granted = "fp16-mixed"
reason = "as requested"
[config]
precision = "fp16-mixed"
"""


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows of a run that never was."""
    draw, skipped, scale = random.Random(1).random, 0, 65536.0
    with path.open("w", buffering=1 << 20) as file:
        for step in range(1, count + 1):
            skip = step % 2011 == 0
            skipped += skip
            scale = max(1.0, scale / 2) if skip else min(scale * 2, 2.0**24) if step % 2003 == 0 else scale
            loss = 2.0 - 1.9 * step / count + draw() * 0.2
            norm = "" if skip else f'"train/grad_norm": {draw() * 9!r}, '
            val = f', "val/loss": {loss + 0.1!r}' if step % 100_000 == 0 else ""
            file.write(
                f'{{"step": {step}, "train/loss": {loss!r}, "train/lr": {1e-3 * (1 - step / count)!r}, {norm}'
                f'"amp/enabled": 1, "amp/loss_scale": {scale}, "amp/applied_steps": {step - skipped}, '
                f'"amp/skipped_steps": {skipped}, "amp/skip_streak": {int(skip)}, "time/step_ms": {10 + draw()!r}, '
                f'"time/data_wait_ms": {draw()!r}, "throughput/samples_per_s": {6400 + draw() * 99!r}, '
                f'"memory/peak_allocated_mib": 1234.5{val}}}\n'
            )


def measure(rows: int, folder: Path) -> dict[str, object]:
    """Return the record."""
    (folder / "run.toml").write_text(RUN)
    write_rows(folder / "metrics.jsonl", rows)
    (folder / "events.jsonl").touch()
    load, used = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ampguard", "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
    wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    page = (folder / "report.html").stat().st_size
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {
        "schema": 1,
        "what": "ampguard report RUN",
        "command": f"python benchmarks/report.py --rows {rows}",
        "rows": rows,
        "file_bytes": (folder / "metrics.jsonl").stat().st_size,
        "page_bytes": page,
        "wall_s": round(wall, 2),
        "processor_s": round(cpu, 2),
        "peak_memory_mib": round(now.ru_maxrss / 1024, 1),
        "limits": {"wall_s": LIMIT_S, "page_bytes": LIMIT_BYTES},
        "met": wall <= LIMIT_S and page <= LIMIT_BYTES,
        "versions": {"ampguard": ampguard.__version__, "python": platform.python_version()},
        "device": f"{inspect('cpu').name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load_average_1min": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        record = measure(options.rows, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: record[name] for name in ("wall_s", "processor_s", "page_bytes", "peak_memory_mib")}))


if __name__ == "__main__":
    main()
