"""`ampguard doctor replay BUNDLE`: run a step that was not finite again, and fp32 beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ampguard.cli.streams import print_json, stdout
from ampguard.errors import MissingExtraError

if TYPE_CHECKING:
    from ampguard.training.replay_answer import Pass, Replay

_SWITCH = Parameter(negative="")


def replay(
    bundle: Path,
    /,
    *,
    device: str | None = None,
    rerun: int = 500,
    target: str | None = None,
    format: Literal["text", "json"] = "text",
    quiet: Annotated[bool, _SWITCH] = False,
    debug: Annotated[bool, _SWITCH] = False,
) -> int:
    """Run the step of a replay bundle again, in its precision and in fp32 beside it, and name what was not finite.

    The answer is in the output: 0 whether or not the step was not finite again, 2 for a bundle that cannot be used.

    Args:
        bundle: Its folder: runs/NAME/replay/step-00000120.
        device: cpu, cuda, cuda:1, mps, xpu; by default the kind that the run was on, if this machine has one.
        rerun: Most steps to run again from a checkpoint to reach the exact weights.
        target: The Task, as in train; by default the one that the bundle names.
        format: What stdout gets: a report, or one JSON object.
        quiet: No warnings.
        debug: Show ampguard's own frames in errors.
    """
    del quiet, debug
    try:
        from ampguard.replaying import replay as run_again
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "doctor replay") from error
    found = run_again(bundle, target=target, device=device, rerun=rerun)
    if format == "json":
        print_json(found.as_dict())
    else:
        tell(found)
    return 0


def tell(found: "Replay") -> None:
    """Print what came of a replay."""
    console = stdout()
    again = "[bold red]not finite again[/]" if found.reproduced else "[bold yellow]finite this time[/]"
    console.print(f"Step {found.step} ({escape(found.event)}): {again}")
    console.print(table(found))
    finding = found.run.finding
    if finding is not None:
        console.print(f"First not finite: {escape(finding.message())}", soft_wrap=True)
        console.print(escape(_sizes(found.run)), soft_wrap=True)
    for remark in (*found.remarks, _exactness(found)):
        console.print(escape(remark[:1].upper() + remark[1:] + "."), style="dim", soft_wrap=True)
    console.print(escape(found.advice), soft_wrap=True)
    if found.command:
        console.print(f"Try: [bold]{escape(found.command)}[/]", soft_wrap=True)


def table(found: "Replay") -> Table:
    """Return both runs of the step as a table."""
    grid = Table(box=SIMPLE_HEAD)
    for heading in ("precision", "gradients", "loss", "grad_norm"):
        grid.add_column(heading, no_wrap=True)
    for row in (found.run, found.fp32)[: 1 if found.fp32 is found.run else 2]:
        scale = f" (loss scale {found.loss_scale:g})" if row is found.run and found.loss_scale is not None else ""
        gradients = "[green]finite[/]" if row.finite else "[red]not finite[/]"
        grid.add_row(f"{row.precision}{scale}", gradients, _number(row.loss), _number(row.grad_norm))
    return grid


def _sizes(row: "Pass") -> str:
    finding = row.finding
    if finding is None:
        return ""
    largest = "none" if finding.max_abs_before is None else f"{finding.max_abs_before:.6g}"
    return f"Largest finite |x| before it: {largest}; {finding.dtype} ends at {finding.limit:.6g}."


def _exactness(found: "Replay") -> str:
    if found.exact:
        return "weights, generators and batch are those of the run"
    return "this is not exactly the run's own step"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
