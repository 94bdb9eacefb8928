"""`ampguard doctor dtypes [TASK]`: which dtype each module of a Task's model computes in, from one forward.

The forward is that of `ampguard train` with the same options: the Task's model and first batch, under a Guard with its
precision and overrides. Rows that differ only in the numbers of their fqn are folded into one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ampguard.cli.streams import print_json, stdout
from ampguard.cli.task_flags import DEFAULT_TASK, flags_of, given, options_of, target_of
from ampguard.errors import MissingExtraError
from ampguard.records import SCHEMA

if TYPE_CHECKING:
    from ampguard.precision.dtypes import DtypeRow
    from ampguard.task import Task

_SHORT = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_STYLES = {"bf16": "green", "fp16": "yellow"}
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A component of an fqn that is a number."""


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_ours = list(tokens[:2]) == ["doctor", "dtypes"]
    target_here = target_of(tokens[1:]) if is_ours else DEFAULT_TASK
    task_options = flags_of(target_here, options_of(target_here) if is_ours else {})

    def dtypes(
        target: str = DEFAULT_TASK,
        /,
        *,
        precision: str = "auto",
        override: Annotated[tuple[str, ...], Parameter(negative_iterable=())] = (),
        on_unsupported: Literal["fallback", "error", "emulate"] = "fallback",
        batch_size: int | None = None,
        device: str | None = None,
        task: Any = None,
        all: Annotated[bool, Parameter(negative="")] = False,
        format: Literal["text", "json"] = "text",
        quiet: Annotated[bool, Parameter(negative="")] = False,
        debug: Annotated[bool, Parameter(negative="")] = False,
    ) -> int:
        """Show which dtype each module of a model is given, computes in and returns.

        Args:
            target: text, digits, or PATH:build, where PATH is a module or a .py file; named first.
            precision: As in train: fp32, tf32, bf16-mixed, fp16-mixed, bf16-true, or auto.
            override: Precision of single modules, as GLOB=PRECISION; may be given repeatedly.
            on_unsupported: What to do when the device lacks the precision: show fp32, refuse, or show it emulated.
            batch_size: Samples in the forward; by default the Task's own.
            device: cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one.
            task: Options of the Task.
            all: A row for each module: no folding of blocks that are alike. JSON always has all.
            format: What stdout gets: a table, or one JSON object.
            quiet: No warnings.
            debug: Show ampguard's own frames in errors.
        """
        del quiet, debug
        options = {
            "precision": precision,
            "override": override,
            "on_unsupported": on_unsupported,
            "batch_size": batch_size,
            "device": device,
        }
        facts, rows = examine(target, given(task, tokens, "task."), options)
        if format == "json":
            print_json({"schema": SCHEMA, **facts, "modules": [asdict(row) for row in rows]})
        else:
            stdout().print(table(facts, rows if all else fold(rows)))
        return 0

    dtypes.__annotations__["task"] = Annotated[task_options, Parameter(name="--task")]
    dtypes.__kwdefaults__ = {**(dtypes.__kwdefaults__ or {}), "task": task_options()}
    return dtypes


def examine(
    target: str, task_options: Mapping[str, Any], options: Mapping[str, Any]
) -> "tuple[dict[str, Any], list[DtypeRow]]":
    """Run one forward of a Task as `train` would; return what the run was, and its rows.

    Args:
        target: The Task.
        task_options: Options of its `build`.
        options: Fields of TrainConfig.

    Raises:
        InputError: The Task, an option or an override cannot work.
        TaskError: The model or its forward raised; `__cause__` is that exception.
        MissingExtraError: torch is not installed.
    """
    try:
        from ampguard.tasks import find_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "doctor dtypes") from error
    task = find_task(target)(**task_options)
    return _examine(task, options)


def _examine(task: "Task", options: Mapping[str, Any]) -> "tuple[dict[str, Any], list[DtypeRow]]":
    from ampguard.engine import Guard
    from ampguard.hardware import inspect, pick_device
    from ampguard.precision import parse_overrides
    from ampguard.precision.dtypes import dtype_table
    from ampguard.tasks.load import users_code
    from ampguard.training import setup
    from ampguard.training.config import make_config
    from ampguard.training.data import open_train_data, to_device

    config = make_config(options, task)
    device = pick_device(config.device)
    overrides = parse_overrides(config.override)
    setup.seed_everything(config.seed, deterministic=False)
    batch = open_train_data(task, batch_size=config.batch_size, seed=config.seed).peek()
    with users_code(f"a forward of the Task '{task.name}'", Path.cwd()):
        batch, model = to_device(batch, device), task.model().to(device).train()
        decision = setup.decide_precision(task, model, batch, config, device)
        optimizer = setup.make_optimizer(task, model, config)
        guard = Guard(
            model, optimizer, decision=decision, overrides=overrides, on_unsupported=config.on_unsupported
        )  # fmt: skip
        with guard.autocast():
            rows = dtype_table(model, lambda: task.loss(model, batch))
    facts = {
        "task": task.name,
        "device": inspect(device).label,
        "precision": vars(decision.record()),
        "overrides": overrides,
    }
    return facts, rows


def fold(rows: "Sequence[DtypeRow]") -> "list[DtypeRow]":
    """Return the rows with those that differ only in the numbers of their fqn made one: "blocks.*.mlp (x6)"."""
    alike: dict[DtypeRow, list[DtypeRow]] = {}
    for row in rows:
        alike.setdefault(replace(row, fqn=_NUMBER.sub("*", row.fqn)), []).append(row)
    return [
        replace(pattern, fqn=f"{pattern.fqn} (x{len(group)})") if len(group) > 1 else group[0]
        for pattern, group in alike.items()
    ]


def table(facts: Mapping[str, Any], rows: "Sequence[DtypeRow]") -> Table:
    """Return the rows as a table, the precision and its reason above them."""
    precision = facts["precision"]
    grid = Table(
        title=f"{facts['task']} in {precision['granted']} ({escape(precision['reason'])})",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    repeated = any(row.calls > 1 for row in rows)
    grid.add_column("module", overflow="fold")
    for heading in ("class", "weights", "inputs", "computes in", "outputs", *["calls"][:repeated]):
        grid.add_column(heading, overflow="fold")
    for row in rows:
        idle = bool(row.kind) and not row.calls
        computes = "never ran" if idle else _dtypes(row.compute)
        cells = [_dtypes(row.weights), _dtypes(row.inputs), computes, _dtypes(row.outputs)]
        calls = [str(row.calls or "")][:repeated]
        fqn = row.fqn or "(the model itself)"
        grid.add_row(escape(fqn), escape(row.kind), *cells, *calls, style="dim" if idle else "")
    return grid


def _dtypes(names: Sequence[str]) -> str:
    short = [_SHORT.get(name, name) for name in names]
    return ", ".join(f"[{_STYLES[name]}]{name}[/]" if name in _STYLES else name for name in short)
