"""Tests that take the GPU away."""

from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.scenarios import exercised, scenario


class CpuFallbackTested(Practice):
    """A test shows what happens where there is no GPU, so that the fallback works on the day it is needed."""

    name = "cpu-fallback-tested"
    title = "CPU fallback tested"
    words = ("cuda", "cpu")

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield every test that hides the GPU, or says that it is about its absence and checks the outcome."""
        for test, how in exercised(module, scenario("cpu-fallback")):
            yield self.practice(module, test.function, f"{test.function.name} tests the fallback to the CPU: {how}")
