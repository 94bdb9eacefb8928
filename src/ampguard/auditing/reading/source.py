"""From a file's bytes to its text and tree, or to the reason why not.

Reads as Python does: a BOM and an encoding cookie count, UTF-8 otherwise. The cookies of packages that brought newer
syntax to older Pythons stand for UTF-8. Nothing is executed.
"""

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

_BACKPORTS = re.compile(rb"(?:.*\n)?[ \t\f]*#.*?coding[:=][ \t]*future[-_](?:fstrings|annotations)\b")
"""Cookies of `future-fstrings` and `future-annotations`: their codecs rewrite syntax that Python now has itself."""


class UnreadableError(Exception):
    """The file cannot be analysed; the message says why, without the path."""


@dataclass(frozen=True)
class Source:
    """The text of one file.

    Attributes:
        path: As reports name it: relative to where the audit started, with "/".
        text: The decoded text, every line end a line feed.
    """

    path: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Return the lines without their ends; line N of the file is item N - 1."""
        return self.text.split("\n")


def read(path: Path, name: str) -> Source:
    """Read one file.

    Args:
        path: Where it is.
        name: How reports name it.

    Raises:
        UnreadableError: It is not there, may not be read, is not a file, or is not text in its own encoding.
    """
    try:
        if not path.is_file():
            raise UnreadableError("is not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError((error.strerror or type(error).__name__).lower()) from error
    return Source(name, decode(data))


def decode(data: bytes) -> str:
    """Return the text of Python source bytes.

    Raises:
        UnreadableError: The bytes are not text in the encoding that they declare, or hold null bytes.
    """
    try:
        encoding = "utf-8-sig"
        if not _BACKPORTS.match(data):
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableError(f"is not text in its declared encoding: {_first_line(error)}") from error
    if "\0" in text:
        raise UnreadableError("holds null bytes: not Python source")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def parse(source: Source) -> ast.Module:
    """Return the syntax tree.

    Raises:
        UnreadableError: A syntax error (with its line), or nesting deeper than Python's parser takes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return ast.parse(source.text)
    except SyntaxError as error:
        raise UnreadableError(f"syntax error at line {error.lineno or '?'}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("is nested too deeply for Python's own parser") from error
    except ValueError as error:
        raise UnreadableError(f"cannot be parsed: {_first_line(error)}") from error


def lines_about(text: str, words: tuple[str, ...]) -> str:
    """Return the lines of a text that hold one of the words, which are lower case ASCII, in any case."""
    data = text.encode("utf-8", "replace")
    lower = data.lower()  # of bytes: ASCII alone, each for one, so that places are the same in both
    found: dict[int, int] = {}
    for word in words:
        sought, at = word.encode(), 0
        while (at := lower.find(sought, at)) >= 0:
            end = lower.find(b"\n", at)
            found[lower.rfind(b"\n", 0, at) + 1] = at = end if end >= 0 else len(lower)
    return b"\n".join([data[start : found[start]] for start in sorted(found)]).decode("utf-8", "replace")


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
