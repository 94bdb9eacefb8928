"""Tests of values at the edge."""

from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenarios import exercised, scenario
from ampguard.auditing.reading.tree import Function

_EDGES = {"extreme-scales": "extreme loss scales", "zero-denominator": "zero", "non-finite": "non-finite values"}


class EdgeCaseTests(Practice):
    """A test tries values at the edge (extreme loss scales, zero, NaN and infinity), where arithmetic breaks first."""

    name = "edge-case-tests"
    title = "Edge-case tests"
    words = ("def test",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every test of an edge, once, with the edges that it tries."""
        found: dict[Function, list[str]] = {}
        for key, edge in _EDGES.items():
            for test, _ in exercised(module, scenario(key)):
                found.setdefault(test.function, []).append(edge)
        for function, edges in found.items():
            yield self.practice(module, function, f"{function.name} tries {' and '.join(edges)}")
