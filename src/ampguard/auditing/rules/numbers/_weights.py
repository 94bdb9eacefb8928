"""How bad each kind of zero is as a divisor, how likely, and how it shows itself."""

from dataclasses import dataclass

from ampguard.auditing.findings import Severity
from ampguard.auditing.reading.zeros import Kind


@dataclass(frozen=True)
class Weight:
    """How bad a kind of zero is, and how it shows itself."""

    severity: Severity
    likelihood: str
    impact: str


LOST = "ZeroDivisionError ends the run at this line, and what was not saved is lost."
_SLOW = "ZeroDivisionError in place of a report, on a run so short that the clock did not tick."
WEIGHTS: dict[Kind, Weight] = {
    "index": Weight(Severity.MEDIUM, "certain", "ZeroDivisionError on the first pass."),
    "counted": Weight(Severity.MEDIUM, "possible", LOST),
    "filtered": Weight(Severity.MEDIUM, "possible", LOST),
    "whole time": Weight(Severity.MEDIUM, "possible", "ZeroDivisionError whenever less than one unit passed."),
    "floored": Weight(
        Severity.MEDIUM, "possible", "ZeroDivisionError on a small data set, such as one for a trial run."
    ),
    "waiting": Weight(Severity.MEDIUM, "possible", LOST),
    "state": Weight(
        Severity.LOW, "possible", "ZeroDivisionError where the value is asked for before the first update."
    ),
    "since": Weight(
        Severity.LOW, "possible", "ZeroDivisionError where nothing was left to go through, as in a resumed run."
    ),
    "chosen": Weight(Severity.LOW, "possible", LOST),
    "quotient": Weight(
        Severity.LOW, "possible", "ZeroDivisionError where the first of the two numbers is the smaller."
    ),
    "ratio": Weight(Severity.LOW, "possible", "ZeroDivisionError where nothing was found, as early in a training."),
    "masked": Weight(Severity.LOW, "possible", "ZeroDivisionError where no element meets the condition."),
    "positives": Weight(Severity.LOW, "possible", "A loss of inf or NaN for a batch without a single target."),
    "relative": Weight(Severity.LOW, "possible", "A loss or metric of inf or NaN for data that holds a 0."),
    "void": Weight(
        Severity.LOW, "possible", "NaN or inf where there is nothing, and in all that is worked out from it."
    ),
    "nothing": Weight(Severity.LOW, "possible", "ZeroDivisionError where there is nothing, or both are 0."),
    "setting": Weight(Severity.LOW, "possible", "ZeroDivisionError for a run that is to have no such phase."),
    "option": Weight(Severity.LOW, "possible", "ZeroDivisionError where the option keeps its default."),
    "single": Weight(Severity.LOW, "unlikely", "ZeroDivisionError for a single item, epoch or step."),
    "equal": Weight(Severity.LOW, "unlikely", "ZeroDivisionError where the two settings are equal."),
    "dropped": Weight(Severity.LOW, "possible", "ZeroDivisionError on a small data set, such as one for a trial run."),
    "listed": Weight(Severity.LOW, "possible", "ZeroDivisionError on an empty folder, in place of a message."),
    "memory": Weight(Severity.LOW, "possible", "ZeroDivisionError where nothing ran on that device, as on a CPU."),
    "devices": Weight(Severity.LOW, "possible", "ZeroDivisionError on a machine without a GPU."),
    "empty": Weight(Severity.INFO, "unlikely", "ZeroDivisionError on an empty split or loader, in place of a message."),
    "time": Weight(Severity.LOW, "unlikely", _SLOW),
    "spread": Weight(
        Severity.LOW, "possible", "NaN or inf for an input that does not vary, such as silence or padding."
    ),
    "scale": Weight(Severity.LOW, "unlikely", "ZeroDivisionError once the loss scale has collapsed."),
    "text": Weight(Severity.LOW, "possible", "ZeroDivisionError at the first empty text of the data."),
}
