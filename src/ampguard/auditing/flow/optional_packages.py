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
from ampguard.auditing.reading.tree import called, is_none_literal, key

_FAILED = regex(r"^except\b[^\n]*:[^\n]*\n(?:[ \t]+[^\n]*\n){0,3}?[ \t]+\w+[\w =]*=[ \t]*None\b", re.MULTILINE)
"""A file whose text has no such handler leaves no package None."""

_EXTRAS = regex(
    r"amp|apex|wandb|mlflow|swanlab|neptune|comet_ml|clearml|SummaryWriter|tensorboard|tb|hvd|horovod|deepspeed|bnb"
    r"|bitsandbytes|xm|xmp|thop|tensorboardX|profiler|torchinfo|visdom|optuna|ray|tune|nni"
)
"""What a training can do without, by the usual names: other packages are what a file is about."""


def uses_of_missing_packages(module: Module) -> Iterator[Use]:
    """Walk the first use of each such package in a function of a file."""
    if "\nexcept" not in module.text or not _FAILED.search(module.text):
        return
    for name, origin in _left_none(module):
        if _asks(name).search(module.text):
            continue
        uses = [n for n in module.tree.all(ast.Attribute) if isinstance(n.value, ast.Name) and n.value.id == name]
        known = _EXTRAS.fullmatch(name) is not None and not _is_asked(module, name)
        for use in sorted(uses, key=lambda n: n.lineno):
            if module.tree.function(use) is None or not (known or _tells_kinds(module, use)):
                continue
            if not _is_looked_after(module, use, name):
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
                    if isinstance(bound, ast.Name) and bound.id in imported:
                        yield bound.id, s


def _asks(name: str) -> re.Pattern[str]:
    """Return what asks, outside of a comment, whether a package is there."""
    return re.compile(
        rf"^[^#\n]*(\b{name} is (not )?None"
        rf"|\b(if|and|or|not|assert|elif)\s+\(?(\w+\.)?{name}\s*(:|,|\)|\band\b|\bor\b|$)"
        rf"|\bbool\({name}\)|\bNone (not )?in \(|\b{name} [!=]= None|find_spec\([\"']{name})",
        re.MULTILINE,
    )


def _is_asked(module: Module, name: str) -> bool:
    """Whether any other file of the project asks whether the package is there."""
    asks = _asks(name)
    question = ("asks for a package", name)
    if question not in module.project.memo:
        texts = (text for path, text in module.project.texts() if "test" not in path and name in text)
        module.project.memo[question] = any(asks.search(text) for text in texts)
    return bool(module.project.memo[question])


def _tells_kinds(module: Module, use: ast.AST) -> bool:
    """Whether a use only tells what kind an object is: with the package or without it, `isinstance(x, package.Kind)`.

    Also where the kinds are named first: `kinds = (package.A, package.B)`, then `isinstance(x, kinds)`.
    """
    statement = module.tree.statement(use)
    above = next((at for at in module.tree.above(use) if isinstance(at, ast.Call)), None)
    if above is not None and module.tree.inside(above, statement):
        return called(above) == "isinstance" and not module.tree.inside(use, above.args[0])
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Tuple | ast.Attribute):
        return False
    name, function = key(statement.targets[0]), module.tree.function(use)
    return any(
        len(call.args) == 2 and key(call.args[1]) == name and module.tree.function(call) is function
        for call in module.calls_of("isinstance")
    )


def _is_looked_after(module: Module, use: ast.AST, name: str) -> bool:
    """Whether no option stands around a use, or it speaks of the package, as a function may; or a handler does."""
    function, tells = module.tree.function(use), _tells_kinds(module, use)
    if any(True for _ in module.tree.handlers_around(use)):
        return True
    if not tells and name in getattr(function, "name", "").lower():
        return True
    if any(d for d in getattr(function, "decorator_list", ()) if re.search("require|skip", ast.unparse(d))):
        return True
    branches = [above for above in module.tree.above(use) if isinstance(above, ast.If | ast.IfExp)]
    tests = [branch.test for branch in branches if not module.tree.inside(use, branch.test)]
    if not tests and not tells:  # a file that always needs it fails at its first call, and says so
        return True
    spoken = re.compile(rf"\b{name}\b|(has|is|available|installed|use)_?\w*{name}|{name}\w*(available|installed)", re.I)
    return any(spoken.search(ast.unparse(test)) for test in tests)
