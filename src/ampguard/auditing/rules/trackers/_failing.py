"""Calls of a tracker that fail by themselves, whatever the network does: what is told of each."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.trackers._before_the_start import calls_before_the_start
from ampguard.auditing.rules.trackers._bound_on_one_path import names_bound_on_one_path
from ampguard.auditing.rules.trackers._unknown_calls import unknown_calls


def failing_calls(module: Module) -> Iterator[tuple[ast.Call, str, Severity]]:
    """Walk such calls with what is wrong and how bad it is."""
    for call, text in unknown_calls(module):
        yield call, text, Severity.MEDIUM
    for call, start in calls_before_the_start(module):
        what = f"`{module.segment(call)}` runs also where {module.segment(start, 30)} (line {start.lineno}) did not"
        yield call, what, Severity.LOW
    for call, name, branch in names_bound_on_one_path(module):
        yield call, f"`{name}` has no value here unless `{module.segment(branch.test)}` held", Severity.LOW
