"""Comments that silence a rule where the reader knows better: `# ampguard: ignore[AMP001, bare-except]`.

A comment silences findings of the rules it names on its own line, or on any line of the statement whose header it
stands in. `# ampguard: ignore-file[CODE]` among the first ten lines silences them in the whole file. A comment that
silences nothing, names no rule, or names none at all is itself reported: what is silenced stays on purpose.
Comments are read by `tokenize`, so text in a string is none, and only in files that hold the word.
"""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ampguard.auditing.findings import Finding
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk
from ampguard.auditing.rules import Rule, rule_named

MARK = "ampguard:"
FILE_LINES = 10
"""An `ignore-file` stands in the first lines, where a reader looks for it."""

ACROSS = frozenset({"TST001"})
"""Codes of rules that are asked over all files together, when single files have had their say."""

_COMMENT = regex(r"#\s*ampguard:\s*(ignore(?:-file)?)\b\s*(?:\[([^\]]*)\])?")
_HEADED = (ast.stmt, ast.ExceptHandler, ast.match_case)


@dataclass
class Ignore:
    """One comment.

    Attributes:
        line: Where it stands.
        column: Where its `#` stands, from 1.
        whole_file: Whether it is an `ignore-file`.
        rules: What it names, with the rule, or None where there is none of that name.
        used: Names that silenced a finding.
    """

    line: int
    column: int
    whole_file: bool
    rules: dict[str, Rule | None]
    used: set[str] = field(default_factory=set)

    @property
    def bare(self) -> bool:
        """Whether it names nothing at all."""
        return not self.rules

    @property
    def misplaced(self) -> bool:
        """Whether it is an `ignore-file` too far down to count."""
        return self.whole_file and self.line > FILE_LINES


def ignores_in(module: Module) -> list[Ignore]:
    """Return the comments of a file that silence something, or mean to; none of them used yet."""
    return [replace(ignore, used=set()) for ignore in module.once("ignores", lambda: list(_comments(module)))]


def silence(module: Module, findings: Iterable[Finding], ignores: list[Ignore]) -> list[Finding]:
    """Return the findings that none of the comments silences, and mark the comments that silence one."""
    return [f for f in findings if not _silenced(f, ignores, module)] if ignores else list(findings)


def spans(module: Module, ignores: Iterable[Ignore], codes: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Return the code and lines of each comment that names one of these rules."""
    wanted = frozenset(codes)
    named = ((ignore, rule.code) for ignore in ignores for rule in ignore.rules.values() if rule is not None)
    return tuple(
        (code, *_lines_of(ignore, module)) for ignore, code in named if code in wanted and not ignore.misplaced
    )


def _silenced(finding: Finding, ignores: list[Ignore], module: Module) -> bool:
    hits = [(ignore, name) for ignore in ignores for name in _names(ignore, finding, module)]
    for ignore, name in hits:
        ignore.used.add(name)
    return bool(hits)


def _names(ignore: Ignore, finding: Finding, module: Module) -> list[str]:
    named = [name for name, rule in ignore.rules.items() if rule is not None and rule.code == finding.code]
    if not named or ignore.misplaced:
        return []
    first, last = _lines_of(ignore, module)
    return named if first <= finding.line <= last else []


def _lines_of(ignore: Ignore, module: Module) -> tuple[int, int]:
    if ignore.whole_file:
        return 1, len(module.lines)
    # A comment on a line of its own stands in no header: between `except:` and its body, above a statement.
    alone = module.lines[ignore.line - 1].lstrip().startswith("#")
    return (ignore.line, ignore.line) if alone else _covered(module, ignore.line)


def _covered(module: Module, line: int) -> tuple[int, int]:
    """Return the lines that a comment on `line` speaks for: the header of the innermost statement it stands in."""
    headers = module.once("headers", lambda: [_header(n) for n in walk(module.root) if isinstance(n, _HEADED)])
    around = [(first, last) for first, last in headers if first <= line <= last]
    return min(around, key=lambda span: span[1] - span[0], default=(line, line))


def _header(node: ast.AST) -> tuple[int, int]:
    """Return the lines of a statement before its body; all of them where it has none."""
    first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno  # type: ignore[attr-defined]
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        decorators = getattr(body[0], "decorator_list", None)
        start = decorators[0].lineno if decorators else body[0].lineno
        return first, max(first, start - 1)
    return first, getattr(node, "end_lineno", None) or first


def _comments(module: Module) -> Iterator[Ignore]:
    if MARK not in module.text:
        return
    for token in _tokens(module.text):
        if token.type == tokenize.COMMENT:
            for found in _COMMENT.finditer(token.string):
                names = [name.strip() for name in (found[2] or "").split(",") if name.strip()]
                column = token.start[1] + found.start() + 1
                whole_file = found[1] == "ignore-file"
                yield Ignore(token.start[0], column, whole_file, {name: rule_named(name) for name in names})


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """Walk the tokens as far as they go: what parses may still end in a way that `tokenize` minds."""
    try:
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return
