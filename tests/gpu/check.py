"""Check ampguard on this machine's GPU and write one JSON record of it: what `make gpu-check` runs.

Runs with whatever python (>= 3.11) and torch (>= 2.8) are at hand, without pytest and without the command line's
packages. The record has the device, the versions, and of every check its status, figures and time; a check that
cannot be made here is skipped with the reason. Without a GPU nothing is checked and nothing is written.

    PYTHONPATH=src python tests/gpu/check.py [--out FILE] [--only WORD] [--tiny] [--device cuda:0]

The record goes to --out, else to $OUT (a file, or a folder to put it in), else to benchmarks/results/gpu-<device>.json.
Exit 1 if a check failed.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from checks import Check

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NO_GPU = "gpu-check: skipped: this machine has no CUDA device, and a GPU that was not measured has no record."


def run_check(check: "Check", device: "torch.device", folder: Path) -> dict[str, Any]:
    """Return {"name", "status": "passed"|"failed"|"skipped", "reason", "seconds", "figures"} of one check."""
    reason = check.reason_to_skip(device)
    if reason:
        return {"name": check.name, "status": "skipped", "reason": reason, "seconds": 0.0, "figures": {}}
    began, status, figures = time.perf_counter(), "passed", {}
    try:
        figures = check.run(device, folder)
    except Exception as error:  # noqa: BLE001 - the other checks still tell something; this one is told as failed
        status, reason = "failed", f"{type(error).__name__}: {error}"
        traceback.print_exc()
    seconds = round(time.perf_counter() - began, 3)
    return {"name": check.name, "status": status, "reason": reason, "seconds": seconds, "figures": figures}


def machine(device: "torch.device") -> dict[str, Any]:
    """Return the device and the versions: what is needed to judge the figures and to repeat them."""
    import torch

    import ampguard
    from ampguard.hardware import inspect

    facts: dict[str, Any] = {"name": inspect(device).name, "type": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "memory_mib": properties.total_memory // 2**20,
            "driver": driver(),
        }
    versions = {
        "ampguard": ampguard.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    return {"device": facts, "versions": versions}


def driver() -> str | None:
    """Return the driver's version as nvidia-smi tells it; None where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def place(given: Path | None, device_name: str) -> Path:
    """Return where the record goes."""
    name = f"gpu-{re.sub('[^a-z0-9]+', '-', device_name.lower()).strip('-')}.json"
    wanted = given or (Path(os.environ["OUT"]) if os.environ.get("OUT") else RESULTS / name)
    return wanted / name if wanted.is_dir() else wanted


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="the record, a file or a folder; default: $OUT or benchmarks/results")
    parser.add_argument("--only", default="", help="only checks whose name has this in it")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: tests the checks; no figure to keep")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu with --tiny and --out tests the checks")
    return parser.parse_args()


def main() -> int:
    # Before torch is loaded: bit-exact resume needs cuBLAS to keep to one workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.path.append(str(ROOT / "benchmarks"))
    import torch
    from checks import TINY, Sizes, checks

    options = parse()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return 0
    if device.type == "cpu" and options.out is None:
        raise SystemExit("gpu-check: --device cpu tests the checks and is no result: give --out.")
    facts, results = machine(device), []
    with tempfile.TemporaryDirectory() as folder:
        for check in checks(TINY if options.tiny else Sizes()):
            if options.only in check.name:
                results.append(run_check(check, device, Path(folder)))
                print("{status:8} {seconds:8.2f} s  {name}  {reason}".format(**results[-1]), flush=True)
    failed = [result["name"] for result in results if result["status"] == "failed"]
    record = {
        "schema": 1,
        "what": "ampguard on a GPU: parity, exact skips, no synchronisation, resume, training, overhead, memory",
        "command": " ".join(["python", "tests/gpu/check.py", *sys.argv[1:]]),
        **facts,
        "sizes": "tiny" if options.tiny else "full",
        "passed": not failed,
        "checks": results,
    }
    out = place(options.out, facts["device"]["name"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
