"""Whether what the project calls by a name is called where gradients are off, however far above.

Files are read as text: the lines above a call whose indentation grows smaller are the blocks around it. A function
that holds a call is asked about in turn, by its name. A call of `trainer.predict` is one of `Trainer.predict`, and
none of another class's `predict`, where the project says so by its names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Function

_OFF = regex(r"no_grad|inference_mode|set_grad_enabled\(False|autograd\.grad_mode")
_DEFINES = regex(r"(?:async )?def (\w+)\(")
_OPENS = regex(r"(?:async )?with\b")
_HEADS = regex(r"(?:async )?with\b|@|import\b|from\b")
_DEPTH = 3
"""Functions followed upward from one call."""

_ANYONE = frozenset({"forward", "__call__", "__enter__", "__iter__", "__getitem__"})
"""Methods of networks that are run in ways that no text shows."""
_OF_ITS_FILE = frozenset(
    {"main", "run", "train", "fit", "step", "update", "process", "start", "evaluate", "eval", "test", "validate"}
)
"""Names that say too little to be looked for in other files."""


@dataclass(frozen=True)
class _Use:
    """One place where a name is used: its file, its object, whether gradients are off there, and what it stands in."""

    path: str
    owner: str
    off: bool
    function: str


def called_where_off(module: Module, function: Function) -> bool:
    """Whether the project calls a function, itself or through others, where gradients are off.

    Where its calls can be told from those of others by their object, most of them have to be.
    """
    cls = module.tree.class_of(function)
    project, path, name = module.project, module.path, function.name
    uses = _uses_in_reach(project, path, name)
    if cls is None:  # in its own file, `other.predict()` is another's method
        return _any_off(project, [use for use in uses if not use.owner or use.path != path], 0)
    own = [use for use in uses if _is_named_after(use.owner, cls.name)]
    if not own:
        return _called_off(project, path, name, 0)
    uses = [use for use in uses if use in own or (use.owner == "self" and use.path == path)]
    off = [use for use in uses if _is_off(project, use, 0)]
    return 2 * len(off) >= len(uses)


def _is_named_after(owner: str, cls: str) -> bool:
    """Whether an object bears part of the name of a class: `trainer`, of `Trainer`; `page_reader`, of `PageReader`."""
    return len(owner) > 2 and owner.replace("_", "").lower() in cls.lower()


def _called_off(project: Project, path: str, name: str, depth: int) -> bool:
    question = ("called where off", path, name, depth)
    if question not in project.memo:
        project.memo[question] = _any_off(project, _uses_in_reach(project, path, name), depth)
    return bool(project.memo[question])


def _any_off(project: Project, uses: list[_Use], depth: int) -> bool:
    """Whether gradients are off at one of some uses; what stands around them is asked first, and costs less."""
    return any(use.off for use in uses) or any(_is_off(project, use, depth) for use in uses)


def _is_off(project: Project, use: _Use, depth: int) -> bool:
    """Whether gradients are off where a name is used, or where the function is called that uses it."""
    if use.off or not use.function or depth >= _DEPTH:
        return use.off
    if use.function in _ANYONE and use.path in _holding(project, "Module)"):
        return True
    return _called_off(project, use.path, use.function, depth + 1)


def _uses_in_reach(project: Project, path: str, name: str) -> list[_Use]:
    """Return the uses of a name in its own file and in those that name this file, for one that says enough."""
    if name in _OF_ITS_FILE:
        return list(_uses_in(path, project.text(path), name, _asked_for(name)))
    stem = PurePosixPath(path).stem
    near = _holding(project, stem if stem != "__init__" else "")
    uses = _uses(project, name)
    return [use for use in uses if use.path == path or use.owner or use.path in near]


def _holding(project: Project, word: str) -> frozenset[str]:
    """Return the files that hold a word."""
    question = ("files holding", word)
    if question not in project.memo:
        project.memo[question] = frozenset(path for path, _ in project.texts(word))
    found: frozenset[str] = project.memo[question]
    return found


def _uses(project: Project, name: str) -> list[_Use]:
    question = ("uses", name)
    if question not in project.memo:
        asked, texts = _asked_for(name), project.texts(name)
        project.memo[question] = [use for path, text in texts for use in _uses_in(path, text, name, asked)]
    found: list[_Use] = project.memo[question]
    return found


def _asked_for(name: str) -> re.Pattern[str]:
    """Return what finds the uses of a name in a line, each with the last name of its object."""
    return re.compile(rf"(?:(\w+)(?:\(\)|\[[^\]\n]*\])?\.)?(?<![\w\"'])(?<!def ){re.escape(name)}\b(?!\s*=[^=])")


def _uses_in(path: str, text: str, name: str, asked: re.Pattern[str]) -> Iterator[_Use]:
    """Walk the uses of a name in a text that are no definitions or comments."""
    end, at = -1, text.find(name)
    while at >= 0:  # the pattern starts with what may stand before the name: slow to ask of every line
        first, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
        end = end if end >= 0 else len(text)
        line = text[first:end]
        for found in asked.finditer(line):
            before = line[: found.start()]
            if "#" in before or before.lstrip().startswith(("def ", "async def ", "class ")):
                continue
            off, function = _around(text, first, line)
            yield _Use(path, found[1] or "", off, function)
        at = text.find(name, end)


def _above(text: str, at: int) -> Iterator[tuple[int, str]]:
    """Walk the lines of a text above the one that begins at a place, the nearest first, each with its own place."""
    while at > 0:
        first = text.rfind("\n", 0, at - 1) + 1
        yield first, text[first : at - 1]
        at = first


def _around(text: str, at: int, used: str) -> tuple[bool, str]:
    """Return whether a line stands where gradients are off, and the function that it stands in, "" for none."""
    width = _width(used)
    off = bool(_OPENS.match(used.lstrip()) and _OFF.search(used))
    for first, line in _above(text, at):
        start = line.lstrip()
        if not start or start[0] in "#)]}":
            continue
        own = _width(line)
        if own <= width and _OFF.search(start) and not _HEADS.match(start):
            off = True  # `torch.set_grad_enabled(False)` for the lines below
        if own >= width:
            continue
        width = own
        off = off or bool(_OFF.search(start))
        named = _DEFINES.match(start)
        if named:
            return off or _decorated_off(text, first), named[1]
    return off, ""


def _decorated_off(text: str, at: int) -> bool:
    """Whether a decorator right above the line of a definition switches gradients off."""
    for _, line in _above(text, at):
        start = line.lstrip()
        if not start.startswith("@"):
            return False
        if _OFF.search(start):
            return True
    return False


def _width(line: str) -> int:
    return len(line) - len(line.lstrip())
