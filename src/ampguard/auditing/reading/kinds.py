"""What the things of training code are: scalers, optimizers, schedulers, trackers, critical operations.

A thing is known by what it was constructed from, where that can be traced; else by the name that everybody gives it
together with a method that only such a thing has.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, bases
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver

AMP_WORDS = ("GradScaler", "autocast", "scaler", "apex", "amp.")
"""A file that holds none of these has nothing to do with AMP."""

_SCALER_NAME = regex(
    r"(^|[._'])(grad_?|loss_?|amp_?|fp16_?|mp_?|gradient_?)?scaler(_?[a-z0-9]{1,12})?('\])?$", re.IGNORECASE
)
_NOT_A_SCALER = regex(
    r"(standard|min_?max|robust|data|feature|target|y_|x_|input|output|image|label|norm)", re.IGNORECASE
)
_SCALER_FLAG = regex(r"(^|[._])(use|with|has|is|no|enable|needs?|want)_\w*$", re.IGNORECASE)
_OPTIMIZER_NAME = regex(
    r"(^|[._\['])(\w*optim\w*|opt|opt_?[a-z0-9]{1,6}|[a-z0-9]{1,6}_opt)('?\])?(\[\w+\])?$", re.IGNORECASE
)
_SCHEDULER_NAME = regex(r"(^|[._\['])(\w*sched\w*|lr_?s|sch)('?\])?(\[\w+\])?$", re.IGNORECASE)

_SCALER_ALIAS = regex(r"(\w+)[ \t]*(?::[^=\n]*)?=(?!=)[^\n]*GradScaler\b(?!\s*\()")
"""A line that gives the class itself another name."""

_MODULES = frozenset({"Module", "LightningModule"})

TRACKERS = ("wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim", "trackio", "swanlab", "tensorboardX")
"""Packages whose calls write to a tracker."""

_TRACKER_METHODS = frozenset(
    {"log", "log_metric", "log_metrics", "log_param", "log_params", "log_artifact", "log_artifacts", "log_text"}
    | {"log_table", "log_image", "log_model", "set_tag", "set_tags", "watch", "save", "alert", "define_metric"}
    | {"add_scalar", "add_scalars", "add_histogram", "add_image", "add_images", "add_figure", "add_text", "add_graph"}
    | {"add_hparams", "add_video", "report_scalar", "track"}
)
_SERIES_METHODS = frozenset({"append", "extend", "log", "upload", "assign"})
"""What one field of a run can: `run["loss"].append(1.0)`."""

_WRITER_NAME = regex(
    r"(^|[._']|\[')(tb_?|summary_?|tensorboard_?|tb_?log_?)?(writer|wandb|mlflow|tensorboard|tb|logger\.experiment"
    r"|(wandb|neptune|comet|mlflow|swanlab|clearml|aim)_(run|logger|experiment|exp|client|tracker|task))('\])?$",
    re.IGNORECASE,
)

_DATABASE_METHODS = frozenset({"commit", "executemany", "insert_one", "insert_many", "bulk_write", "update_one"})
_DATABASE_NAME = regex(r"(^|[._])(\w*(conn|connection|cursor|session|db|database|collection|engine)\w*)$", re.I)


def is_scaler(module: Module, node: ast.expr | None) -> bool:
    """Whether an expression is a gradient scaler: constructed as one, or named as one is."""
    if node is None:
        return False
    values = assigned(module, node)
    if any(is_scaler_class(module, value.func) for value in values if isinstance(value, ast.Call)):
        return True
    place = key(node)
    return bool(
        place and _SCALER_NAME.search(place) and not _NOT_A_SCALER.search(place) and not _SCALER_FLAG.search(place)
    )


def is_scaler_class(module: Module, node: ast.expr) -> bool:
    """Whether an expression names torch's GradScaler or a class made to its pattern (sharded, Megatron's, ...)."""
    return any(name.split(".")[-1].endswith("GradScaler") for name in module.names.dotted(node))


def scaler_constructions(module: Module) -> list[ast.Call]:
    """Return every construction of a gradient scaler in the file, in source order."""
    return module.once("scaler constructions", lambda: _scaler_constructions(module))


def _scaler_constructions(module: Module) -> list[ast.Call]:
    if not module.mentions(("GradScaler",)):
        return []
    names = {name for name in module.calls if name.endswith("GradScaler")} | _scaler_aliases(module)
    found = [call for call in module.calls_of(*sorted(names)) if is_scaler_class(module, call.func)]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _scaler_aliases(module: Module) -> set[str]:
    """Return the last names under which the file may call a scaler's class: imports as, assignments of the class."""
    imports = module.tree.all(ast.ImportFrom)
    renamed = {a.asname for node in imports for a in node.names if a.asname and a.name.endswith("GradScaler")}
    return renamed | set(_SCALER_ALIAS.findall(module.about("gradscaler")))


def is_optimizer(module: Module, node: ast.expr | None) -> bool:
    """Whether an expression is an optimizer: constructed from torch.optim, or named as one is."""
    if node is None:
        return False
    for value in assigned(module, node):
        if isinstance(value, ast.Call) and any(n.startswith("torch.optim.") for n in module.names.dotted(value.func)):
            return ".lr_scheduler." not in f"{module.names.dotted(value.func)[0]}."
    place = _place(node)
    if place and _OPTIMIZER_NAME.search(place):
        return not _SCHEDULER_NAME.search(place)
    return bool((many := _collection(module, node)) and _OPTIMIZER_NAME.search(many))


def is_scheduler(module: Module, node: ast.expr | None) -> bool:
    """Whether an expression is a learning-rate scheduler."""
    if node is None:
        return False
    for value in assigned(module, node):
        if isinstance(value, ast.Call) and any(".lr_scheduler." in n for n in module.names.dotted(value.func)):
            return True
    place = _place(node)
    if place and _SCHEDULER_NAME.search(place):
        return True
    return bool((many := _collection(module, node)) and _SCHEDULER_NAME.search(many))


def is_network(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class is a module of PyTorch's, itself or by a base in the project."""
    return module.once(
        ("is a network", cls), lambda: _is_network(cls) or any(_is_network(c) for _, c in bases(module, cls))
    )


def _is_network(cls: ast.ClassDef) -> bool:
    return any((key(base) or "").rpartition(".")[2] in _MODULES for base in cls.bases)


def autocast_of(module: Module, node: ast.expr) -> ast.Call | None:
    """Return the call that opens an autocast region, where the expression is one or is a name of one; else None.

    `nullcontext()` and expressions that choose between the two lead to the autocast that may be entered.
    """
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr not in ("autocast", "autocast_ctx"):
            return None  # the last name of what an attribute stands for is its own
        names = module.names.dotted(node.func)
        if isinstance(node.func, ast.Attribute):  # `self.autocast`, which the class was given
            names = (*names, *(n for v in assigned(module, node.func) for n in module.names.dotted(v)))
        if any(
            n.split(".")[-1] in ("autocast", "autocast_ctx") or n.endswith("amp.autocast_mode.autocast") for n in names
        ):
            return node
        return None
    if isinstance(node, ast.IfExp):
        return autocast_of(module, node.body) or autocast_of(module, node.orelse)
    if isinstance(node, ast.Name | ast.Attribute):
        return next((c for v in assigned(module, node) if v is not node and (c := _autocast_value(module, v))), None)
    return None


def _autocast_value(module: Module, value: ast.expr) -> ast.Call | None:
    return autocast_of(module, value) if isinstance(value, ast.Call | ast.IfExp) else None


def tracker_call(module: Module, call: ast.Call) -> str | None:
    """Return what a call to a tracker does ("wandb.log"), or None where it is no such call."""
    name, owner = called(call), receiver(call)
    if owner is None:
        return next((n for n in module.names.dotted(call.func) if n.split(".")[0] in TRACKERS and "." in n), None)
    for dotted in module.names.dotted(call.func):
        if dotted.split(".")[0] in TRACKERS and module.names.stands_for(owner, dotted.rpartition(".")[0]):
            return dotted
    if isinstance(owner, ast.Subscript) and name in _SERIES_METHODS and _is_run(module, owner.value):
        return f"{key(owner.value)}[...].{name}"
    place = key(owner)
    if name in _TRACKER_METHODS and place and (_WRITER_NAME.search(place) or _is_run(module, owner)):
        return f"{place}.{name}"
    return None


def tracker_field(module: Module, target: ast.expr) -> str | None:
    """Return which field of a tracker's run is written by an assignment ("wandb.config.path"), None where it is none.

    `wandb.config.path = ...`, `wandb.run.summary["best"] = ...`, `run["lr"] = ...`.
    """
    at: ast.expr | None = target
    while isinstance(at, ast.Attribute | ast.Subscript):
        at = at.value
        below = isinstance(at, ast.Attribute | ast.Name)
        if below and any(n.split(".")[0] in TRACKERS and "." in n for n in module.names.dotted(at)):
            return module.segment(target)
        if below and key(at) != key(target) and _is_run(module, at):
            return module.segment(target)
    return None


def _is_run(module: Module, node: ast.expr) -> bool:
    """Whether an expression is what a tracker's package gave: `run = wandb.init()`, `board = SummaryWriter()`."""
    made = [name for v in assigned(module, node) if isinstance(v, ast.Call) for name in module.names.dotted(v.func)]
    return any(name.split(".")[0] in TRACKERS or name.endswith("tensorboard.SummaryWriter") for name in made)


def critical_operation(module: Module, call: ast.Call) -> str | None:
    """Return which operation must not fail silently a call is, or None.

    "backward", "optimizer step", "scaler step", "scaler update", "checkpoint save", "checkpoint load",
    "database write", or the name that the configuration lists.
    """
    name, owner = called(call), receiver(call)
    if name in module.config.critical_operations or key(call.func) in module.config.critical_operations:
        return key(call.func) or name
    if name == "backward" and owner is not None:
        return "backward"
    if name == "step" and owner is not None:
        if is_scaler(module, owner):
            return "scaler step"
        return "optimizer step" if is_optimizer(module, owner) else None
    if name == "update" and owner is not None and is_scaler(module, owner):
        return "scaler update"
    if name in ("save", "save_file", "save_checkpoint", "load", "load_file", "load_checkpoint"):
        return _checkpoint_operation(module, call, name)
    if name in _DATABASE_METHODS and owner is not None and _DATABASE_NAME.search(key(owner) or ""):
        return "database write"
    return None


def _checkpoint_operation(module: Module, call: ast.Call, name: str) -> str | None:
    what = "checkpoint save" if name.startswith("save") else "checkpoint load"
    dotted = module.names.dotted(call.func)
    if any(n in ("torch.save", "torch.load") or n.startswith("safetensors.") for n in dotted):
        return what
    return what if name in ("save_checkpoint", "load_checkpoint") else None


def steps_in(module: Module, node: ast.AST) -> list[ast.Call]:
    """Return the calls below a node that are part of a training step: backward, optimizer and scaler steps."""
    return [
        call
        for call in module.calls_of("backward", "step", "update")
        if critical_operation(module, call) in ("backward", "optimizer step", "scaler step", "scaler update")
        and module.tree.inside(call, node)
    ]


def _place(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        return key(node.value)
    return key(node)


def _collection(module: Module, node: ast.expr) -> str | None:
    """Return the name of what a loop variable is one of: "scheds" of `for s in scheds.values()`, also in a `zip`."""
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    last = bound[1][-1] if bound is not None else None
    if last is None or last.kind != "loop" or not isinstance(last.node, ast.For | ast.comprehension):
        return None
    target, over = last.node.target, last.node.iter
    if isinstance(target, ast.Tuple):
        at = next((i for i, t in enumerate(target.elts) if isinstance(t, ast.Name) and t.id == node.id), None)  # type: ignore[attr-defined]
        if at is None or not isinstance(over, ast.Call):
            return None
        if called(over) == "zip" and at < len(over.args):
            return key(over.args[at])
        return _place_of(over.args[0] if over.args else receiver(over)) if at == len(target.elts) - 1 else None
    return _place_of(receiver(over) if isinstance(over, ast.Call) and called(over) == "values" else over)


def _place_of(node: ast.expr | None) -> str | None:
    return key(node) if node is not None else None
