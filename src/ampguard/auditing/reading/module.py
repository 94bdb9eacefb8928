"""One file as rules see it: text, tree, names, its part in the project, and what has been worked out once.

Everything that costs is made when first asked for, so that a file that no rule is interested in is only parsed.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ampguard.auditing.findings import Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.names import Names
from ampguard.auditing.reading.source import Source, lines_about, parse
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Tree, called
from ampguard.auditing.reading.words import Words

if TYPE_CHECKING:
    from ampguard.auditing.config import AuditConfig
    from ampguard.auditing.reading.project import Project

T = TypeVar("T")

_ROLES = (
    ("test", regex(r"(^|/)(tests?|testing)/|(^|/)conftest\.py$")),
    (
        "benchmark",
        regex(r"(^|/)(benchmarks?|bench|profiling)/|(^|/)(bench(mark)?_[^/]*|[^/]*_bench(mark)?)\.py$"),
    ),
    ("example", regex(r"(^|/)(examples?|tutorials?|docs?|demos?)/")),
)
_TEST_FILE = regex(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
_HOLDS_TESTS = regex(
    r"^\s*(async )?def test_|^class \w*Test|^\s*(import|from) (pytest|unittest|absl\.testing)\b", re.MULTILINE
)
"""What a file of tests holds; a script that evaluates a model is called `test_net.py` as well, and holds none."""


class Module:
    """One parsed file.

    Args:
        source: Its text.
        package: The dotted package that its relative imports start from, "" where it stands alone.
        project: The files around it, through which imports are followed.
        config: The audit's options.

    Raises:
        UnreadableError: The text does not parse.
    """

    def __init__(self, source: Source, package: str, project: "Project", config: "AuditConfig") -> None:
        self.source = source
        self.path = source.path
        self.text = source.text
        self.package = package
        self.project = project
        self.config = config
        self.root = parse(source)
        self._memo: dict[Any, Any] = {}

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines of the file; line N is item N - 1."""
        return self.source.lines

    @cached_property
    def _words(self) -> Words:
        return Words(self.text)

    @cached_property
    def tree(self) -> Tree:
        """Return the indexed tree."""
        return Tree(self.root)

    @cached_property
    def names(self) -> Names:
        """Return the names of the file."""
        return Names(self.tree, self.package)

    @cached_property
    def role(self) -> str:
        """Return what the file is for: "test", "benchmark", "example" or "library"."""
        if _TEST_FILE.search(self.path) and _HOLDS_TESTS.search(self.text):
            return "test"
        return next((role for role, pattern in _ROLES if pattern.search(self.path)), "library")

    @cached_property
    def functions(self) -> list[Function]:
        """Return every function and method, nested ones too, in source order."""
        return sorted(self.tree.all(*FUNCTIONS), key=lambda f: f.lineno)

    @cached_property
    def function_names(self) -> frozenset[str]:
        """Return the names of every function and method."""
        return frozenset(function.name for function in self.functions)

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """Return every call by the last name of what is called, in source order."""
        found: dict[str, list[ast.Call]] = {}
        for node in self.tree.all(ast.Call):
            found.setdefault(called(node), []).append(node)
        return found

    def calls_of(self, *names: str) -> Iterator[ast.Call]:
        """Walk the calls whose last name is one of these."""
        for name in names:
            yield from self.calls.get(name, ())

    def mentions(self, words: Iterable[str]) -> bool:
        """Whether one of the words occurs anywhere in the text."""
        return self._words.hold_any(words)

    def about(self, *words: str) -> str:
        """Return the lines that hold one of the words, which are lower case, in any case.

        A pattern that can only match in such lines is searched for there: over a whole file it may take as long as
        parsing it.
        """
        return self.once(("about", words), lambda: lines_about(self.text, words))

    def text_of(self, scope: ast.AST) -> str:
        """Return the lines of a function, a class or a loop; of the whole file where it is the module."""
        first, last = getattr(scope, "lineno", 1), getattr(scope, "end_lineno", None)
        return "\n".join(self.lines[first - 1 : last])

    def once(self, question: Any, answer: Callable[[], T]) -> T:
        """Return what `answer` gave the first time this `question` (any hashable) was asked of the file."""
        if question not in self._memo:
            self._memo[question] = answer()
        value: T = self._memo[question]
        return value

    def forget(self) -> None:
        """Drop what has been worked out; it is worked out anew where it is asked for again.

        Answers lead back to their file, and only that keeps a file in memory that nobody reads any more.
        """
        self._memo.clear()

    def segment(self, node: ast.AST, limit: int = 60) -> str:
        """Return the node's source on one line, shortened: for messages."""
        text = " ".join(ast.unparse(node).split())
        return text if len(text) <= limit else text[: limit - 3] + "..."

    def lowered(self, severity: Severity) -> Severity:
        """Return the severity that a finding has in a file of this role: at most low in tests and benchmarks."""
        return min(severity, Severity.LOW) if self.role in ("test", "benchmark") else severity
