"""Calls of what a tracker's package does not have, under a name that is nearly that of what it has.

`wandb.define_metrics(...)` is an AttributeError whenever the tracker is on; `define_metric` is the function.
"""

import ast
from collections.abc import Iterator
from difflib import get_close_matches

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.trackers._isolation import isolated

_WANDB = (
    *("init", "login", "log", "finish", "save", "restore", "watch", "unwatch", "alert", "define_metric", "log_code"),
    *("log_artifact", "log_model", "use_artifact", "use_model", "link_artifact", "link_model", "upsert_artifact"),
    *("finish_artifact", "mark_preempting", "setup", "teardown", "attach", "require", "agent", "sweep", "controller"),
    *("plot_table", "termlog", "termwarn", "termerror", "ensure_configured", "Api", "Artifact", "Image", "Video"),
    *("Audio", "Table", "Html", "Histogram", "Object3D", "Molecule", "Plotly", "Graph", "Settings", "Classes"),
)
_MLFLOW = (
    *(
        "log_param",
        "log_params",
        "log_metric",
        "log_metrics",
        "log_artifact",
        "log_artifacts",
        "log_dict",
        "log_figure",
    ),
    *("log_image", "log_text", "log_table", "log_input", "log_inputs", "log_outputs", "log_model_params", "log_trace"),
    *("log_batch", "log_stream", "log_feedback", "log_expectation", "log_assessment", "set_tag", "set_tags"),
    *("delete_tag", "start_run", "end_run", "active_run", "last_active_run", "get_run", "delete_run", "search_runs"),
    *("set_experiment", "create_experiment", "get_experiment", "get_experiment_by_name", "search_experiments"),
    *("set_tracking_uri", "get_tracking_uri", "is_tracking_uri_set", "set_registry_uri", "get_registry_uri"),
    *("set_experiment_tag", "set_experiment_tags", "get_artifact_uri", "register_model", "autolog", "evaluate"),
    *("set_model_version_tag", "start_span", "get_parent_run", "load_table", "log_evaluation", "log_evaluations"),
    *("delete_experiment", "get_trace", "search_traces", "update_current_trace", "get_current_active_span"),
)
_PACKAGES = {"wandb": _WANDB, "mlflow": _MLFLOW}

_NEAR = 0.9
"""Likeness of two names that differ in a letter or two, or in a plural. Chosen: "define_metrics" has 0.96."""


def unknown_calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls of such names that no `try` stands around, each with what is to be told."""
    packages = [package for package in _PACKAGES if module.mentions((f"{package}.",))]
    for name, calls in module.calls.items() if packages else ():
        for call in calls:
            package = (key(receiver(call)) or "").rpartition(".")[2]
            known = _PACKAGES[package] if package in packages else ()
            if not known or name in known or name.startswith("_") or isolated(module, call, module.root):
                continue
            meant = get_close_matches(name, known, 1, _NEAR)
            if meant and not _is_defined(module, name):
                yield call, f"`{package}` has no `{name}`: `{meant[0]}` is what it has"


def _is_defined(module: Module, name: str) -> bool:
    """Whether something in the project bears the name, so that an object of its own may be what is called."""
    return any(True for _ in module.project.texts(f"def {name}("))
