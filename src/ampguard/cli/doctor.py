"""`ampguard doctor`: what this machine can do in each precision, how that is known and, on request, how fast it is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from ampguard.cli import dtypes, ranges, replay
from ampguard.cli.streams import print_json, stderr, stdout
from ampguard.errors import MissingExtraError

_STYLES = {"native": "bold green", "emulated": "yellow", "none": "dim", "unknown": "magenta"}
_SWITCH = Parameter(negative="")


def make_command(tokens: Sequence[str]) -> App:
    """Return the command with its own commands; `tokens` decide which Task's options they show."""
    app = App(name="doctor")
    app.default(show)
    app.command(dtypes.make_command(tokens), name="dtypes")
    app.command(ranges.make_command(tokens), name="ranges")
    app.command(replay.replay, name="replay")
    return app


def show(
    *,
    device: str | None = None,
    measure: Annotated[bool, _SWITCH] = False,
    format: Literal["text", "json"] = "text",
    quiet: Annotated[bool, _SWITCH] = False,
    debug: Annotated[bool, _SWITCH] = False,
) -> int:
    """Show what a device can do in each precision, with the source of each fact.

    Args:
        device: cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one.
        measure: Measure matrix products and memory bandwidth in each precision too: about ten seconds.
        format: What stdout gets: a table, or one JSON object.
        quiet: No progress and no warnings.
        debug: Show ampguard's own frames in errors.
    """
    del debug
    record = examine(device, measure=measure, quiet=quiet)
    if format == "json":
        print_json(record)
    else:
        tell(record)
    return 0


def examine(device: str | None, *, measure: bool, quiet: bool) -> dict[str, Any]:
    """Return the doctor's record of a device; torch is imported here.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        from ampguard.precision import doctor
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "doctor") from error
    if not measure:
        return doctor(device)
    with _progress(quiet) as tell:
        return doctor(device, measure=True, tell=tell)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Give what shows how far a measurement is: a bar on a terminal, one line elsewhere."""
    console = stderr()
    if not quiet and not console.is_terminal:
        console.print("measuring each precision, which takes about ten seconds")
    columns = (TextColumn("measuring: {task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        line = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(line, completed=share, description=what)


def tell(record: dict[str, Any]) -> None:
    """Print a record as a table, and below it what a person should take from it."""
    console = stdout()
    console.print(table(record))
    for line in remarks(record):
        console.print(escape(line), style="yellow")
    best = record["recommendation"]
    console.print(f"Recommended: [bold]{best['precision']}[/bold]. {escape(best['why'])}")


def table(record: dict[str, Any]) -> Table:
    """Return the record's precisions as a table."""
    measured = record["settings"] is not None
    grid = Table(title=record["device"], title_justify="left", title_style="bold", caption_justify="left")
    for heading in ("precision", "support"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("TFLOP/s", "vs fp32", "GB/s") if measured else ():
        grid.add_column(heading, no_wrap=True, justify="right")
    grid.add_column("how that is known")
    for row in record["precisions"]:
        support = row["support"]
        figures = ("measured_tflops", "ratio_to_fp32", "bandwidth_gb_per_s") if measured else ()
        cells = [_short(row[name]) for name in figures]
        grid.add_row(row["precision"], f"[{_STYLES[support]}]{support}[/]", *cells, escape(row["source"]))
    if measured:
        grid.caption = _how_measured(record)
    return grid


def remarks(record: dict[str, Any]) -> list[str]:
    """Return what the figures mean in words: a busy machine, native and yet slower, asked for and not measured."""
    lines = [*_busy(record["settings"] or {})]
    for row in record["precisions"]:
        if row["slower_than_fp32"] and row["support"] == "native":
            ratio = _short(row["ratio_to_fp32"])
            lines.append(f"{row['precision']} is native here and measured slower than fp32: {ratio} times its rate.")
        if row["reason"] not in (None, row["source"]):
            lines.append(f"{row['precision']} was not measured: {row['reason']}.")
    return lines


def _busy(settings: dict[str, Any]) -> Iterator[str]:
    load, cores = settings.get("load_average"), settings.get("cores")
    if load is not None and cores and load > cores / 2:
        yield f"The machine was busy before (load average {load:.1f} on {cores} cores): idle, it may do more than this."


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _how_measured(record: dict[str, Any]) -> str:
    rows = [row for row in record["precisions"] if row["matmul_ms"] is not None]
    settings = record["settings"]
    about = f"torch {settings['torch']}, {settings['threads']} threads"
    if not rows:
        return about
    times = [row[name] for row in rows for name in ("matmul_ms", "triad_ms")]
    spread = max((time["iqr"] / time["median"] for time in times if time["median"] > 0), default=0.0)
    sizes = sorted({row["matmul_shape"][0] for row in rows})
    return (
        f"Products of {', '.join(map(str, sizes))} rows, and a triad over three arrays of "
        f"{settings['triad_array_bytes'] / 2**20:.0f} MiB. Medians of {min(time['n'] for time in times)} rounds, "
        f"interquartile ranges within {spread:.1%} of them. {about}."
    )
