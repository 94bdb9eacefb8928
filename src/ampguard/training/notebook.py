"""A run in a notebook: one output cell area with a bar, the last figures and the validations, updated in place."""

import html
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any

from ampguard.records import Event
from ampguard.training.progress import TOLD, NullProgress, Outline, Progress, figures

INTERVAL_S = 0.5
"""Seconds between two updates: a browser gains nothing from more."""


def default_progress() -> Progress:
    """Return a NotebookProgress where Python runs in a notebook, else a NullProgress."""
    return NotebookProgress() if in_notebook() else NullProgress()


def in_notebook() -> bool:
    """Return whether this Python is the kernel of a notebook. Imports nothing that is not there already."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress(Progress):
    """Shows a run as HTML through IPython's display, which every notebook has."""

    def __init__(self) -> None:
        self._step = 0
        self._shown_at = 0.0
        self._figures = ""
        self._lines: list[str] = []
        self._outline: Outline | None = None
        self._handle: Any = None

    def start(self, outline: Outline) -> None:  # noqa: D102
        from IPython.display import HTML, display

        self._outline, self._step = outline, outline.first_step
        self._handle = display(HTML(self._page()), display_id=True)

    def step(self, step: int) -> None:  # noqa: D102
        self._step = step
        if monotonic() - self._shown_at >= INTERVAL_S:
            self._show()

    def row(self, row: Mapping[str, float | int]) -> None:  # noqa: D102
        validated = {key: value for key, value in row.items() if key.startswith("val/")}
        rest = {key: value for key, value in row.items() if key not in validated}
        if rest.keys() - {"step"}:
            self._figures = figures(rest)
        if validated:
            self._tell(f"step {row['step']}: {figures(validated)}")

    def event(self, event: Event) -> None:  # noqa: D102
        if event.kind in TOLD:
            self._tell(f"step {event.step}: {event.kind}: {event.message}")

    def stop(self) -> None:  # noqa: D102
        self._show()

    def _tell(self, line: str) -> None:
        self._lines.append(line)
        self._show()

    def _show(self) -> None:
        if self._handle is None:
            return
        from IPython.display import HTML

        self._shown_at = monotonic()
        self._handle.update(HTML(self._page()))

    def _page(self) -> str:
        run = self._outline
        if run is None:
            return ""
        head = f"<b>{_text(run.task)}</b>: {run.parameters:,} parameters on {_text(run.device)}"
        bar = f'<progress value="{self._step}" max="{run.steps}" style="width: 20em"></progress>'
        lines = "<br>".join(_text(line) for line in self._lines)
        return (
            f"<div>{head}<br>precision {_text(run.precision)}<br>run folder <code>{_text(run.run_dir)}</code><br>"
            f"{bar} {self._step}/{run.steps} &ensp;{_text(self._figures)}<br>{lines}</div>"
        )


def _text(value: str) -> str:
    return html.escape(value)
