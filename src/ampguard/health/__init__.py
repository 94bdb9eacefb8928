"""Why a run does not move: the module that made a number non-finite, and what to do about it."""

from ampguard.health.advice import Advice, advise
from ampguard.health.locate import Finding, Locator
from ampguard.health.ranges import Ranges
from ampguard.health.sentinel import Seen, Sentinel

__all__ = ["Advice", "Finding", "Locator", "Ranges", "Seen", "Sentinel", "advise"]
