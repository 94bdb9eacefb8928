"""Time `ampguard audit` against bare `ast.parse` and against its peers; write benchmarks/results/audit.json.

Three figures, each in processes of their own, interpreter start included:

1. The installed transformers package: our wall time with two workers over that of one process that only reads the
   files and calls `ast.parse` on each, as pairs whose order alternates. The figure is the median of the ratios.
2. The files about AMP (GradScaler, autocast) of folders that are given: files per second of one process on one core.
3. A sample of those files, side by side: ours, ruff with every rule, pylint's checks of exceptions, TorchFix. The last
   two are installed into an environment of their own that is thrown away; without a network they are left out, and
   the record says so.

CPU seconds of the process and its children stand beside wall seconds: on a busy machine they say more. So does the
load average before and after.

    python benchmarks/audit.py [FOLDER ...] [--rounds 3] [--sample 60] [--no-peers] [--out FILE]
"""

import argparse
import compileall
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ampguard
from ampguard.auditing.discover import discover
from ampguard.hardware import inspect

RESULT = Path(__file__).parent / "results" / "audit.json"
LIMIT_RATIO = 2.5
"""The promise: two workers on transformers, over one core's bare `ast.parse`."""
LIMIT_FILES_PER_S = 60.0
"""The promise: AMP files per second and core."""
WORDS = ("GradScaler", "autocast")
SEED = 20260101
PYLINT = (
    "--disable=all",
    "--enable=bare-except,broad-exception-caught,broad-exception-raised,try-except-raise,raise-missing-from",
)
PARSE = """
import ast, sys
from pathlib import Path
for name in Path(sys.argv[1]).read_text().split("\\n"):
    try:
        ast.parse(Path(name).read_bytes())
    except (SyntaxError, ValueError):
        pass
"""

Times = dict[str, float]
"""{"wall_s", "cpu_s"} of one run."""


def compiled() -> None:
    """Compile our package to bytecode, as an installer leaves it: a checkout may be told to keep none."""
    compileall.compile_dir(Path(ampguard.__file__).parent, quiet=2)


def timed(command: Sequence[str | Path]) -> Times:
    """Run a command to its end, whatever its exit code says of the code it read; return its times."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode < 0 or b"Traceback (most recent call last)" in done.stderr:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}


def ours(paths: Sequence[str | Path], workers: int) -> list[str | Path]:
    """Return the command that audits the paths."""
    audit = [sys.executable, "-m", "ampguard", "audit", "--no-config", "--format", "json", "--fail-on", "never"]
    return [*audit, "--workers", str(workers), *paths]


def against_parse(rounds: int, folder: Path) -> dict[str, Any]:
    """Return the first figure."""
    package = find_spec("transformers")
    if package is None or not package.submodule_search_locations:
        return {"skipped": "transformers is not installed"}
    root = Path(next(iter(package.submodule_search_locations)))
    files = list(discover([root]).files.values())
    names = folder / "names"
    names.write_text("\n".join(map(str, files)), encoding="utf-8")
    bare, audit = [sys.executable, "-c", PARSE, names], ours([root], 2)
    timed(bare)  # fills the file cache
    pairs = [paired(lambda: timed(bare), lambda: timed(audit), n) for n in range(rounds)]
    ratios = [round(a["wall_s"] / b["wall_s"], 3) for b, a in pairs]
    return {
        "transformers": version("transformers"),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "bare_ast_parse": [b for b, _ in pairs],
        "ampguard_2_workers": [a for _, a in pairs],
        "ratios": ratios,
        "cpu_ratios": [round(a["cpu_s"] / b["cpu_s"], 3) for b, a in pairs],
        "ratio": statistics.median(ratios),
        "limit_ratio": LIMIT_RATIO,
        "met": statistics.median(ratios) <= LIMIT_RATIO,
    }


def paired(first: Callable[[], Times], second: Callable[[], Times], number: int) -> tuple[Times, Times]:
    """Return the times of both, run back to back; odd pairs run the second one first."""
    if number % 2:
        late = second()
        return first(), late
    return first(), second()


def amp_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have to do with AMP."""
    texts = ((path, path.read_bytes()) for path in discover([folder]).files.values())
    return [path for path, text in texts if any(word.encode() in text for word in WORDS)]


def throughput(folders: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Return the second figure, one row a folder."""
    rows = []
    for folder in folders:
        files = amp_files(folder)
        if not files:
            rows.append({"folder": folder.name, "skipped": f"no file holds {' or '.join(WORDS)}"})
            continue
        runs = [timed(ours(files, 1)) for _ in range(rounds)]
        rate = len(files) / statistics.median(run["wall_s"] for run in runs)
        rows.append(
            {
                "folder": folder.name,
                "files": len(files),
                "runs": runs,
                "files_per_s_per_core": round(rate, 1),
                "limit": LIMIT_FILES_PER_S,
                "met": rate >= LIMIT_FILES_PER_S,
            }
        )
    return rows


def beside_peers(files: Sequence[Path], rounds: int, folder: Path) -> dict[str, Any]:
    """Return the third figure: each tool over the same files, in turn."""
    ruff = Path(sys.executable).with_name("ruff")
    commands: dict[str, list[str | Path]] = {"ampguard, 2 workers": ours(files, 2)}
    if ruff.exists():
        commands["ruff --select ALL"] = [ruff, "check", "--isolated", "--no-cache", "--select", "ALL", *files]
    peers, why = peer_tools(folder)
    if peers is not None:
        commands["pylint -j2, exceptions"] = [peers / "pylint", "-j2", *PYLINT, *files]
        commands["torchfix --select ALL"] = [peers / "torchfix", "--select", "ALL", *files]
    rows = {}
    for name, command in commands.items():
        runs = [timed(command) for _ in range(rounds if name[:4] in ("ampg", "ruff") else 1)]
        rate = len(files) / statistics.median(run["wall_s"] for run in runs)
        rows[name] = {"files_per_s": round(rate, 1), "runs": runs}
        print(f"{name}: {rate:.1f} files/s", file=sys.stderr)
    return {"files": len(files), "left_out": why, "tools": rows}


def peer_tools(folder: Path) -> tuple[Path | None, str]:
    """Return the folder with the commands of pylint and TorchFix, or None and why they cannot be had."""
    place = folder / "peers"
    python = place / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", place],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pylint", "torchfix"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"pylint and torchfix are left out: {why}", file=sys.stderr)
            return None, f"pylint and torchfix could not be installed: {why}"
    return place / "bin", ""


def versions(folder: Path) -> dict[str, str]:
    """Return the versions of what was measured."""
    found = {"ampguard": ampguard.__version__, "python": platform.python_version(), "ruff": version("ruff")}
    python = folder / "peers" / "bin" / "python"
    if python.exists():
        script = "from importlib.metadata import version as v; print(v('pylint'), v('torchfix'))"
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
        found |= dict(zip(("pylint", "torchfix"), done.stdout.split(), strict=False))
    return found


def measure(folders: Sequence[Path], *, rounds: int, sample: int, peers: bool) -> dict[str, Any]:
    """Return the record."""
    before = os.getloadavg()[0]
    compiled()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parse = against_parse(rounds, place)
        print(f"over bare ast.parse: {parse.get('ratio', parse.get('skipped'))}", file=sys.stderr)
        rates = throughput(folders, rounds)
        for row in rates:
            print(
                f"{row['folder']}: {row.get('files_per_s_per_core', row.get('skipped'))} files/s/core", file=sys.stderr
            )
        files = sorted(path for folder in folders for path in amp_files(folder))
        chosen = random.Random(SEED).sample(files, min(sample, len(files)))
        side = beside_peers(chosen, rounds, place) if peers and chosen else {"left_out": "no folders, or --no-peers"}
        return {
            "schema": 1,
            "what": "wall time of `ampguard audit`, interpreter start included",
            "command": f"python benchmarks/audit.py FOLDER ... --rounds {rounds} --sample {sample}",
            "over_ast_parse": parse,
            "amp_files": rates,
            "beside_peers": side,
            "versions": versions(place),
            "device": f"{inspect('cpu').name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            "load_average_1min": [round(before, 2), round(os.getloadavg()[0], 2)],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="repositories whose AMP files are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=60, help="files that every tool reads")
    parser.add_argument("--no-peers", action="store_true", help="leave out ruff, pylint and TorchFix")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    record = measure(given.folders, rounds=given.rounds, sample=given.sample, peers=not given.no_peers)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
