"""Plant known faults in real training code and count what `ampguard audit` finds of them.

    python benchmarks/audit_plants.py FOLDER [--kind KIND] [--a-repository 2] [--most 60] [--missed] [--out FILE]

FOLDER holds exported repositories, one folder each. Files that hold a GradScaler, files that keep states, and files
of losses that one with a GradScaler names, are planted in, one fault a copy, at most so many files a repository and a
kind, drawn with a fixed seed. Found: a finding of the right kind within 3 lines of a place that a reviewer may point
to, which the file without the fault has not. No file is written.
"""

import argparse
import ast
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ampguard.auditing.analyse import analyse, chosen_rules
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source
from ampguard.auditing.rules._base import Rule
from audit_faults import KINDS
from plants import accumulation, amp, kept, losses, precision, schedules, state
from plants.edits import Page, Plant

PLANTERS = (
    *(*accumulation.PLANTERS, *amp.PLANTERS, *precision.PLANTERS, *schedules.PLANTERS),
    *(*state.PLANTERS, *kept.PLANTERS),
)
NEAR = 3
SEED = 20261126
CONFIG = AuditConfig()
RULES = chosen_rules(CONFIG)

Files = dict[str, Path | Source]
Told = set[tuple[str, int]]
"""Code and line of findings."""


def main() -> None:
    """Plant, audit, count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), metavar="KIND", help="only these kinds")
    parser.add_argument("--a-repository", type=int, default=2, help="files a repository and a kind")
    parser.add_argument("--most", type=int, default=60, help="plants a kind")
    parser.add_argument("--missed", action="store_true", help="name the places that were missed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = {code for kind in given.kind or KINDS for code in KINDS[kind]}
    rules = tuple(rule for rule in RULES if rule.code.startswith(tuple(asked)))
    found: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for root in shuffled(p for p in given.folder.iterdir() if p.is_dir()):
        files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*.py")) if p.is_file()}
        told: dict[str, Told] = {}
        for name, place, plant in plants_in(root, given, found):
            if name not in told:
                told[name] = told_in(files, name, rules)
            hit = is_found(files, name, plant, told[name], rules)
            found[plant.kind].append((hit, place))
            if given.missed and not hit:
                print(f"missed {plant.kind} {place}", flush=True)
    record: dict[str, dict[str, int]] = {}
    for kind, results in sorted(found.items()):
        record[kind] = {"found": sum(hit for hit, _ in results), "of": len(results)}
        print(f"{kind:40} {record[kind]['found']:4} of {record[kind]['of']:4}")
    print(f"{sum(r['found'] for r in record.values())} of {sum(r['of'] for r in record.values())}")
    if given.out:
        roots = sum(p.is_dir() for p in given.folder.iterdir())
        about = {"repositories": roots, "most_a_kind": given.most, "a_repository": given.a_repository, "seed": SEED}
        given.out.write_text(json.dumps({"about": about, "kinds": record}, indent=1) + "\n", encoding="utf-8")


def shuffled(items: Iterator[Path]) -> list[Path]:
    ordered = sorted(items)
    random.Random(SEED).shuffle(ordered)
    return ordered


def plants_in(
    root: Path, given: argparse.Namespace, found: dict[str, list[tuple[bool, str]]]
) -> Iterator[tuple[str, str, Plant]]:
    """Walk the plants of one repository: the file, its place in words, the plant."""
    done: dict[str, int] = defaultdict(int)
    for path in shuffled(p for p in root.rglob("*.py") if p.is_file()):
        text = path.read_text(encoding="utf-8", errors="replace")
        scales = "GradScaler" in text or "scaler" in text
        keeps = "state_dict(" in text
        if not scales and not keeps and not any(word in text for word in losses.WORDS):
            continue
        try:
            page = Page(text, ast.parse(text))
        except (SyntaxError, ValueError, RecursionError):
            continue
        name = path.relative_to(root).as_posix()
        others = (*(kept.PLANTERS if keeps else ()), *losses.planters(texts_in(root))) if not scales else ()
        for planter in PLANTERS if scales else others:
            for plant in planter(page):
                wanted = not given.kind or plant.kind in given.kind
                room = done[plant.kind] < given.a_repository and len(found[plant.kind]) < given.most
                if wanted and plant.lines and room:
                    done[plant.kind] += 1
                    yield name, f"{path}:{plant.lines[0]} {planter.__name__}", plant


def texts_in(root: Path) -> Iterator[str]:
    """Walk the texts of a repository."""
    return (p.read_text(encoding="utf-8", errors="replace") for p in sorted(root.rglob("*.py")) if p.is_file())


def is_found(files: Files, name: str, plant: Plant, before: Told, rules: tuple[Rule, ...]) -> bool:
    """Whether the planted fault is told, and was not before."""
    after = told_in({**files, name: Source(name, plant.text)}, name, rules)
    new = {line for code, line in after - before if code.startswith(KINDS[plant.kind])}
    return any(abs(told - line) <= NEAR for told in new for line in plant.lines)


def told_in(files: Files, name: str, rules: tuple[Rule, ...]) -> Told:
    """Return the code and line of each finding of a file."""
    module = Project(files, CONFIG).module(name)
    return set() if module is None else {(f.code, f.line) for f in analyse(module, rules).findings}


if __name__ == "__main__":
    main()
