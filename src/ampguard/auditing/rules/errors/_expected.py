"""Where an exception that nobody hears of is what was meant: cleaning up, probing, a fallback, a stated reason."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.handlers import Catch, tells
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, walk, walk_scope

_CLEANING = regex(
    r"^_*(close|terminate|kill|join|unlink|remove|rmtree|rmdir|shutdown|release|cancel|stop|flush|disconnect|finish"
    r"|destroy|delete|cleanup|clean_?up|clear|collect|empty_cache|unregister|deregister|detach|wait|teardown|quit"
    r"|exit|reset|abort|drain|free|dispose|kill_\w+|close_\w+|stop_\w+|remove_\w+|destroy_\w+|cleanup_\w+|shutdown_\w+|finish_\w+|end_\w+|flush_\w+|force_flush|restore_\w+"
    r"|terminate_\w+|delete_\w+|unregister_\w+|__exit__|__del__|aclose|killpg|isinstance|hasattr|is_alive|exists|poll"
    r"|is_initialized|getpid|getpgid|list|values|items|is_file|is_dir|getattr)$"
)
"""Calls that tidy up, and those that look whether there is something to tidy."""

_CLEANING_FUNCTION = regex(
    r"(^|_)(del|exit|aexit|close|clean|cleanup|shutdown|teardown|stop|terminate|finalize|kill|release|atexit"
    r"|destroy|sigterm|sigint|clear|flush|uninstall|unpatch|restore|reset|unregister)(_|$)"
)
_PROBING_FUNCTION = regex(
    r"^_*(is|has|have|can|could|check|supports?|supported|detect|probe|try|maybe|looks|test|safe|guess|infer|find"
    r"|parse|as|to|version|equal|same|eq|contains|hash|repr|str)(_|$)|(available|supported|installed|version|compatible"
    r"|or_none|or_default|if_possible|safe|safely)$|^__(eq|hash|repr|str|contains|dir|getattr|len)__$"
)
_PROBING = regex(
    r"^(int|float|str|repr|len|getattr|hasattr|isinstance|type|bool|loads|literal_eval|import_module|find_spec|version"
    r"|Version|parse|signature|getsource|getsourcefile|getsourcelines|getfile|getdoc|getmodule|is_available|get_type_hints"
    r"|issubclass|import_\w+|__import__|get_device_\w+|device_count|current_device|unpack|decode|encode|strptime"
    r"|fromisoformat|cast|eval|gethostname|gethostbyname|getfqdn|getuser|check_output|getcwd|isatty|set_start_method|fileno"
    r"|get_terminal_size|get_ipython|setlocale|setrlimit|getrlimit|nvmlInit|get_distribution|set_trace|is_\w+|has_\w+"
    r"|split|strip|lower|upper|get|join|format|rsplit|replace|startswith|endswith|items|keys|sorted|tuple|list|dict"
    r"|set|copy|deepcopy|_get_\w+|get_version\w*|relative_to|resolve|Path|pop|append|enumerate|zip|range|array|tolist|extend)$"
)
"""Calls whose exception is an answer: conversions, look-ups, questions about the installation."""

_OBSERVING_FUNCTION = regex(
    r"^_*(log|print|report|show|display|plot|debug|dump|warn|notify|trace)(_|$)"
    r"|(^|_)(info|env|versions?|diagnostics?|metadata|telemetry)(_|$)"
)
_REASON = regex(
    r"best[ -]effort|silent|ignor|fall(s|ing)?[ -]?back|never rais|on failure|failures? |if possible|try to|tries to"
    r"|optional",
    re.IGNORECASE,
)
"""Words of a docstring that say that a failure is expected."""

_SILENCED = regex(r"#\s*(noqa|pylint:\s*disable|nosec|ruff:)")
_STRING = regex(r""" "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' """, re.VERBOSE)
_WORD = regex(r"(?<![\w-])[a-z][a-z'-]+")


def cleaning(catch: Catch) -> bool:
    """Whether the block only tidies up, where a second error would hide the first."""
    module = catch.module
    if _in_cleaning_place(module, catch.statement):
        return True
    calls = _calls(catch.guarded)
    return bool(calls) and all(_CLEANING.match(called(call)) for call in calls)


def probing(catch: Catch) -> bool:
    """Whether the block asks a question that an exception answers: is it there, is it a number.

    Printing and logging count too: what they fail to show is no failure of the program.
    """
    function = catch.module.tree.function(catch.node)
    if function is not None and _PROBING_FUNCTION.search(function.name):
        return True
    if all(isinstance(s, ast.Import | ast.ImportFrom) for s in catch.guarded):
        return True
    if function is not None and _OBSERVING_FUNCTION.search(function.name):
        return True
    calls = _calls(catch.guarded)
    if calls and all(_is_private(catch.module, call) for call in calls):
        return True
    return len(catch.guarded) <= 3 and all(_PROBING.match(called(call)) for call in calls)


def observing(catch: Catch) -> bool:
    """Whether all that the block does is telling something."""
    effects = [
        node.value
        for s in catch.guarded
        for node in (s, *walk_scope(s))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    return bool(effects) and all(tells(catch.module, call) for call in effects)


def _is_private(module: Module, call: ast.Call) -> bool:
    """Whether what is called is not promised by its package: a version without it is expected."""
    return any(part.startswith("_") for name in module.names.dotted(call.func) for part in name.split(".")[1:])


def falls_back(catch: Catch) -> bool:
    """Whether other code answers for the block: what follows a block that ends in `return` or `break`.

    Also a name that the block assigns and that held a default before.
    """
    block = catch.guarded[-1] if catch.guarded else None
    if _jumps(block) and not _ends_function(catch):
        return True
    return _has_default(catch)


def _jumps(statement: ast.stmt | None) -> bool:
    """Whether a block whose last statement this is leaves by `return`, `break` or `raise`, on one way at least."""
    if isinstance(statement, ast.With | ast.AsyncWith | ast.If | ast.For | ast.While):
        return any(_jumps(block[-1]) for block in (statement.body, getattr(statement, "orelse", [])) if block)
    return isinstance(statement, ast.Return | ast.Break | ast.Raise)


def explained(catch: Catch) -> bool:
    """Whether a comment of the handler says why, in three words at least, or silences a linter there.

    A docstring of the function that speaks of failures counts too.
    """
    function = catch.module.tree.function(catch.node)
    if function is not None and _REASON.search(ast.get_docstring(function, clean=False) or ""):
        return True
    return silenced(catch) or any(len(_WORD.findall(comment)) >= 3 for comment in _own_comments(catch))


def silenced(catch: Catch) -> bool:
    """Whether a comment of the handler silences a linter there."""
    return any(_SILENCED.search(comment) for comment in _own_comments(catch))


def _own_comments(catch: Catch) -> list[str]:
    """Return the comments on the lines of the handler; only those lines are read."""
    lines = catch.module.lines[catch.node.lineno - 1 : _last_line(catch)]
    return [code[at:] for code in (_STRING.sub("", line) for line in lines) if (at := code.find("#")) >= 0]


def _last_line(catch: Catch) -> int:
    """Return the last line of the handler; for `suppress` the line of the `with`."""
    if not catch.body:
        return catch.guarded[0].lineno - 1
    return catch.body[-1].end_lineno or catch.body[-1].lineno


def _calls(block: list[ast.stmt]) -> list[ast.Call]:
    return [node for s in block for node in (s, *walk_scope(s)) if isinstance(node, ast.Call)]


def _in_cleaning_place(module: Module, node: ast.stmt) -> bool:
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, ast.Try | ast.TryStar) and below in at.finalbody:
            return True
        if isinstance(at, ast.ExceptHandler):
            return True
        if isinstance(at, FUNCTIONS):
            return bool(_CLEANING_FUNCTION.search(at.name))
        below = at
    return False


def _siblings(module: Module, node: ast.stmt) -> tuple[list[ast.stmt], int]:
    parent = module.tree.parents[node]
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and node in block:
            return block, block.index(node)
    return [node], 0


def _ends_function(catch: Catch) -> bool:
    """Whether nothing comes after the block in its function."""
    module = catch.module
    node: ast.stmt = catch.statement
    while True:
        block, position = _siblings(module, node)
        if position < len(block) - 1:
            return False
        parent = module.tree.parents[node]
        if not isinstance(parent, ast.stmt) or isinstance(parent, (*FUNCTIONS, ast.ClassDef)):
            return True
        node = parent


def _has_default(catch: Catch) -> bool:
    below = [node for s in catch.guarded for node in walk(s)]
    stored = {n.id for n in below if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {n.asname or n.name for n in below if isinstance(n, ast.alias)}
    if not stored:
        return False
    scope = catch.module.tree.scope(catch.node)
    bound = catch.module.names.bindings_in(scope)
    first = catch.statement.lineno
    return any(
        binding.kind in ("assign", "parameter") and getattr(binding.node, "lineno", first) < first
        for name in stored
        for binding in bound.get(name, ())
    )
