"""Write the page of every audit rule under docs/rules/, from the rules themselves, and an example of a report.

Run it with `make rule-pages`. A page that no rule stands behind any more is removed. The report, docs/audit-example.md,
is that of the training utilities under tests/auditing/seed/before. `--check` writes nothing and exits with 1 where a
page differs.
"""

import argparse
import sys
from contextlib import chdir
from pathlib import Path

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.report.explain import file_of, index, page
from ampguard.auditing.report.markdown import render_markdown
from ampguard.auditing.rules import all_rules
from ampguard.auditing.run import audit

FOLDER = Path(__file__).parents[1] / "docs" / "rules"
INDEX = "README.md"
SEED = Path(__file__).parents[1] / "tests" / "auditing" / "seed" / "before"
EXAMPLE = Path(__file__).parents[1] / "docs" / "audit-example.md"
NO_RUN = "<!-- no-run -->"
"""Tells the test of the documentation that an example is not run: half of them are faults on purpose."""


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    written = {file_of(rule): _marked(page(rule)) for rule in all_rules()}
    return {INDEX: index(), **written}


def example() -> str:
    """Return the report of the training utilities that the tests audit."""
    with chdir(SEED):
        return render_markdown(audit(".", config=AuditConfig()))


def differences() -> list[str]:
    """Return the file names that are missing, differ, or stand for no rule."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write() -> list[str]:
    """Write what differs; return the file names that were written or removed."""
    wanted, changed = pages(), differences()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return changed


def _marked(text: str) -> str:
    return text.replace("```python\n", f"{NO_RUN}\n```python\n")


def main() -> int:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page differs")
    check = parser.parse_args().check
    changed = differences() if check else write()
    for name in changed:
        print(f"{'differs' if check else 'written'}: docs/rules/{name}")
    if not check:
        EXAMPLE.write_text(example(), encoding="utf-8")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
