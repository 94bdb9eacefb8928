"""`ampguard track RUN --to NAME`: a run that is over, sent to trackers. Imports no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ampguard.cli.streams import print_json, stderr, stdout
from ampguard.errors import ConfigError, MissingExtraError, RunFolderError
from ampguard.records import SCHEMA
from ampguard.run_folder import read_record, read_run
from ampguard.tracking import ReplayProgress, Sent, described, find_tracker, replay, tracker_names

_SWITCH = Parameter(negative="", show_default=False)


def track(
    run: Path,
    /,
    *,
    to: Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)] = (),
    timeout: float = 30.0,
    format: Literal["text", "json"] = "text",
    quiet: Annotated[bool, _SWITCH] = False,
    debug: Annotated[bool, _SWITCH] = False,
) -> int:
    """Send a run to a tracker later: all of it, or what the tracker missed while it was out of reach.

    Rows and events go in order, each once; what was sent before is not sent again. Exit code 3: the tracker failed.

    Args:
        run: A run folder that no process writes into.
        to: wandb, tensorboard, mlflow, trackio, or one of your own as my_tracker.py:MyTracker. May be repeated.
        timeout: Seconds in which nothing could be delivered, after which it gives up.
        format: What stdout gets: lines, or one JSON object.
        quiet: No progress and no warnings.
        debug: Show ampguard's own frames in errors.
    """
    del debug
    facts = described(run, read_run(run))
    names = _names(to)
    if not timeout >= 0:
        raise ConfigError(f"timeout is {timeout!r}; it must be a number >= 0.")
    with _locked(run), _progress(quiet=quiet) as progress:
        sent = replay(names, run, facts=facts, summary=read_record(run) or {}, timeout_s=timeout, progress=progress)
    _answer(sent, run, as_json=format == "json", quiet=quiet)
    return 0


def _names(to: tuple[str, ...]) -> tuple[str, ...]:
    if not to:
        raise ConfigError("no tracker was named.", allowed=tracker_names(), hint="Give --to NAME.")
    for name in to:
        find_tracker(name)
    return tuple(dict.fromkeys(to))


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run folder: two processes that deliver the same run would send rows twice."""
    try:
        from filelock import FileLock, Timeout
    except ModuleNotFoundError as error:
        raise MissingExtraError("filelock", "train", "track") from error
    lock = FileLock(run / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunFolderError(
            f"run folder {run} is in use by another process.",
            hint="A run delivers by itself, with --track; wait until it is over.",
        ) from None
    except OSError as error:
        raise RunFolderError(f"run folder {run} cannot be written: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def _answer(sent: list[Sent], run: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        trackers = [{"tracker": s.tracker, "rows": s.rows, "events": s.events, "where": dict(s.where)} for s in sent]
        print_json({"schema": SCHEMA, "status": "delivered", "run_dir": str(run), "trackers": trackers})
    elif not quiet:
        for one in sent:
            stdout().print(str(one), markup=False, soft_wrap=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[ReplayProgress]:
    columns: Any = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield _Bars(bar)


class _Bars(ReplayProgress):
    """One bar a tracker; on a stderr that is no terminal, nothing."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._lines: dict[str, TaskID] = {}

    def sent(self, tracker: str, done: int, total: int) -> None:
        if tracker not in self._lines:
            self._lines[tracker] = self._bar.add_task(tracker, total=total)
        self._bar.update(self._lines[tracker], completed=done)
