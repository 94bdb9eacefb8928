"""The README and the pages under docs/ tell the truth: their Python runs, and their links lead somewhere.

The ```python blocks of one file run in order in one namespace, in an interpreter and an empty folder of their own.
They are laid out as one script in which every other line of the page is blank, so that a traceback names the line
of the page. `<!-- no-run -->` on the line before a block leaves it out: for fragments that need the reader's code.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dev/LOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RUN_BLOCKS_IN_README = 2
"""At least: the own loop with `Guard`, and `train`."""

FENCE = re.compile(r" *(```+|~~~+)")
PYTHON = re.compile(r" *```+ *python\s*$")
NO_RUN = "<!-- no-run -->"
LINK = re.compile(r"\[[^\]]*\]\(<?([^)>\s]+)>?[^)]*\)|^\[[^\]]+\]: *<?(\S+?)>?$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#")
CODE_SPAN = re.compile(r"`[^`\n]*`")


def split(page: str) -> tuple[list[str], list[list[tuple[int, str]]]]:
    """Part a page into its prose and the Python blocks to run, each block as (line index, line without indent).

    Returns:
        The prose lines, and the blocks. Blocks in another language and those marked no-run are in neither.
    """
    prose: list[str] = []
    blocks: list[list[tuple[int, str]]] = []
    block: list[tuple[int, str]] | None = None
    fence, indent = "", 0
    for index, line in enumerate(page.splitlines()):
        if block is None and (opening := FENCE.match(line)):
            fence, indent, block = opening[1], len(line) - len(line.lstrip()), []
            before = next((text for text in reversed(prose) if text.strip()), "")
            if PYTHON.match(line) and before.strip() != NO_RUN:
                blocks.append(block)
            prose.append(line)
        elif block is None:
            prose.append(line)
        elif line.strip() == fence:
            block = None
        else:
            block.append((index, line[indent:]))
    return prose, blocks


def script_of(page: str) -> str:
    """Return the page as a script: run blocks in their lines, everything else blank."""
    lines = [""] * len(page.splitlines())
    for block in split(page)[1]:
        for index, line in block:
            lines[index] = line
    return "\n".join(lines) + "\n"


def run_page(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the blocks of a page in an empty folder; the return code says whether one of them raised."""
    script = folder / f"{page.stem}.py"
    script.write_text(script_of(page.read_text(encoding="utf-8")), encoding="utf-8")
    work = folder / "work"
    work.mkdir()
    return subprocess.run([sys.executable, script], cwd=work, capture_output=True, text=True, check=False, timeout=240)


def broken_links(page: Path, root: Path) -> list[str]:
    """Return the relative links of a page that lead to no file inside `root`."""
    prose = CODE_SPAN.sub("", "\n".join(split(page.read_text(encoding="utf-8"))[0]))
    targets = [inline or reference for inline, reference in LINK.findall(prose)]
    relative = [target.partition("#")[0] for target in targets if not ELSEWHERE.match(target)]
    places = {target: (page.parent / target).resolve() for target in relative}
    return [target for target, place in places.items() if not (place.exists() and place.is_relative_to(root))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if split(page.read_text(encoding="utf-8"))[1]], ids=name_of)
def test_python_of_a_page_runs(page, tmp_path):
    done = run_page(page, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_to_a_file(page):
    assert broken_links(page, ROOT) == []


def test_readme_shows_python_that_runs():
    blocks = split((ROOT / "README.md").read_text(encoding="utf-8"))[1]
    assert len(blocks) >= RUN_BLOCKS_IN_README


PAGE = """# A page
```python
x = 1
```
Later:

1. In a list:
   ```python
   if x:
       print(x + 1)
   ```
<!-- no-run -->
```python
raise RuntimeError("left out")
```
```sh
exit 1
```
"""


def test_blocks_of_a_page_share_a_namespace_and_run_in_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    done = run_page(page, tmp_path)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_a_block_that_raises_fails_and_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE + "```python\nx.no_such_name\n```\n")
    done = run_page(page, tmp_path)
    assert done.returncode != 0
    assert f"line {len(PAGE.splitlines()) + 2}" in done.stderr


def test_a_link_to_nowhere_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "[here](page.md#part) [out](https://example.org/x) [part](#part) `[code](a.md)`\n"
        "[gone](gone.md) ![gone](i.png) [above](../page.md)\n```sh\n[not a link](b.md)\n```\n[reference]: lost.md\n"
    )
    assert broken_links(page, tmp_path) == ["gone.md", "i.png", "../page.md", "lost.md"]
