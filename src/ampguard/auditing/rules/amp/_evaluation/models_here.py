"""The models of a file: what it puts into a mode, reads weights into, or builds, and what is named as one."""

import ast

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._evaluation.modes import model_of
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, run_model
from ampguard.auditing.rules.amp._evaluation.single_runs import defined_recording

_DONE_TO_MODELS = ("load_state_dict", "load_weights", "load_pretrained_weights", "state_dict", "parameters")
_BUILDS = regex(
    r"from_pretrained|load_from_checkpoint|instantiate"
    r"|(load|build|create|get|make|init|prepare)_(\w+_)?(\w*model|\w*net|network|generator|vocoder|encoder|decoder|detector)"
    r"|[A-Z]\w*(Model|Net|Network|Generator|Encoder|Decoder|UNet|Unet|VAE|GAN|Former|Transformer|Vocoder)\w*"
)
_SETS_UP = frozenset({"to", "cuda", "cpu", "eval", "float", "half", "train"})
_NO_MODEL = regex(
    r"loss|crit|metric|optim|sched|scaler|transform|augment|logger|writer|tokeni|sampler|process|config|data|feature_ext"
    r"|pipe|vocab|module$|loader|self$",
    2,
)
_CLASS = regex(r"[A-Z]\w*[a-z]")
_PLAIN = regex(r"(self\.)?(?!generator$)\w+|\w+\.(model|net|network)")
"""Models of a function or of its object: `model.evaluate_generator(data)` runs no `evaluate_generator`."""

_METHODS = ("infer", "inference", "predict", "sample", "encode", "decode", "synthesize")


def models_here(module: Module) -> frozenset[str]:
    """Return the keys of the models that a file does something to, or that are named as models."""
    return module.once("models of the file", lambda: frozenset(_models(module)))


def _models(module: Module) -> set[str]:
    found = {p for c in module.calls.get("eval", ()) if (p := model_of(module, c))}
    found |= {p for c in module.calls_of(*_DONE_TO_MODELS) if (p := key(receiver(c)))}
    for name, calls in module.calls.items():
        if MODEL.search(name):
            found |= {p for c in calls if (p := run_model(c)) and MODEL.search(p) and _PLAIN.fullmatch(p)}
        elif _BUILDS.fullmatch(name):
            found |= {p for c in calls if (p := _bound_to(module, c))}
    return {p for p in found if not _NO_MODEL.search(p.rpartition(".")[2]) and not _CLASS.match(p.rpartition(".")[2])}


def _is_code(module: Module, call: ast.Call) -> bool:
    """Whether a call runs a function or a class, or what a module holds, by the name that defines or imports it."""
    root: ast.expr = call.func
    while isinstance(root, ast.Attribute):
        root = root.value
    found = module.names.lookup(root.id, root) if isinstance(root, ast.Name) else None
    return found is not None and any(b.kind in ("import", "function", "class") for b in found[1])


def _bound_to(module: Module, call: ast.Call) -> str | None:
    """Return what `model = build().to(device)` sets."""
    statement = module.tree.statement(call)
    value = statement.value if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    while isinstance(value, ast.Call) and value is not call and called(value) in _SETS_UP:
        value = receiver(value)
    return key(statement.targets[0]) if value is call and isinstance(statement, ast.Assign) else None


def runs_of(module: Module, place: str) -> list[ast.Call]:
    """Return the calls that run the model of a key, itself or by a method that the project writes, in source order."""
    direct = [c for c in module.calls_of(place.rpartition(".")[2], "forward") if run_model(c) == place]
    by_method = [c for name in _methods(module) for c in module.calls[name] if key(receiver(c)) == place]
    found = [c for c in (*direct, *by_method) if (c.args or c.keywords) and not _is_code(module, c)]
    return sorted(found, key=lambda c: (c.lineno, c.col_offset))


def _methods(module: Module) -> list[str]:
    """Return the names of the methods called in a file that run a model, and switch gradients off in no definition."""
    named = (name for name in _METHODS if name in module.calls)
    return module.once("methods that run", lambda: [n for n in named if defined_recording(module.project, n)])
