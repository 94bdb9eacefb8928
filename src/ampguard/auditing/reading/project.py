"""The files of an audit, found by dotted name when an import is followed.

A worker reads a file of the project when the analysis of another one asks for it, and keeps it. What a file
says does not depend on who asks, so results are the same for any number of workers and any order of files.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.source import Source, UnreadableError, read

if TYPE_CHECKING:
    from ampguard.auditing.config import AuditConfig
    from ampguard.auditing.reading.tree import Function

_KEPT = 64
"""Modules kept in memory besides the one at hand. Chosen: a syntax tree takes some 100 times its text."""

_TEXTS = 64_000_000
"""Characters of texts kept for questions about all files. Chosen: more than all but the largest projects have."""

_DEFINED = regex(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)

_FOLLOWED = 4
"""Re-exports followed from one import."""


class Project:
    """The files that imports may lead to.

    Args:
        files: Each file's name in reports, and where it is, or its text where it lies nowhere (stdin).
        config: The audit's options.
    """

    def __init__(self, files: Mapping[str, Path | Source], config: "AuditConfig") -> None:
        self.files = files
        self.config = config
        self._packages = {name.rpartition("/")[0] for name in files if name.rpartition("/")[2] == "__init__.py"}
        self._dotted_of: dict[str, str] = {}
        self._by_dotted: dict[str, str] = {}
        for name in files:
            self._by_dotted.setdefault(self.dotted(name), name)
        self._kept: dict[str, Module | None] = {}
        self._texts: dict[str, str] = {}
        self._room = _TEXTS
        self._found: dict[tuple[str, str], str | None] = {}
        self._holds: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._defined: dict[tuple[str, ...], frozenset[str]] = {}
        self.memo: dict[Any, Any] = {}  # what has been worked out once about the project, by question

    def dotted(self, name: str) -> str:
        """Return the dotted name of a file: the folders around it that are packages, then its own name."""
        if name not in self._dotted_of:
            self._dotted_of[name] = self._dotted(name)
        return self._dotted_of[name]

    def _dotted(self, name: str) -> str:
        folder, _, file = name.rpartition("/")
        parts = [] if file == "__init__.py" else [file.rpartition(".")[0]]
        while folder and folder in self._packages:  # the folder audited may be a package itself: "" ends it
            folder, _, last = folder.rpartition("/")
            parts.insert(0, last)
        return ".".join(parts)

    def package(self, name: str) -> str:
        """Return the dotted package that a file's relative imports start from."""
        dotted = self.dotted(name)
        return dotted if Path(name).name == "__init__.py" else dotted.rpartition(".")[0]

    def module(self, name: str) -> Module | None:
        """Return the file of that name in reports, parsed; None where it cannot be read."""
        if name in self._kept:
            self._kept[name] = self._kept.pop(name)  # the one used longest ago stands first, and goes first
            return self._kept[name]
        if len(self._kept) >= _KEPT:
            oldest = self._kept.pop(next(iter(self._kept)))
            if oldest is not None:
                oldest.forget()
        try:
            self._kept[name] = self._parsed(name)
        except UnreadableError:
            self._kept[name] = None
        return self._kept[name]

    def let_go(self, name: str) -> None:
        """Forget a file that has been analysed: the next one is parsed into the memory that it leaves warm."""
        module = self._kept.pop(name, None)
        if module is not None:
            module.forget()

    def _parsed(self, name: str) -> Module:
        place, text = self.files[name], self._texts.get(name)
        if text:
            place = Source(name, text)
        source = place if isinstance(place, Source) else read(place, name)
        return Module(source, self.package(name), self, self.config)

    def why_unreadable(self, name: str) -> str:
        """Return the reason for which `module` gives None."""
        try:
            self._parsed(name)
        except UnreadableError as error:
            return str(error)
        return ""

    def find(self, dotted: str, near: str) -> str | None:
        """Return the name of the file that holds the dotted module, seen from the file `near`.

        A file beside `near` comes first (scripts import their neighbours), then the project's packages, then a
        package under a folder that is no package itself (`src/`).
        """
        asked = (dotted, near.rpartition("/")[0])
        if asked not in self._found:
            self._found[asked] = self._find(dotted, near)
        return self._found[asked]

    def holds(self, name: str, words: tuple[str, ...]) -> bool:
        """Whether a file's text holds one of the words, found out without parsing it; True for a package's own file."""
        asked = (name, words)
        if asked not in self._holds:
            self._holds[asked] = name.endswith("__init__.py") or self._mentions(name, words)
        return self._holds[asked]

    def defined_where(self, words: tuple[str, ...]) -> frozenset[str]:
        """Return the names of functions and classes defined in files that hold one of the words, without parsing."""
        if words not in self._defined:
            texts = (self.text(name) for name in self.files)
            held = (text for text in texts if any(word in text for word in words))
            self._defined[words] = frozenset(name for text in held for name in _DEFINED.findall(text))
        return self._defined[words]

    def says(self, pattern: re.Pattern[str], *words: str) -> bool:
        """Whether a pattern is found in the text of any file that is no test.

        Args:
            pattern: What is searched for.
            *words: The pattern is found only in files that hold one of these. A project is read through for them once,
                so questions about the same things give the same words.
        """
        question = ("says", pattern)
        if question not in self.memo:
            self.memo[question] = any(pattern.search(text) for name, text in self.texts(*words) if "test" not in name)
        return bool(self.memo[question])

    def texts(self, *words: str) -> Iterator[tuple[str, str]]:
        """Walk the names and texts of the files, or of those alone that hold one of these words, without parsing."""
        question = ("holding", words)
        if words and question not in self.memo:
            self.memo[question] = [name for name in self.files if self._mentions(name, words)]
        return ((name, self.text(name)) for name in (self.memo[question] if words else self.files))

    def _mentions(self, name: str, words: tuple[str, ...]) -> bool:
        text = self._texts.get(name)
        if text is None:
            text = self.text(name)
        for word in words:  # asked of all files of a project, some ten times  # noqa: SIM110
            if word in text:
                return True
        return False

    def text(self, name: str) -> str:
        """Return a file's text, "" where it cannot be read."""
        kept = self._kept.get(name)
        if kept is not None:
            return kept.text
        if name not in self._texts:
            text = self._read(name)
            if self._room < len(text):
                return text
            self._room -= len(text)
            self._texts[name] = text
        return self._texts[name]

    def _read(self, name: str) -> str:
        place = self.files[name]
        try:
            return (place if isinstance(place, Source) else read(place, name)).text
        except UnreadableError:
            return ""

    def _find(self, dotted: str, near: str) -> str | None:
        parts = dotted.split(".")
        beside = Path(near).parent
        for candidate in (beside.joinpath(*parts).with_suffix(".py"), beside.joinpath(*parts, "__init__.py")):
            if parts != [""] and candidate.as_posix() in self.files:
                return candidate.as_posix()
        if dotted in self._by_dotted:
            return self._by_dotted[dotted]
        top = near.split("/")[0]
        for base in ("", top):
            for tail in ((*parts[:-1], f"{parts[-1]}.py"), (*parts, "__init__.py")):
                candidate = Path(base, *tail)
                if candidate.as_posix() in self.files:
                    return candidate.as_posix()
        return None

    def definition(
        self, dotted: str, near: str, *, words: tuple[str, ...] = (), followed: int = 0
    ) -> "tuple[Module, Function | ast.ClassDef] | None":
        """Return the function or class of the project that a dotted name leads to, through re-exports.

        Methods are named after their class: "pkg.module.Class.method". With `words`, only files that hold one of them
        are read for it.
        """
        parts = dotted.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            name = self.find(".".join(parts[:cut]), near)
            if not name or name == near:
                continue
            module = self.module(name) if not words or self.holds(name, words) else None
            return _defined(module, parts[cut:], words, followed) if module is not None else None
        return None


def _defined(
    module: Module, parts: list[str], words: tuple[str, ...], followed: int
) -> "tuple[Module, Function | ast.ClassDef] | None":
    scope: ast.Module | ast.ClassDef = module.root
    for position, part in enumerate(parts):
        bound = module.names.bindings_in(scope).get(part)
        if not bound:
            return None
        last = bound[-1]
        if last.kind == "import" and followed < _FOLLOWED:
            rest = ".".join([last.dotted, *parts[position + 1 :]])
            return module.project.definition(rest, module.path, words=words, followed=followed + 1)
        if isinstance(last.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return (module, last.node) if position == len(parts) - 1 else None
        if not isinstance(last.node, ast.ClassDef):
            return None
        scope = last.node
    return (module, scope) if isinstance(scope, ast.ClassDef) else None
