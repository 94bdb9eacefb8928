"""A tracker that may fail without stopping the training."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.critical import critical_calls
from ampguard.auditing.reading.handlers import Catch, catches
from ampguard.auditing.reading.kinds import tracker_call
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk_scope


class TrackerIsolation(Practice):
    """A call to a tracker stands in a `try` that tells what failed and goes on.

    A broad handler is right here: a tracker may raise anything (network, disk, its own bugs), none of which is worth a
    training run. It has to be told, with the error, and the block must hold no step and no checkpoint.
    """

    name = "tracker-isolation"
    title = "Tracker isolation"
    words = ("except",)
    covers = ("ERR004",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every handler that isolates a tracker."""
        for catch in catches(module):
            if not catch.broad or catch.bare or catch.raises or not (catch.logs and catch.uses):
                continue
            tracker = _tracker(catch)
            if tracker is not None and not critical_calls(module, catch.guarded):
                message = f"A failure of {tracker} is told and does not stop the training"
                yield self.practice(module, catch.statement, message, end=catch.node)


def _tracker(catch: Catch) -> str | None:
    for statement in catch.guarded:
        for node in (statement, *walk_scope(statement)):
            if isinstance(node, ast.Call) and (found := tracker_call(catch.module, node)):
                return found
    return None
