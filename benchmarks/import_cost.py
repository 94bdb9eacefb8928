"""Time `import ampguard` over a bare interpreter start; write benchmarks/results/import_cost.json.

Each pair runs `python -c pass` and `python -c "import ampguard"` back to back, in an order that alternates, so that
a slow moment of the machine falls on both. The figure is the median of the paired differences. The first pair
is thrown away: it fills the file cache and writes the bytecode. The installation is measured as it is: an
editable one pays for its path file in both halves of a pair. The load of the machine before and after stands in the
record: a figure taken beside other work says more about that work.

    python benchmarks/import_cost.py [--pairs 20] [--out FILE]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ampguard
from ampguard.hardware import inspect

BARE = "pass"
OURS = "import ampguard"
LIMIT_MS = 50.0
"""The promise of issue and README: at most this much over a bare start, median of 20."""
RESULT = Path(__file__).parent / "results" / "import_cost.json"


def start_ms(statement: str) -> float:
    """Return the wall time of one interpreter that runs a statement, in milliseconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - began) * 1e3


def pair_ms(number: int) -> tuple[float, float]:
    """Return (bare, ours) of one pair; odd pairs run ours first."""
    if number % 2:
        ours, bare = start_ms(OURS), start_ms(BARE)
    else:
        bare, ours = start_ms(BARE), start_ms(OURS)
    return bare, ours


def summary(samples: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(samples, n=4)
    return {"median": round(statistics.median(samples), 3), "iqr": round(high - low, 3)}


def measure(pairs: int) -> dict[str, object]:
    """Return the record: {"over_bare_ms": {"median", "iqr", "n"}, ...} with what is needed to repeat it."""
    before = os.getloadavg()[0]
    taken = [pair_ms(number) for number in range(pairs + 1)][1:]
    over = [ours - bare for bare, ours in taken]
    return {
        "schema": 1,
        "what": f"python -c {OURS!r} over python -c {BARE!r}, paired",
        "command": f"python benchmarks/import_cost.py --pairs {pairs}",
        "over_bare_ms": {**summary(over), "n": pairs},
        "limit_ms": LIMIT_MS,
        "met": statistics.median(over) <= LIMIT_MS,
        "bare_ms": summary([bare for bare, _ in taken]),
        "ours_ms": summary([ours for _, ours in taken]),
        "samples_over_bare_ms": [round(sample, 3) for sample in over],
        "versions": {"ampguard": ampguard.__version__, "python": platform.python_version()},
        "device": f"{inspect('cpu').name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load_average_1min": [round(before, 2), round(os.getloadavg()[0], 2)],
    }


def pair_count(text: str) -> int:
    """Return a count of pairs, at least 2: an interquartile range needs two."""
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"{count} pairs; at least 2 are needed")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=pair_count, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    record = measure(options.pairs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["over_bare_ms"]))


if __name__ == "__main__":
    main()
