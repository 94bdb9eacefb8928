"""How many known faults of public code `ampguard audit` finds, and what it says of their fixes.

    python benchmarks/audit_faults.py docs/audit-holdout.json FOLDER [--out results.json]

FOLDER holds exported repositories as `<owner>+<name>@<first 8 of the commit>/`. A fault counts as found where a
finding of the right kind stands within 3 lines of a listed line, or in the same function for kinds about
checkpoints and evaluation; a place that the list names under "also" counts as a listed line. Findings are those of
the default rules over the whole exported repository's imports.
A fix counts as clean where its commit has no finding of that kind in the same file.
"""

import argparse
import json
from pathlib import Path

from ampguard.auditing.analyse import analyse, chosen_rules
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.project import Project

KINDS = {
    "clip-before-unscale": ("AMP001",),
    "grad-norm-logged-before-unscale": ("AMP001", "AMP002"),
    "unscale-twice": ("AMP003",),
    "missing-zero-grad": ("AMP010",),
    "last-accumulation-group-misscaled": ("AMP026",),
    "scaler-autocast-flag-mismatch": ("AMP029",),
    "missing-scaler-update": ("AMP005", "AMP003"),
    "scaler-update-per-optimizer": ("AMP006",),
    "missing-scale": ("AMP007",),
    "plain-step-beside-scaler": ("AMP008",),
    "zero-grad-between-backward-and-step": ("AMP009",),
    "backward-in-autocast": ("AMP011",),
    "scheduler-on-skipped-step": ("AMP012",),
    "scaler-recreated-each-step": ("AMP020",),
    "bf16-with-gradscaler": ("AMP021",),
    "half-with-gradscaler": ("AMP022",),
    "bce-under-autocast": ("AMP023",),
    "fp16-without-scaler": ("AMP024",),
    "loss-not-divided-by-accum": ("AMP025",),
    "deprecated-cuda-amp": ("AMP027",),
    "cuda-assumed": ("AMP030",),
    "eval-without-no-grad": ("AMP031",),
    "eval-without-model-eval": ("AMP032",),
    "optional-none-dereference": ("NON001", "TRK003"),
    "unguarded-division": ("NUM001",),
    "bare-except": ("ERR001", "ERR003", "ERR006"),
    "cleanup-skipped": ("ERR012",),
    "swallowed-exception": ("ERR001", "ERR002", "ERR004", "ERR006"),
    "silent-import-error": ("ERR001", "ERR002", "ERR003"),
    "missing-timeout": ("ERR009",),
    "failure-by-none-unchecked": ("ERR008",),
    "scaler-not-in-checkpoint": ("CKP001", "CKP002"),
    "scaler-state-not-loaded": ("CKP001", "CKP002"),
    "scheduler-not-in-checkpoint": ("CKP003",),
    "torch-load-unsafe": ("CKP005",),
    "load-without-map-location": ("CKP006",),
    "non-atomic-checkpoint": ("CKP007",),
    "tracker-can-stop-training": ("TRK001", "TRK002"),
    "sync-in-hot-loop": ("SYN",),
}
SAME_FUNCTION = (
    "scaler-not-in-checkpoint",
    "scaler-state-not-loaded",
    "scheduler-not-in-checkpoint",
    "eval-without-no-grad",
    "eval-without-model-eval",
)
NEAR = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("faults", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    listed = json.loads(given.faults.read_text(encoding="utf-8"))
    faults = listed.get("faults") or [as_fault(item) for item in listed["positives"]]
    results = [judged(fault, given.folder) for fault in faults]
    found = sum(result["found"] for result in results)
    unclean = [r["id"] for r in results if r["fix"] == "still reported"]
    for result in results:
        state = "found " if result["found"] else "MISSED"
        print(f"{result['id']} {state} {result['kind']} {result['seen']} fix: {result['fix']}")
    print(f"{found} of {len(results)} found; fixes still reported: {unclean or 'none'}")
    for item in listed.get("negatives", ()):
        print(f"{item['id']} {baited(item, given.folder)}")
    if given.out:
        record = {"found": found, "of": len(results), "fixes_still_reported": unclean, "faults": results}
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def as_fault(item):
    """Return an item of the development set in the shape of the held-out list."""
    return {**item, "kind": item["rule"], "commit": item["bug_sha"], "fix_commit": item["fix_sha"]}


def findings_of(repo, commit, path, folder):
    """Return the findings of one file, with its repository around it, and the module; None where it is not there."""
    root = folder / f"{repo.replace('/', '+')}@{commit[:8]}"
    files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*.py"))}
    if path not in files:
        return None
    config = AuditConfig()
    module = Project(files, config).module(path)
    return None if module is None else (analyse(module, chosen_rules(config)).findings, module)


def judged(fault, folder):
    kinds = KINDS[fault["kind"]]
    seen = findings_of(fault["repo"], fault["commit"], fault["path"], folder)
    if seen is None:
        unread = {"found": False, "seen": [], "fix": "not asked", "note": "the file is not there or cannot be parsed"}
        return {"id": fault["id"], "kind": fault["kind"], **unread}
    findings, module = seen
    right = [f for f in findings if f.code.startswith(kinds)]
    hits = [f for f in right if near(f, fault["lines"]) or (fault["kind"] in SAME_FUNCTION and same(f, fault, module))]
    hits += [f for path, lines in further(fault) for f in hits_at(path, lines, fault, kinds, folder)]
    return {
        "id": fault["id"],
        "kind": fault["kind"],
        "found": bool(hits),
        "seen": [f"{f.code}:{f.line}" for f in hits],
        "fix": after_fix(fault, kinds, folder, right),
    }


def further(fault):
    """Return the further places of the same commit that a reviewer could equally point to, as (path, lines)."""
    also = fault.get("also", {})
    return also.items() if isinstance(also, dict) else [(place["path"], place["lines"]) for place in also]


def hits_at(path, lines, fault, kinds, folder):
    """Return the right findings at a further place."""
    seen = findings_of(fault["repo"], fault["commit"], path, folder)
    return [f for f in seen[0] if f.code.startswith(kinds) and near(f, lines)] if seen is not None else []


def after_fix(fault, kinds, folder, before):
    if not fault.get("fix_commit"):
        return "none known"
    seen = findings_of(fault["repo"], fault["fix_commit"], fault["path"], folder)
    if seen is None:
        return "file gone"
    left = [f for f in seen[0] if f.code.startswith(kinds)]
    return "clean" if len(left) < len(before) or not left else "still reported"


def near(finding, lines):
    return any(line - NEAR <= finding.line <= line + NEAR for line in lines)


def same(finding, fault, module):
    """Whether the finding's function (or the module level) holds a listed line."""
    functions = {module.tree.qualname(f): f for f in module.functions}
    function = functions.get(finding.scope)
    if function is None:
        return not finding.scope
    return inside(function, fault["lines"])


def inside(function, lines):
    return any(function.lineno <= line <= function.end_lineno for line in lines)


def baited(item, folder):
    seen = findings_of(item["repo"], item["sha"], item["path"], folder)
    if seen is None:
        return "file not there"
    kinds = KINDS[item["bait_rule"]]
    taken = [f for f in seen[0] if f.code.startswith(kinds) and f.severity >= 2 and near(f, item["lines"])]
    return f"taken: {[(f.code, f.line) for f in taken]}" if taken else "not taken"


if __name__ == "__main__":
    main()
