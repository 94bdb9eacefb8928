"""Packages that a failed import leaves None, and that functions use under another question.

`try: from apex import amp`, `except ImportError: amp = None`, and then `if level != "O0": amp.state_dict()`: whether
the package is there is asked nowhere in the project.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import is_none_literal

_FAILED = regex(r"^except\b[^\n]*:[^\n]*\n(?:[ \t]+[^\n]*\n){0,3}?[ \t]+\w+[\w =]*=[ \t]*None\b", re.MULTILINE)
"""A file whose text has no such handler leaves no package None."""

_EXTRAS = regex(
    r"amp|apex|wandb|mlflow|swanlab|neptune|comet_ml|clearml|SummaryWriter|tensorboard|tb|hvd|horovod|deepspeed|bnb"
    r"|bitsandbytes|xm|xmp|thop|tensorboardX|profiler|torchinfo|visdom|optuna|ray|tune|nni"
)
"""What a training can do without, by the usual names: other packages are what a file is about."""


def uses_of_missing_packages(module: Module) -> Iterator[Use]:
    """Walk the first use of each such package in a function of a file."""
    if not _FAILED.search(module.text):
        return
    for name, origin in _left_none(module):
        if _is_asked(module, name):
            continue
        uses = (n for n in module.tree.all(ast.Attribute) if isinstance(n.value, ast.Name) and n.value.id == name)
        for use in sorted(uses, key=lambda n: n.lineno):
            if module.tree.function(use) is not None and not _is_looked_after(module, use, name):
                yield Use(name, use, origin)
                break


def _left_none(module: Module) -> Iterator[tuple[str, ast.AST]]:
    """Walk the names that a `try` at the top of the file imports and its handler leaves None."""
    for attempt in (s for s in module.root.body if isinstance(s, ast.Try)):
        imported = {
            (alias.asname or alias.name).partition(".")[0]
            for s in attempt.body
            if isinstance(s, ast.Import | ast.ImportFrom)
            for alias in s.names
        }
        others = [s for s in attempt.body if not isinstance(s, ast.Import | ast.ImportFrom | ast.Expr)]
        for handler in attempt.handlers if not others else ():
            flags = [s for s in handler.body if isinstance(s, ast.Assign) and not is_none_literal(s.value)]
            for s in handler.body if not flags else ():  # a flag beside it is what is asked
                for bound in s.targets if isinstance(s, ast.Assign) else ():
                    if isinstance(bound, ast.Name) and bound.id in imported and _EXTRAS.fullmatch(bound.id):
                        yield bound.id, s


def _is_asked(module: Module, name: str) -> bool:
    """Whether the project asks anywhere, outside of a comment, whether the package is there."""
    asks = re.compile(
        rf"^[^#\n]*(\b{name} is (not )?None"
        rf"|\b(if|and|or|not|assert|elif)\s+\(?(\w+\.)?{name}\s*(:|,|\)|\band\b|\bor\b|$)"
        rf"|\bbool\({name}\)|\bNone (not )?in \(|\b{name} [!=]= None|find_spec\([\"']{name})",
        re.MULTILINE,
    )
    if asks.search(module.text):
        return True
    question = ("asks for a package", name)
    if question not in module.project.memo:
        texts = (text for path, text in module.project.texts() if "test" not in path and name in text)
        module.project.memo[question] = any(asks.search(text) for text in texts)
    return bool(module.project.memo[question])


def _is_looked_after(module: Module, use: ast.AST, name: str) -> bool:
    """Whether no option stands around a use, or it speaks of the package, as a function may; or a handler does."""
    function = module.tree.function(use)
    if any(True for _ in module.tree.handlers_around(use)) or name in getattr(function, "name", "").lower():
        return True
    if any(d for d in getattr(function, "decorator_list", ()) if re.search("require|skip", ast.unparse(d))):
        return True
    tests = [above.test for above in module.tree.above(use) if isinstance(above, ast.If | ast.IfExp)]
    if not tests:  # a file that always needs it fails at its first call, and says so
        return True
    spoken = re.compile(rf"\b{name}\b|(has|is|available|installed|use)_?\w*{name}|{name}\w*(available|installed)", re.I)
    return any(spoken.search(ast.unparse(test)) for test in tests)
