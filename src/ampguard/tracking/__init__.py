"""Where the numbers of a run go: its log, the trackers that are sent it, and how they are.

A tracker is a public module of this package that defines one `Tracker`; the module's name is the tracker's name, so
there is no list to edit. What is no tracker has a name that starts with `_`. Nothing here imports torch.
"""

from ampguard.tracking._base import NullTracker, Row, Tracker
from ampguard.tracking._deliveries import Deliveries, described, stuck
from ampguard.tracking._find import find_tracker, make_tracker, tracker_names
from ampguard.tracking._high_water import HighWater, lower_marks
from ampguard.tracking._replay import ReplayProgress, Sent, replay
from ampguard.tracking._rows import read_rows
from ampguard.tracking._run_log import RunLog

__all__ = [
    "Deliveries",
    "HighWater",
    "NullTracker",
    "ReplayProgress",
    "Row",
    "RunLog",
    "Sent",
    "Tracker",
    "described",
    "find_tracker",
    "lower_marks",
    "make_tracker",
    "read_rows",
    "replay",
    "stuck",
    "tracker_names",
]
