"""The lines that would mend a handler: a type, a name for the exception, and a line that tells."""

import ast

from ampguard.auditing.findings import Edit
from ampguard.auditing.reading.handlers import Catch
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, walk


def name_the_exception(catch: Catch) -> Edit | None:
    """Return the edit that turns a bare or silent `except` line into one that names and tells the exception."""
    module, node = catch.module, catch.node
    if not isinstance(node, ast.ExceptHandler) or not _stands_alone(catch):
        return None
    kind = module.segment(node.type) if node.type is not None else "Exception"
    name = node.name or _free_name(module)
    indent, inner = _indents(catch)
    lines = [f"{indent}except {kind} as {name}:"]
    if not catch.logs:
        lines.append(f"{inner}{_telling(module, f'{_subject(catch)} failed', name)}")
    if _only_pass(catch) and not catch.logs:
        return Edit(first_line=node.lineno, last_line=catch.body[0].end_lineno or node.lineno, lines=tuple(lines))
    return Edit(first_line=node.lineno, last_line=node.lineno, lines=tuple(lines))


def tell_before(catch: Catch, text: str) -> Edit | None:
    """Return the edit that puts a line that tells `text` at the start of the handler."""
    if not isinstance(catch.node, ast.ExceptHandler) or not _stands_alone(catch):
        return None
    first = catch.body[0].lineno
    line = f"{_indents(catch)[1]}{_telling(catch.module, text, None)}"
    last = (catch.body[0].end_lineno or first) if _only_pass(catch) else first - 1
    return Edit(first_line=first, last_line=last, lines=(line,))


def _stands_alone(catch: Catch) -> bool:
    """Whether the `except ...:` is one line with nothing behind it and the body begins on a line of its own."""
    text = catch.module.lines[catch.node.lineno - 1]
    return (
        text.strip().startswith("except") and text.rstrip().endswith(":") and catch.body[0].lineno > catch.node.lineno
    )


def _only_pass(catch: Catch) -> bool:
    return len(catch.body) == 1 and isinstance(catch.body[0], ast.Pass)


def _indents(catch: Catch) -> tuple[str, str]:
    lines = catch.module.lines
    return tuple(_indent(lines[line - 1]) for line in (catch.node.lineno, catch.body[0].lineno))  # type: ignore[return-value]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _free_name(module: Module) -> str:
    return "error" if "error" not in module.text else "caught"


def _telling(module: Module, text: str, name: str | None) -> str:
    """Return a statement that tells the text: with the file's logger, else `logging`, else `print`."""
    for logger in ("logger", "log", "LOGGER", "logging"):
        if _is_logger(module, logger):
            return f'{logger}.warning("{text}: %s", {name})' if name else f'{logger}.warning("{text}")'
    return f'print(f"{text}: {{{name}}}")' if name else f'print("{text}")'


def _is_logger(module: Module, name: str) -> bool:
    found = module.names.bindings_in(module.root).get(name, [])
    if name == "logging":
        return any(binding.dotted == "logging" for binding in found)
    return any(isinstance(b.value, ast.Call) and called(b.value) in ("getLogger", "get_logger") for b in found)


def _subject(catch: Catch) -> str:
    """Return what the block does, as a few words: the function that it calls first, or the function around it."""
    for statement in catch.guarded:
        for node in walk(statement):
            if isinstance(node, ast.Call) and (place := key(node.func)) and '"' not in place:
                return place
    return catch.module.tree.qualname(catch.statement) or "this block"
