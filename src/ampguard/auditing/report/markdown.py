"""The report as a Markdown page: what the seed of this project was written by hand, generated.

Everything on it comes from the report: findings, good practices, facts, criteria. Code is quoted from the files as they
are when the page is written. The templates hold the words; `sections.py` works out what they are about.
"""

from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined

from ampguard.auditing.outcome import AuditReport
from ampguard.auditing.report import escape
from ampguard.auditing.report.excerpts import Excerpts, places
from ampguard.auditing.report.sections import Page


def render_markdown(report: AuditReport) -> str:
    """Return the report as Markdown (GitHub's dialect, for its tables).

    Args:
        report: What `ampguard.audit` returned.
    """
    text = _environment(Excerpts(report)).get_template("audit.md.j2").render(page=Page(report), report=report)
    return "\n".join(_tidy(text.strip().split("\n"))) + "\n"


def _tidy(lines: list[str]) -> Iterator[str]:
    """Yield the lines without trailing blanks, and of several empty ones the first; blocks of code as they are."""
    fence, last = "", ""
    for line in lines:
        ticks = line[: len(line) - len(line.lstrip("`"))]
        outside = not fence
        if outside and len(ticks) >= 3 and "`" not in line[len(ticks) :]:
            fence = ticks
        elif line == fence:
            fence = ""
        kept = line.rstrip() if outside else line
        if kept or last or not outside:
            yield kept
        last = kept


def _environment(excerpts: Excerpts) -> Environment:
    environment = Environment(
        loader=PackageLoader("ampguard.auditing.report"),
        autoescape=False,  # the page is Markdown: every text of unknown origin goes through the filters below
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        prose=escape.prose,
        cell=escape.cell,
        code=escape.code,
        code_cell=escape.code_cell,
        fenced=escape.fenced,
        places=lambda found: places((f.path, f.line) for f in found),
    )
    environment.globals.update(excerpts=excerpts)
    return environment
