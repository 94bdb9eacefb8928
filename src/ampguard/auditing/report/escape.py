"""Text of unknown origin on a Markdown page: what code says must not become headings, tables, links or HTML."""

import re

_SPECIAL = re.compile(
    r"""[\\`*|~]             # always
    | (?<![^\W_])_ | _(?![^\W_])  # not inside a word
    | \](?=[(\[:]) | ^\[      # what makes a link, a reference or a box to tick
    | ^(?=[-+#=])             # what makes a list or a heading
    """,
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d{1,9})(?=[.)](\s|$))")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]")
"""Control characters, and those that turn the direction of text: they are written out."""


def prose(text: str) -> str:
    """Return text as one line of Markdown; what stands between backticks stays code, everything else is plain."""
    parts = _seen(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return _plain("`".join(parts))
    return "".join(code(part) if n % 2 else _plain(part) for n, part in enumerate(parts))


def cell(text: str) -> str:
    """Return text as a cell of a table: `prose`, with pipes kept from ending the cell inside code too."""
    return re.sub(r"(?<!\\)\|", r"\\|", prose(text)) or " "


def code(text: str) -> str:
    """Return text as code inside a line, whatever backticks it holds."""
    text = _seen(text)
    if not text.strip():
        return "``" if not text else f"`{text}`"
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def code_cell(text: str) -> str:
    """Return text as code inside a cell of a table."""
    return code(text).replace("|", r"\|")


def fenced(lines: list[str], language: str = "text") -> str:
    """Return lines as a block of code, with a fence that they cannot end."""
    body = "\n".join(_UNSEEN.sub(_written, line) for line in lines)
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def _plain(text: str) -> str:
    text = re.sub("[&<>]", lambda m: _HTML[m[0]], text)
    return _NUMBERED.sub(r"\1\\", _SPECIAL.sub(lambda m: f"\\{m[0]}", text))


def _seen(text: str) -> str:
    return _UNSEEN.sub(_written, " ".join(text.split()))


def _written(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
