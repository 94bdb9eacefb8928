"""`ampguard doctor ranges [TASK]`: how large the numbers in a Task's model are, and what a format would make of them.

The first steps of `ampguard train --precision fp32` with the same options are run and measured; nothing is kept of the
run. How it is shown stands in range_view.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ampguard.cli.range_view import show
from ampguard.cli.streams import print_json, stderr, stdout
from ampguard.cli.task_flags import DEFAULT_TASK, flags_of, given, options_of, target_of
from ampguard.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from ampguard.task import Task
    from ampguard.training.data import TrainData

STEPS = 5
"""Steps that are measured, where nobody says: enough for the optimizer's first updates to show in the weights."""

Format = Literal["fp16", "bf16", "e4m3", "e5m2"]


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_ours = list(tokens[:2]) == ["doctor", "ranges"]
    target_here = target_of(tokens[1:]) if is_ours else DEFAULT_TASK
    task_options = flags_of(target_here, options_of(target_here) if is_ours else {})

    def ranges(
        target: str = DEFAULT_TASK,
        /,
        *,
        steps: int = STEPS,
        for_: Annotated[Format, Parameter(name="--for")] = "fp16",
        batch_size: int | None = None,
        device: str | None = None,
        out: Path | None = None,
        task: Any = None,
        all: Annotated[bool, Parameter(negative="")] = False,
        format: Literal["text", "json"] = "text",
        quiet: Annotated[bool, Parameter(negative="")] = False,
        debug: Annotated[bool, Parameter(negative="")] = False,
    ) -> int:
        """Show which modules' values or gradients leave a format's range, and what to keep in fp32.

        Args:
            target: text, digits, or PATH:build, where PATH is a module or a .py file; named first.
            steps: Training steps to measure, from the first on, in fp32.
            for_: The format to judge by: fp16, bf16, e4m3 or e5m2. JSON has the shares of all.
            batch_size: Samples a step; by default the Task's own.
            device: cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one.
            out: A file for the JSON object, beside what is shown.
            task: Options of the Task.
            all: A line for each module: no folding of blocks that are alike. JSON always has all.
            format: What stdout gets: a table and a heat map, or one JSON object.
            quiet: No progress and no warnings.
            debug: Show ampguard's own frames in errors.
        """
        del debug
        options = {"batch_size": batch_size, "device": device, "precision": "fp32"}
        record = examine(target, given(task, tokens, "task."), options, steps=steps, format=for_, quiet=quiet)
        if out is not None:
            _write(out, record)
        if format == "json":
            print_json(record)
        else:
            show(stdout(), record, fold=not all)
        return 0

    ranges.__annotations__["task"] = Annotated[task_options, Parameter(name="--task")]
    ranges.__kwdefaults__ = {**(ranges.__kwdefaults__ or {}), "task": task_options()}
    return ranges


def examine(
    target: str,
    task_options: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    steps: int,
    format: str,
    quiet: bool,
) -> dict[str, Any]:
    """Train a Task for some steps and return what was measured, as in ranges.json.

    Args:
        target: The Task.
        task_options: Options of its `build`.
        options: Fields of TrainConfig.
        steps: How many.
        format: What the recommendation is for.
        quiet: No progress.

    Raises:
        InputError: The Task or an option cannot work.
        TaskError: The model or its loss raised; `__cause__` is that exception.
        MissingExtraError: torch is not installed.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; it must be an integer >= 1.")
    try:
        from ampguard.tasks import find_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "doctor ranges") from error
    with _progress(steps, quiet) as tell:
        return _examine(find_task(target)(**task_options), options, steps=steps, format=format, tell=tell)


def _examine(
    task: "Task", options: Mapping[str, Any], *, steps: int, format: str, tell: Callable[[], None]
) -> dict[str, Any]:
    from ampguard.engine import Guard
    from ampguard.hardware import inspect, pick_device
    from ampguard.health.range_record import ranges_record
    from ampguard.health.ranges import Ranges
    from ampguard.tasks.load import users_code
    from ampguard.training import setup
    from ampguard.training.config import make_config
    from ampguard.training.data import open_train_data, to_device

    config = make_config(options, task)
    device = pick_device(config.device)
    setup.seed_everything(config.seed, deterministic=False)
    data = open_train_data(task, batch_size=config.batch_size, seed=config.seed)
    total = config.steps or (config.epochs or 1) * (data.batches_per_epoch or 1)
    with users_code(f"a step of the Task '{task.name}'", Path.cwd()):
        model = task.model().to(device).train()
        guard = Guard(
            model,
            setup.make_optimizer(task, model, config),
            precision=config.precision,
            max_grad_norm=config.max_grad_norm or None,
            schedule=setup.make_schedule(task, config, total),
        )
        ranges = Ranges(model)
        for batch in islice(_endless(data), steps):
            with ranges:
                with guard.autocast():
                    loss = task.loss(model, to_device(batch, device))
                guard.backward(loss)
            guard.step()
            tell()
    return ranges_record(
        ranges,
        task=task.name,
        device=inspect(device).label,
        precision=guard.decision.granted,
        steps=range(1, steps + 1),
        format=format,
    )


def _endless(data: "TrainData") -> Iterator[Any]:
    for epoch in count():
        yield from data.batches(epoch)


@contextmanager
def _progress(steps: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Give what is called after each step: a bar on a terminal, one line elsewhere."""
    console = stderr()
    if not quiet and not console.is_terminal:
        console.print(f"measuring {steps} training step{'s' * (steps != 1)} in fp32")
    columns = (TextColumn("measuring training steps in fp32"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        line = bar.add_task("", total=steps)
        yield lambda: bar.advance(line)


def _write(path: Path, record: dict[str, Any]) -> None:
    from ampguard.health.range_record import write_record

    try:
        write_record(path, record)
    except OSError as error:
        raise ConfigError(f"out {path} cannot be written: {error.strerror}.", hint="Give another --out.") from error
