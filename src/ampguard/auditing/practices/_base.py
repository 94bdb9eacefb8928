"""What a good practice is: something that code does well, found as rules find faults. One file each, found by place."""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.reading.module import Module


class Practice(ABC):
    """One kind of good practice; the class docstring says what it is and why it is good.

    Class attributes:
        name: In kebab-case, "guarded-cuda-fallback".
        title: As the report prints it, "CUDA fallback".
        words: It is looked for only in files whose text holds one of these; () means every file.
        covers: Codes of findings that are not raised where it is credited.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    words: ClassVar[tuple[str, ...]] = ()
    covers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, module: Module) -> Iterable[GoodPractice]:
        """Yield what one file does well, in any order. Keeps no state between files."""

    def practice(self, module: Module, node: ast.AST, message: str, *, end: ast.AST | None = None) -> GoodPractice:
        """Return the practice at the node's lines."""
        line = getattr(node, "lineno", 1)
        return GoodPractice(
            name=self.name,
            path=module.path,
            line=line,
            end_line=getattr(end or node, "end_lineno", None) or line,
            message=message,
            covers=self.covers,
        )
