"""`ampguard doctor`: what this machine can do in each precision, and how that is known."""

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from ampguard.cli.streams import print_json, stdout
from ampguard.errors import MissingExtraError

_STYLES = {"native": "bold green", "emulated": "yellow", "none": "dim", "unknown": "magenta"}


def show(
    *,
    device: str | None = None,
    format: Literal["text", "json"] = "text",
    quiet: Annotated[bool, Parameter(negative="")] = False,
    debug: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Show what a device can do in each precision, with the source of each fact.

    Args:
        device: cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one.
        format: What stdout gets: a table, or one JSON object.
        quiet: No warnings.
        debug: Show ampguard's own frames in errors.
    """
    del quiet, debug
    record = examine(device)
    if format == "json":
        print_json(record)
    else:
        stdout().print(table(record))
        best = record["recommendation"]
        stdout().print(f"Recommended: [bold]{best['precision']}[/bold]. {best['why']}")
    return 0


def examine(device: str | None) -> dict[str, Any]:
    """Return the doctor's record of a device; torch is imported here.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        from ampguard.precision import doctor
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "doctor") from error
    return doctor(device)


def table(record: dict[str, Any]) -> Table:
    """Return the record's precisions as a table."""
    grid = Table(title=record["device"], title_justify="left", title_style="bold")
    for heading in ("precision", "support", "how that is known"):
        grid.add_column(heading, no_wrap=heading != "how that is known")
    for row in record["precisions"]:
        support = row["support"]
        grid.add_row(row["precision"], f"[{_STYLES[support]}]{support}[/]", row["source"])
    return grid
