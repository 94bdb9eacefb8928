"""Calls that wait for another machine, with what each does without a time limit."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, is_none_literal, key, receiver

WORDS = ("requests", "urlopen", "httpx", "create_connection", "subprocess")
MORE_WORDS = ("init_process_group", "urlretrieve", "smtplib", "ftplib", "http.client", "wandb.login")
"""Words of the calls that are asked for a time limit alone, and not for a second attempt."""

_VERBS = frozenset({"get", "post", "put", "delete", "patch", "head", "options", "request"})
_RUNNERS = frozenset({"run", "call", "check_call", "check_output"})
_DISTANT = frozenset(
    {"git", "curl", "wget", "pip", "ssh", "scp", "rsync", "gsutil", "aws", "gcloud", "huggingface-cli"}
)
"""Programs that wait for another machine."""

_CLIENTS = {"smtplib.SMTP": 3, "smtplib.SMTP_SSL": 5, "ftplib.FTP": 4} | {
    "http.client.HTTPConnection": 2,
    "http.client.HTTPSConnection": 2,
}
"""Classes that connect, with the position of `timeout`."""


@dataclass(frozen=True)
class NetworkCall:
    """A call that waits for another machine.

    Attributes:
        call: The call.
        library: "requests", "urllib", "httpx", "socket", "subprocess", "retrieve", "client", "group" or "login".
        limited: Whether it gives a time limit, or may (`**kwargs`, a default set elsewhere in the file).
    """

    call: ast.Call
    library: str
    limited: bool


def network_calls(module: Module) -> list[NetworkCall]:
    """Return the calls of a file that wait for another machine."""
    return module.once("network calls", lambda: list(_network_calls(module)))


def _network_calls(module: Module) -> Iterator[NetworkCall]:
    for call in module.calls_of(*_VERBS):
        dotted = module.names.dotted(call.func)
        if any(name.startswith("requests.") and name.count(".") == 1 for name in dotted) or _is_session(module, call):
            yield NetworkCall(call, "requests", _gives_limit(call, None) or ".mount(" in module.text)
        elif any(name.startswith("httpx.") and name.count(".") == 1 for name in dotted):
            yield NetworkCall(call, "httpx", not is_none_literal(argument(call, None, "timeout")))
    for call in module.calls_of("urlopen"):
        if module.names.stands_for(call.func, "urllib.request.urlopen"):
            yield NetworkCall(call, "urllib", _gives_limit(call, 2) or "setdefaulttimeout" in module.text)
    for call in module.calls_of("create_connection"):
        if module.names.stands_for(call.func, "socket.create_connection"):
            yield NetworkCall(call, "socket", _gives_limit(call, 1) or "setdefaulttimeout" in module.text)
    for call in module.calls_of(*_RUNNERS):
        if module.names.stands_for(call.func, *(f"subprocess.{n}" for n in _RUNNERS)) and _program(call) in _DISTANT:
            yield NetworkCall(call, "subprocess", _gives_limit(call, None))


def lasting_calls(module: Module) -> Iterator[NetworkCall]:
    """Walk the further calls that wait: for the other ranks, for a download, for a mail or file server."""
    for call in module.calls_of("init_process_group"):
        if module.names.stands_for(call.func, "torch.distributed.init_process_group"):
            yield NetworkCall(call, "group", _gives_limit(call, 2) or bool(call.args[2:]))
    for call in module.calls_of("login"):
        if module.names.stands_for(call.func, "wandb.login"):
            yield NetworkCall(call, "login", _gives_limit(call, 5) or _needs_no_keyboard(call))
    patient = "setdefaulttimeout" not in module.text
    for call in module.calls_of("urlretrieve") if patient else ():
        if module.names.stands_for(call.func, "urllib.request.urlretrieve"):
            yield NetworkCall(call, "retrieve", limited=False)
    for name, position in _CLIENTS.items() if patient else ():
        for call in module.calls_of(name.rpartition(".")[2]):
            if module.names.stands_for(call.func, name):
                yield NetworkCall(call, "client", not call.args or _gives_limit(call, position))


def _needs_no_keyboard(call: ast.Call) -> bool:
    """Whether a login never asks for the key: it is given, and not by a setting that may be empty."""
    given = argument(call, 1, "key")
    read = isinstance(given, ast.Subscript) and (key(given.value) or "").endswith("environ")
    known = isinstance(given, ast.Constant) and bool(given.value)
    return read or known or argument(call, 0, "anonymous") is not None


def _is_session(module: Module, call: ast.Call) -> bool:
    owner = receiver(call)
    if not isinstance(owner, ast.Name | ast.Attribute) or "Session(" not in module.text:
        return False
    if isinstance(owner, ast.Attribute) and key(owner) and not (key(owner) or "").startswith("self."):
        return False
    values = [value for value in assigned(module, owner) if isinstance(value, ast.Call)]
    return any(module.names.stands_for(v.func, "requests.Session", "requests.session") for v in values)


def _gives_limit(call: ast.Call, position: int | None) -> bool:
    if any(keyword.arg is None for keyword in call.keywords):
        return True
    given = argument(call, position, "timeout")
    return given is not None and not is_none_literal(given)


def _program(call: ast.Call) -> str:
    """Return the program that a command begins with, "" where it is not written there."""
    command = argument(call, 0, "args")
    if isinstance(command, ast.List | ast.Tuple) and command.elts:
        command = command.elts[0]
    if isinstance(command, ast.JoinedStr) and command.values:
        command = command.values[0] if isinstance(command.values[0], ast.Constant) else None
    text = command.value if isinstance(command, ast.Constant) and isinstance(command.value, str) else ""
    return text.split()[0].rpartition("/")[2] if text.split() else ""
