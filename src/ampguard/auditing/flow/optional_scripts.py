"""Readings of settings that only some of the scripts set which run the function: `args.grad_scaler`.

Two scripts parse their own arguments and run one function of another file; one of them writes `args.grad_scaler = ...`
first, the other never does, and no parser declares it. There the setting is not None but missing. Settings that a file
other than a script gives, or that a text names as a word (`"--grad-scaler"`, `hasattr(args, "grad_scaler")`), are left
alone.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import is_conditional
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Function, key

_HOLDERS = r"args|opts?|options|flags|FLAGS|cfg|conf|config|hparams|hps"
_SET = regex(rf"^[ \t]+(?:{_HOLDERS})\.(\w+)[ \t]*=(?!=)", re.MULTILINE)
_HOLDER = regex(_HOLDERS)
_PARSES = "parse_args("
_OPEN = regex(r"yaml|omegaconf|__dict__|vars\(|setattr\(|Namespace\(|set_defaults\(|json\.load")
"""How a script may give its settings more than its parser says."""


def uses_of_settings_of_other_scripts(module: Module) -> Iterator[Use]:
    """Walk the first reading of each such setting in each function."""
    setting = _scripts_that_set(module.project) if _PARSES not in module.text else {}
    wanted = {name for name in setting if f".{name}" in module.text}
    told: set[tuple[Function, str]] = set()
    for node in module.tree.all(ast.Attribute) if wanted else ():
        function = module.tree.function(node) if node.attr in wanted else None
        if function is None or (function, node.attr) in told or not _is_handed(function, node):
            continue
        if is_conditional(module, node, function, loops=True) or _is_known(
            module.project, node.attr, setting[node.attr]
        ):
            continue
        told.add((function, node.attr))
        if _runs_without(module, function, setting[node.attr]):
            yield Use(key(node) or node.attr, node, function)


def _is_handed(function: Function, node: ast.Attribute) -> bool:
    held = node.value.id if isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load) else ""
    return bool(_HOLDER.fullmatch(held)) and any(arg.arg == held for arg, _ in parameters(function))


def _scripts_that_set(project: Project) -> dict[str, set[str]]:
    """Return the files that parse arguments and write each setting, by its name."""
    if "scripts that set" not in project.memo:
        found: dict[str, set[str]] = {}
        for path, text in project.texts(_PARSES):
            for name in _SET.findall(text):
                found.setdefault(name, set()).add(path)
        project.memo["scripts that set"] = found
    known: dict[str, set[str]] = project.memo["scripts that set"]
    return known


def _is_known(project: Project, name: str, scripts: set[str]) -> bool:
    """Whether a text names a setting as a word, in a parser or a question, or a file that is no script writes it."""
    question = ("a known setting", name)
    if question not in project.memo:
        word = re.escape(name).replace("_", "[-_]")
        known = re.compile(rf"--(?:no[-_])?{word}\b|['\"]{word}['\"]")
        written = re.compile(rf"\b(?:{_HOLDERS})\.{re.escape(name)}[ \t]*=(?!=)")
        texts = ((path, text) for path, text in project.texts(name, name.replace("_", "-")) if "test" not in path)
        project.memo[question] = any(
            known.search(text) or (path not in scripts and written.search(text)) for path, text in texts
        )
    return bool(project.memo[question])


def _runs_without(module: Module, function: Function, setting: set[str]) -> bool:
    """Whether a script that sets a setting runs a function, and another runs it that never does."""
    stem, name = re.escape(PurePosixPath(module.path).stem), re.escape(function.name)
    runs = re.compile(rf"\b{stem}\.{name}\(|from [\w.]*\b{stem} import [^\n#]*\b{name}\b[\s\S]*?(?<![\w.]){name}\(")
    scripts = {
        path: text
        for path, text in module.project.texts(_PARSES)
        if path != module.path and "test" not in path and "__main__" in text and runs.search(text)
    }
    without = [p for p, text in scripts.items() if p not in setting and not _OPEN.search(text)]
    borrowed = [p for p in without if any(PurePosixPath(s).stem in scripts[p] for s in setting)]
    return bool(setting & scripts.keys()) and len(without) > len(borrowed)
