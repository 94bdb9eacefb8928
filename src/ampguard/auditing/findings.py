"""What the analyser says: findings, good practices and files that could not be read.

Plain values: a worker process sends them back, the decision counts them, the pages print them. Paths are
relative to where the audit was started, with forward slashes; lines and columns count from 1.
"""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad a finding is; greater is worse. The names stand in the JSON in lower case."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, name: str) -> "Severity":
        """Return the severity of that name, in any case.

        Raises:
            KeyError: There is no such severity.
        """
        return cls[name.upper()]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Lines that would mend a finding: what the report shows as a diff, and a later `--fix` would apply."""

    first_line: int
    """The first line to replace, from 1."""
    last_line: int
    """The last line to replace; one less than `first_line` inserts before it."""
    lines: tuple[str, ...]
    """What stands there instead, with its indentation and without line ends."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault at one place."""

    code: str
    name: str
    severity: Severity
    likelihood: str
    """How likely the fault bites: "certain", "likely", "possible" or "unlikely"."""
    path: str
    line: int
    column: int
    end_line: int
    message: str
    """What is wrong here, with the names of this code."""
    impact: str
    """What it does to the one who runs the code."""
    risk: str
    """What mending it could break, and how important the place is."""
    fix: str
    """What to write instead, as a sentence."""
    edit: Edit | None = None
    scope: str = ""
    """The qualified name of the function around it, "" at module level."""
    critical_path: bool = False
    """Whether the place lies on the path of a training step or of a checkpoint."""

    @property
    def fixable(self) -> bool:
        """Whether the finding carries the lines that would mend it."""
        return self.edit is not None

    @property
    def order(self) -> tuple[str, int, int, str]:
        """Return what findings are sorted by: place, then code."""
        return (self.path, self.line, self.column, self.code)


@dataclass(frozen=True, kw_only=True)
class GoodPractice:
    """One thing that the code does well."""

    name: str
    """The kind of practice: "guarded-cuda-fallback", "tracker-isolation", ..."""
    path: str
    line: int
    end_line: int
    message: str
    """What is done well, with the names of this code."""
    covers: tuple[str, ...] = ()
    """Codes of findings that are not raised on these lines, because this is the right way there."""

    @property
    def order(self) -> tuple[str, int, str]:
        """Return what practices are sorted by."""
        return (self.path, self.line, self.name)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A file that could not be analysed, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the report tells of one file beside its findings."""

    path: str
    lines: int
    role: str
    """"library", "test", "benchmark" or "example"."""
    try_blocks: int = 0
    handlers_logged: int = 0
    """Handlers that tell what they caught: log, print, warn or raise."""
    handlers_silent: int = 0
    bare_excepts: int = 0
    broad_excepts: int = 0
    empty_handlers: tuple[int, ...] = ()
    """Lines of handlers of any exception that do nothing at all, and leave no trace of it."""
    facts: tuple[tuple[str, str], ...] = ()
    """Further facts as (name, detail with lines), for the pages and the criteria: see `facts.py`."""


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """All that the analysis of one file gives."""

    facts: FileFacts
    findings: tuple[Finding, ...] = ()
    practices: tuple[GoodPractice, ...] = ()
    silenced: tuple[tuple[str, int, int], ...] = ()
    """Code, first and last line for which a comment silences a rule that is asked over all files together."""
