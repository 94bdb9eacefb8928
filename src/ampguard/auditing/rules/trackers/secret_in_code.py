"""A key or a password in the source."""

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.rules._base import Rule

_NAME = regex(
    r"(^|[_.\[' -])(api_?key|apikey|secret(_?key|_?token)?|access_?(key|token)|auth_?token|api_?token|hf_?token"
    r"|password|passwd|pwd|private_?key|client_?secret|wandb_?(key|api_?key)|bearer_?token|(hugging_?face|hub|github|gh)_?token)"
    r"(_id)?('\])?$",
    re.I,
)
_PLACEHOLDER = regex(
    r"your|xxx|\*\*|<|>|\.\.\.|example|sample|dummy|fake|test|placeholder|change_?me|todo|none|null|insert|replace|here"
    r"|redacted|secret|token|password|passwd|api_?key|\$\{|\{\{|%\(|env|foo|bar|abc|1234|default|local|mock|empty|empty|not.?needed"
    r"|\s|/|^[a-z]+([_-][a-z]+)*$",
    re.I,
)
_VARIABLE = regex(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
"""The name of an environment variable."""
_KNOWN = regex(
    r"^(sk-(proj-|ant-)?[A-Za-z0-9_-]{24,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35}|glpat-[\w-]{20,})$"
)
_BITS = 3.0
"""Bits a character below which a literal is a word and no key. Chosen: 40 hexadecimal digits have some 3.6."""


class SecretInCode(Rule):
    """A key, token or password stands in the source, where everybody who reads the repository has it.

    ## What it does

    Reports literals that are a key by their form (those of well-known services), literals given as `key` to
    `wandb.login`, and literals that look random and are bound to a name such as `api_key` or `password`.
    Placeholders, words, values read from the environment and files of tests are left alone.

    ## Why is this bad

    A key in a repository is public once it is pushed, stays in its history after it is removed, and is found by
    machines within minutes.

    ## Example

    ```python
    import wandb

    wandb.login(key="9f2c41d07be35a86c1f4e0927d6b8a35c0e1f792")
    ```

    ## Use instead

    ```python
    import os

    import wandb

    wandb.login(key=os.environ["WANDB_API_KEY"])
    ```

    ## Fix safety

    Revoke the key first: taking it out of the newest commit does not take it out of the history.

    ## References

    - CWE-798, use of hard-coded credentials
    """

    code = "TRK004"
    name = "secret-in-code"
    severity = Severity.HIGH
    likelihood = "likely"
    impact = "Everybody who can read the repository, or its history, can use the account."
    risk = "Low: the program needs the variable in its environment afterwards."
    fix = "Revoke the key, and read the new one from the environment or from the tracker's own login."
    words = ("key", "KEY", "token", "TOKEN", "secret", "SECRET", "passw", "PASSW", "pwd", "sk-", "AKIA")
    ruff = ("S105", "S106")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every literal that is a secret by its form, or by its name and its randomness."""
        if module.role == "test":
            return
        for node, name in _named(module):
            if isinstance(node.value, str) and _is_secret(node.value, name):
                yield self.finding(module, node, f"`{name}` is given as a literal, {_shown(node.value)}")


def _named(module: Module) -> Iterator[tuple[ast.Constant, str]]:
    """Walk the string literals that something is called by, with that name."""
    for call in module.calls_of("login"):
        if module.names.stands_for(call.func, ".login") and call.args and isinstance(call.args[0], ast.Constant):
            yield call.args[0], "login key"
    for keyword in module.tree.all(ast.keyword):
        if isinstance(keyword.value, ast.Constant) and keyword.arg:
            parent = module.tree.parents[keyword]
            login = isinstance(parent, ast.Call) and called(parent) == "login" and keyword.arg in ("key", "token")
            yield keyword.value, "login key" if login else keyword.arg
    for node in module.tree.all(ast.Assign):
        place = key(node.targets[0])
        if isinstance(node.value, ast.Constant) and place is not None:
            yield node.value, place
    for node in module.tree.all(ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            if isinstance(value, ast.Constant) and isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield value, name.value


def _is_secret(value: str, name: str) -> bool:
    if _KNOWN.match(value):
        return not re.search(r"x{4}|\.\.\.|0{6}|your|example", value, re.I)
    if name != "login key" and not _NAME.search(name):
        return False
    if _VARIABLE.fullmatch(value):
        return False
    return len(value) >= 12 and _bits(value) >= _BITS and _mixed(value) and not _PLACEHOLDER.search(value)


def _mixed(value: str) -> bool:
    """Whether letters and digits are mixed as no word mixes them."""
    return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


def _bits(value: str) -> float:
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def _shown(value: str) -> str:
    return f"{value[:3]}... ({len(value)} characters)"
