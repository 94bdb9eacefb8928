"""Tests that others inherit: what a class must keep to work under ampguard, as a suite for pytest.

`TrackerContract` is for trackers. Nothing here imports torch, or pytest: a suite is a class of plain asserts.
"""

from ampguard.testing._tracker import FACTS, ROWS, SKIP, SUMMARY, ReadBack, TrackerContract

__all__ = ["FACTS", "ROWS", "SKIP", "SUMMARY", "ReadBack", "TrackerContract"]
