"""`ampguard bench [TASK]`: flags from BenchConfig and from the Task's own `build`; a verdict."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ampguard.benchmarking.config import BenchConfig, make_config
from ampguard.cli.bench_table import against_table, notes, result_table, self_test_table
from ampguard.cli.bench_watch import make_watch
from ampguard.cli.streams import print_json, stderr, stdout
from ampguard.cli.task_flags import DEFAULT_TASK, flags_of, given, options_of, target_of
from ampguard.errors import MissingExtraError

if TYPE_CHECKING:
    from ampguard.benchmarking.report import BenchReport
    from ampguard.benchmarking.self_test import SelfTest

_SWITCH = Parameter(negative="")
NO, INTERRUPTED = 1, 130
"""Exit codes: a requirement is not met, or the self-test failed; Ctrl-C."""


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_bench = bool(tokens) and tokens[0] == "bench"
    target_here = target_of(tokens) if is_bench else DEFAULT_TASK
    task_options = flags_of(target_here, options_of(target_here) if is_bench else {})

    def bench(
        target: str = DEFAULT_TASK,
        /,
        *,
        options: Any = None,
        task: Any = None,
        self_test: bool = False,
        format: str = "text",
        quiet: bool = False,
        debug: bool = False,
    ) -> int:
        """Compare precisions on a Task: is a lower one faster here, smaller, and as accurate?

        Args:
            target: text, digits, or PATH:build, where PATH is a module or a .py file; named first.
            options: What to compare, and for how long.
            task: Options of the Task.
            self_test: Test the bench itself, on this Task and machine: fp32 against itself, and two planted faults.
            format: What stdout gets: tables and a verdict, or the report as one JSON object.
            quiet: No progress and no warnings.
            debug: Show ampguard's own frames in errors.
        """
        del debug
        flags, chosen = given(options, tokens), given(task, tokens, "task.")
        make_config(flags)
        run_bench, run_self_test, find_task = _torch_side()
        origin = {"target": target, "options": dict(chosen)}
        built, as_json = find_task(target)(**chosen), format == "json"
        if self_test:
            found = run_self_test(built, origin=origin, told=_plainly(quiet=quiet), **flags)
            return _answer_self_test(found, as_json=as_json, quiet=quiet)
        report = run_bench(built, origin=origin, watch=make_watch(quiet=quiet), **flags)
        return _answer(report, tokens, as_json=as_json, quiet=quiet)

    bench.__annotations__ |= {
        "options": Annotated[BenchConfig | None, Parameter(name="*", negative_iterable=(), negative_bool="")],
        "task": Annotated[task_options, Parameter(name="--task")],
        "self_test": Annotated[bool, _SWITCH],
        "format": Literal["text", "json"],
        "quiet": Annotated[bool, _SWITCH],
        "debug": Annotated[bool, _SWITCH],
    }
    bench.__kwdefaults__ = {**(bench.__kwdefaults__ or {}), "task": task_options()}
    return bench


def _torch_side() -> tuple[Any, Any, Any]:
    """Return what needs torch: bench, its self-test, and what finds a Task."""
    try:
        from ampguard.benchmarking.run import bench
        from ampguard.benchmarking.self_test import self_test
        from ampguard.tasks import find_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "bench") from error
    return bench, self_test, find_task


def _answer(report: "BenchReport", tokens: Sequence[str], *, as_json: bool, quiet: bool) -> int:
    if as_json:
        print_json(report.as_dict())
    elif not quiet:
        _tell(report, tokens)
    if report.status == "interrupted":
        return INTERRUPTED
    return NO if report.unmet else 0


def _tell(report: "BenchReport", tokens: Sequence[str]) -> None:
    console = stdout()
    console.print(result_table(report))
    if report.against is not None:
        console.print(against_table(report.against))
    for warning in report.warnings:
        stderr().print(f"warning: {warning}", style="yellow", markup=False)
    for note in notes(report):
        console.print(note, style="dim", markup=False, soft_wrap=True)
    console.print(report.recommendation.why, style="bold", markup=False, soft_wrap=True)
    for failure in report.unmet:
        console.print(f"not met: {failure}", style="bold red", markup=False, soft_wrap=True)
    console.print(f"figures, samples and settings: {report.out}/bench.json", markup=False, soft_wrap=True)
    page = Path(report.out, "report.html")
    if page.exists():
        console.print(f"to look at: {page}", markup=False, soft_wrap=True)
    if report.status == "interrupted":
        console.print(f"Continue: {_continuation(report, tokens)}", markup=False, soft_wrap=True)


def _continuation(report: "BenchReport", tokens: Sequence[str]) -> str:
    """Return the command that goes on with an interrupted bench: the same one, with the folder named."""
    added = [] if any(token.startswith("--resume") for token in tokens) else ["--resume"]
    if not any(token.partition("=")[0] == "--out" for token in tokens):
        added += ["--out", report.out]
    return shlex.join(["ampguard", *tokens, *added])


def _plainly(*, quiet: bool) -> Callable[[str], None]:
    console = stderr()
    return lambda stage: None if quiet else console.print(stage, markup=False)


def _answer_self_test(found: "SelfTest", *, as_json: bool, quiet: bool) -> int:
    if as_json:
        print_json(found.as_dict())
    elif not quiet:
        stdout().print(self_test_table(found))
        stdout().print(found.note, markup=False, soft_wrap=True)
    return 0 if found.passed else NO
