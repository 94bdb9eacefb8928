"""Audit every Python file of the standard library and of site-packages: `make audit-corpus`. Or of given folders.

What is looked for is not their faults but ours: a rule that raises, a file that kills a process, JSON that cannot be
written. Files that are no Python (templates, tests of the parser) are counted by reason. Exit code 1 where a rule
failed on a file.
"""

import argparse
import json
import site
import sys
import sysconfig
import time
from collections import Counter

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.run import run_audit

FAULTS = ("failed on it", "killed the process")


def main() -> int:
    """Audit, tell what became of the files, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", help="in place of the standard library and site-packages")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    given = parser.parse_args()
    folders = given.folders or [sysconfig.get_path("stdlib"), *site.getsitepackages()]
    started = time.perf_counter()
    report = run_audit(folders, AuditConfig(workers=given.workers), tell=told)
    wall = time.perf_counter() - started
    json.dumps(report.as_dict(), allow_nan=False)
    print(f"\n{len(report.files)} files in {wall:.0f} s; {report}", file=sys.stderr)
    for reason, number in Counter(
        item.reason.split(":")[0].split(" at line")[0] for item in report.unreadable
    ).most_common():
        print(f"{number:6} {reason}")
    faults = [item for item in report.unreadable if any(fault in item.reason for fault in FAULTS)]
    for item in faults:
        print(f"fault: {item.path}: {item.reason}")
    return int(bool(faults))


def told(done: int, of: int) -> None:
    """Tell how far the audit is, on one line of stderr."""
    print(f"\r{done} of {of}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
