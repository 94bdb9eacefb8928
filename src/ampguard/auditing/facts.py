"""What one file is about, beside its findings: how its handlers fare, and which outside world it talks to.

A fact is (name, detail): "network" -> "requests, line 3". Criteria read them to tell "looked for and not found" from
"there is no such thing here". What a file is about is read from its imports and its calls, never from prose.
"""

import ast
from dataclasses import replace
from functools import cache

from ampguard.auditing.findings import FileFacts
from ampguard.auditing.reading.critical_paths import critical_path_facts
from ampguard.auditing.reading.handlers import catches, count_handlers
from ampguard.auditing.reading.kinds import critical_operation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenarios import scenario_facts

PACKAGES = {
    kind: tuple(names.split())
    for kind, names in {
        "network": "requests httpx aiohttp urllib3 urllib.request http.client boto3 botocore grpc websockets "
        "huggingface_hub paramiko ftplib smtplib google.cloud azure",
        "database": "sqlite3 sqlalchemy psycopg psycopg2 pymongo redis mysql pymysql asyncpg peewee lmdb duckdb "
        "cassandra elasticsearch django.db",
        "interface": "flask fastapi django starlette gradio streamlit tornado sanic bottle",
        "tracing": "opentelemetry ddtrace jaeger_client opentracing zipkin aws_xray_sdk",
        "tracker": "wandb mlflow tensorboard tensorboardX torch.utils.tensorboard neptune comet_ml clearml aim "
        "trackio swanlab",
    }.items()
}
"""Kind of outside world -> packages that talk to it."""

_OPERATIONS = {
    "backward": "training step",
    "optimizer step": "training step",
    "scaler step": "training step",
    "scaler update": "training step",
    "checkpoint save": "checkpoint",
    "checkpoint load": "checkpoint",
    "database write": "database",
}
_SHOWN = 3


def facts_of(module: Module) -> FileFacts:
    """Return the facts of one file."""
    counts = count_handlers(module) if "except" in module.text else {}
    return replace(
        facts_unknown(module),
        try_blocks=counts.get("try_blocks", 0),
        handlers_logged=counts.get("logged", 0),
        handlers_silent=counts.get("silent", 0),
        empty_handlers=_empty(module) if counts else (),
        bare_excepts=counts.get("bare", 0),
        broad_excepts=counts.get("broad", 0),
        facts=(*_worlds(module), *_operations(module), *critical_path_facts(module), *scenario_facts(module)),
    )


def facts_unknown(module: Module) -> FileFacts:
    """Return the facts that need no reading of the tree."""
    return FileFacts(path=module.path, lines=len(module.lines) - (not module.lines[-1]), role=module.role)


def _empty(module: Module) -> tuple[int, ...]:
    handlers = (catch for catch in catches(module) if isinstance(catch.node, ast.ExceptHandler))
    return tuple(c.node.lineno for c in handlers if c.broad and c.inert and not c.tells and not c.signals)


def _worlds(module: Module) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for node in module.tree.all(ast.Import, ast.ImportFrom):
        for name in _imported(node):
            kind = _kind(name)
            if kind:
                found.setdefault(kind, []).append(f"{name} (line {node.lineno})")
    return [(kind, ", ".join(found[kind][:_SHOWN])) for kind in PACKAGES if kind in found]


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level or not node.module:
        return []
    return [f"{node.module}.{alias.name}" for alias in node.names]


@cache
def _kind(name: str) -> str:
    """Return the kind of outside world that a dotted name belongs to, "" for none."""
    inside = (kind for kind, packages in PACKAGES.items() if any(f"{name}.".startswith(f"{p}.") for p in packages))
    return next(inside, "")


def _operations(module: Module) -> list[tuple[str, str]]:
    """Return where the file trains, and where it reads and writes checkpoints."""
    if not module.mentions(("backward(", "torch", "checkpoint", *module.config.critical_operations)):
        return []
    wanted = ("backward", "step", "update", "save", "load", "save_file", "load_file", "save_checkpoint")
    calls = module.calls_of(*wanted, "load_checkpoint", *(n.split(".")[-1] for n in module.config.critical_operations))
    lines: dict[str, set[int]] = {}
    for call in calls:
        operation = critical_operation(module, call)
        if operation is not None:
            lines.setdefault(_OPERATIONS.get(operation, operation), set()).add(call.lineno)
    return [(kind, _lines(sorted(numbers))) for kind, numbers in sorted(lines.items())]


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"
