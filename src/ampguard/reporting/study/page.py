"""The page of a search: its verdict first, then how it went, what mattered, and every trial."""

from markupsafe import Markup

from ampguard.reporting.charts import Chart
from ampguard.reporting.sheet import TONES, Sheet
from ampguard.reporting.study import draw
from ampguard.reporting.study.read import Study, Trial
from ampguard.reporting.words import count, duration, number

KINDS = ("best", "default", "complete", "pruned", "failed")
"""Kinds of trials, as legends name them."""

STATE_TONES = {"complete": "good", "pruned": "news", "failed": "bad"}
MOST = 500
"""Trials in the table at most; study.json has all."""


def render_page(study: Study) -> str:
    """Return the report of a search as HTML."""
    return StudyPage(study).render()


class StudyPage(Sheet):
    """What the template asks for."""

    brand = "ampguard tune"
    template = "study.html.j2"
    styles = ("report.css", "study.css")

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study
        self.kinds = KINDS

    @property
    def heading(self) -> str:
        """The Task."""
        return f"{self.study.task}: {self.study.metric}"

    @property
    def title(self) -> str:
        """What the browser's tab shows."""
        return f"{self.study.task} - ampguard tune"

    @property
    def charts(self) -> list[Chart]:
        """None: each point tells its own trial."""
        return []

    @property
    def tone(self) -> str:
        """Colour of the status."""
        return TONES.get(self.study.status, "odd")

    @property
    def facts(self) -> list[str]:
        """How it was searched."""
        settings, study = self.study.settings, self.study
        direction = "lower is better" if study.minimized else "higher is better"
        known = [f"{name} {settings[name]}" for name in ("precision", "pruner", "seed") if name in settings]
        return [direction, count(len(study.trials), "trial"), f"in {duration(study.wall_s)}", *known]

    @property
    def counts(self) -> list[tuple[str, str, str]]:
        """(name, value, note): the best, the default, and how many trials ended in each state."""
        study = self.study
        best = next((trial.value for trial in study.trials if trial.number == study.best), None)
        of_best = "no trial is complete" if study.best is None else f"trial {study.best}"
        states = [trial.state for trial in study.trials]
        counted = [(state, str(states.count(state)), "trials") for state in STATE_TONES]
        return [
            ("best", number(best), of_best),
            ("default", number(study.default_value), "trial 0's configuration"),
            *counted,
        ]

    @property
    def any_value(self) -> bool:
        """Whether any trial has a value."""
        return any(trial.value is not None for trial in self.study.trials)

    @property
    def any_curve(self) -> bool:
        """Whether any trial was validated."""
        return any(trial.curve for trial in self.study.trials)

    @property
    def cautions(self) -> list[str]:
        """What to keep in mind."""
        lost = [f"trial {number}: {why}; trial {again} ran it again" for number, why, again in self.study.lost]
        return [*self.study.warnings, *lost]

    @property
    def shown(self) -> list[Trial]:
        """Trials of the table, the best first."""
        sign = 1.0 if self.study.minimized else -1.0

        def place(trial: Trial) -> tuple[int, float, int]:
            rank = list(STATE_TONES).index(trial.state) if trial.state in STATE_TONES else len(STATE_TONES)
            return rank, 0.0 if trial.value is None else sign * trial.value, trial.number

        return sorted(self.study.trials, key=place)[:MOST]

    @property
    def unshown(self) -> int:
        """How many trials the table leaves out."""
        return max(0, len(self.study.trials) - MOST)

    def state_tone(self, state: str) -> str:
        """Return the colour of a state."""
        return STATE_TONES.get(state, "odd")

    def cell(self, value: object) -> str:
        """Return a parameter as people write it."""
        return number(value) if isinstance(value, float) else ("-" if value is None else str(value))

    def sign(self, kind: str) -> Markup:
        """Return the sign of a kind of trial."""
        return draw.swatch(kind)

    def history(self) -> Markup:
        """Return the figure."""
        return draw.draw_history(self.study)

    def importance(self) -> Markup:
        """Return the figure."""
        return draw.draw_importance(self.study)

    def parallel(self) -> Markup:
        """Return the figure."""
        return draw.draw_parallel(self.study)

    def slices(self) -> list[tuple[str, str, Markup]]:
        """Return (parameter, what was searched, figure)."""
        drawn = [(name, text, draw.draw_slice(self.study, name)) for name, text in self.study.space.items()]
        return [one for one in drawn if one[2]]

    def intermediate(self) -> Markup:
        """Return the figure."""
        return draw.draw_intermediate(self.study)
