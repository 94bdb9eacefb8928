"""A bench's result as tables for people."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ampguard.benchmarking.against import Comparison
    from ampguard.benchmarking.report import BenchReport, Parity, Trial
    from ampguard.benchmarking.self_test import SelfTest

_PARITY_STYLES = {"equivalent": "green", "different": "bold red", "inconclusive": "yellow", "not_measured": "dim"}


def result_table(report: "BenchReport") -> Table:
    """Return one row a precision: how fast, how large, how accurate."""
    settings = report.settings
    grid = Table(
        title=f"{report.task} on {report.device}",
        caption=f"torch {settings['torch']}, {settings['threads']} threads, batch {settings['batch_size']}"
        f"{', compiled' if settings['compile'] else ''}; the interval is 95 %, of paired blocks",
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("precision", no_wrap=True)
    for heading in ("ms/step", "speed-up", "interval", "memory MiB", "saved"):
        grid.add_column(heading, justify="right", no_wrap=True)
    sought = any(trial.largest_micro_batch is not None for trial in report.trials)
    if sought:
        grid.add_column("micro-\nbatch", justify="right")
    grid.add_column("accuracy")
    for trial in report.trials:
        *figures, accuracy = _cells(trial, report.baseline)
        largest = [_number(trial.largest_micro_batch, "{:,}")] if sought else []
        grid.add_row(*figures, *largest, accuracy, style="" if trial.status == "ok" else "dim")
    return grid


def _cells(trial: "Trial", baseline: str) -> list[str]:
    if trial.status != "ok":
        return [trial.precision, "-", "-", "-", "-", "-", trial.status]
    times, faster = trial.step_ms, trial.speedup
    is_baseline = trial.precision == baseline
    interval = "" if faster.ci95 is None or is_baseline else f"{faster.ci95[0]:.2f}-{faster.ci95[1]:.2f}"
    saved = trial.memory_reduction_pct
    return [
        trial.precision,
        _number(times.median, "{:,.3g}"),
        "baseline" if is_baseline else _number(faster.median, "{:.2f}x"),
        interval or ("" if is_baseline else "none"),
        _number(trial.peak_memory_mib, "{:,.0f}"),
        "" if is_baseline else _number(saved, "{:.0f} %"),
        "" if is_baseline else _accuracy(trial.parity),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _accuracy(parity: "Parity") -> str:
    word = f"[{_PARITY_STYLES[parity.result]}]{parity.result.replace('_', ' ')}[/]"
    if parity.difference is None:
        return word
    absolute = parity.kind == "absolute"
    return f"{word} {parity.difference if absolute else 100 * parity.difference:+.2g}{'' if absolute else ' %'}"


def notes(report: "BenchReport") -> list[str]:
    """Return what a cell of the table has no room for, a line each: what accuracy rests on, and why figures lack."""
    judged = [trial.parity for trial in report.trials if trial.parity.difference is not None]
    found = [f"accuracy: {p.metric}, {p.seeds} seeds of {p.steps} steps, margin {p.margin:g}" for p in judged[:1]]
    for trial in report.trials:
        if trial.status != "ok":
            found.append(f"{trial.precision} {trial.status}: {trial.reason}")
        elif trial.precision != report.baseline and trial.parity.reason:
            found.append(f"{trial.precision} {trial.parity.result.replace('_', ' ')}: {trial.parity.reason}")
        found += [
            f"{trial.precision}, {name}: {why}" for name, why in trial.reasons.items() if _is_worth_a_line(name, why)
        ]
    return found


def _is_worth_a_line(name: str, why: str) -> bool:
    """Return whether to show why a figure lacks: once for those that lack together, and not what nobody asked for."""
    return name in ("speedup", "peak_memory_mib") or (name == "largest_micro_batch" and "--memory-limit" not in why)


def self_test_table(found: "SelfTest") -> Table:
    """Return one row a check: what was expected, and what was found."""
    grid = Table(
        title=f"self-test: {found.task} on {found.device}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    for heading in ("check", "expected", "found"):
        grid.add_column(heading, overflow="fold")
    grid.add_column("", no_wrap=True)
    for check in found.checks:
        verdict = "[green]passed[/]" if check.passed else "[bold red]failed[/]"
        grid.add_row(escape(check.name), escape(check.expected), escape(check.found), verdict)
    return grid


def against_table(comparison: "Comparison") -> Table:
    """Return then and now, precision by precision, with what else differs below."""
    differs = [f"{name}: {then} -> {now}" for name, (then, now) in comparison.differences.items()]
    grid = Table(
        title=f"against {comparison.old} (not measured side by side: no interval)",
        caption="; ".join(differs) or "same device and settings",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    grid.add_column("precision")
    for heading in ("ms/step then", "now", "times as fast", "speed-up then", "now", "MiB then", "now"):
        grid.add_column(heading, justify="right")
    grid.add_column("accuracy then, now")
    for change in comparison.changes:
        grid.add_row(
            change.precision,
            *(_number(value, "{:,.3g}") for value in change.step_ms),
            _number(change.ratio, "{:.2f}x"),
            *(_number(value, "{:.2f}x") for value in change.speedup),
            *(_number(value, "{:,.0f}") for value in change.peak_memory_mib),
            ", ".join(value or "-" for value in change.parity),
        )
    return grid
