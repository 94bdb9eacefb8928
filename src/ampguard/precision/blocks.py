"""Operations to time in one precision, sized so that a clock can tell, and the rounds that time them.

How it works: the square matrices of a product grow until it takes BLOCK_S and at least four times as long as half the
size (arithmetic alone takes eight times; below four, the clock sees the start of the work, or a busy machine), or
until it takes LONG_S, or memory ends. Shorter work is repeated to fill BLOCK_S. fp32 multiplies at each of those sizes
too, so that a ratio compares the same product. Precisions that compute in the same dtype share their blocks, and so
their figures.

Left out: what the times mean (rates).

Source: McCalpin, STREAM (www.cs.virginia.edu/stream): the triad.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor

from ampguard.precision.autocast import enable_tf32
from ampguard.precision.measure import MAX_ROUNDS, time_rounds
from ampguard.precision.policy import Policy, policy_of

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Rows of the square matrices to try: from what an emulated precision can do to what fills a large GPU."""

BLOCK_S = 0.01
"""Seconds of one timed pass, about: long beside a clock's tick and a kernel's start, short enough for many rounds."""

LONG_S = 0.1
"""Seconds of a product that is long enough whatever the shorter ones took."""

SIZING_S = 0.1
"""Seconds for telling how long one operation takes."""

TRIAD_BYTES = 128 * 2**20
"""Bytes of each of the triad's three arrays: beyond the last cache of most devices."""

Tell = Callable[[str, float], None]
"""Takes what is being done and the share of it that is done, from 0 to 1."""


@dataclass(frozen=True)
class Timing:
    """The seconds of one operation, once for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; the same value where there is one round only."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def as_ms(self) -> dict[str, float | int]:
        """Return {"median", "iqr", "n"} in milliseconds."""
        low, high = self.quartiles
        return {"median": self.median * 1e3, "iqr": (high - low) * 1e3, "n": len(self.seconds)}


class Kernels:
    """The operations that are timed, on real memory of a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # A generator of its own: measuring must not move the process's random numbers.
        self._generator = torch.Generator(device=device).manual_seed(0)
        self._arrays: Tensor | None = None

    def matmul(self, policy: Policy, size: int) -> Callable[[], object]:
        """Return the product of two (size, size) matrices of normal numbers: of zeros, a GPU is faster than it is."""
        a, b = (self._normal(size).to(policy.compute_dtype) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    def _normal(self, size: int) -> Tensor:
        return torch.randn(size, size, generator=self._generator, device=self._device)

    def triad(self, policy: Policy) -> Callable[[], object]:
        """Return a = b + 3 * c over arrays that every dtype shares."""
        if self._arrays is None:
            self._arrays = torch.zeros(3, TRIAD_BYTES, dtype=torch.uint8, device=self._device)
        a, b, c = self._arrays.view(policy.compute_dtype)
        return lambda: torch.add(b, c, alpha=3, out=a)


class Block:
    """An operation, repeated to fill BLOCK_S."""

    def __init__(self, policy: Policy, device: torch.device, run: Callable[[], object], size: int) -> None:
        self._policy, self._device, self._run = policy, device, run
        self.size = size
        self.seconds = 0.0
        self.repeats = 1

    def __call__(self) -> None:
        """Run the operation `repeats` times. Sync: none."""
        enable_tf32(self._policy, self._device)
        for _ in range(self.repeats):
            self._run()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is timed for one precision; beside its product, fp32's of the same size."""

    matmul: Block
    fp32: Block
    triad: Block


class Bench:
    """Finds sizes, then times everything in rounds."""

    def __init__(self, kernels: Kernels, device: torch.device, clock: Callable[[], float]) -> None:
        self._kernels, self._device, self._clock = kernels, device, clock
        self._blocks: dict[Hashable, Block] = {}

    def plan(self, policy: Policy) -> Plan:
        """Return what to time for a precision, tried once.

        Raises:
            RuntimeError: From torch: out of memory, or an operation that the device lacks.
        """
        matmul = self._largest_matmul(policy)
        fp32 = self._matmul(policy_of("fp32"), matmul.size)
        triad = self._block(policy, 0, lambda: self._kernels.triad(policy))
        return Plan(matmul=matmul, fp32=fp32, triad=triad)

    def _largest_matmul(self, policy: Policy) -> Block:
        smaller, found = None, self._matmul(policy, SIZES[0])
        for size in SIZES[1:]:
            if _long_enough(found, smaller):
                break
            try:
                smaller, found = found, self._matmul(policy, size)
            except RuntimeError:
                # Out of memory, for which not every device has an exception of its own; the last size worked.
                break
        return found

    def _matmul(self, policy: Policy, size: int) -> Block:
        return self._block(policy, size, lambda: self._kernels.matmul(policy, size))

    def _block(self, policy: Policy, size: int, make: Callable[[], Callable[[], object]]) -> Block:
        key = (policy.compute_dtype, policy.name == "tf32", size)
        if key not in self._blocks:
            block = Block(policy, self._device, make(), size)
            # The fastest: one that another process held up would look long enough.
            block.seconds = min(self.rounds([block], SIZING_S)[block].seconds)
            block.repeats = max(1, math.ceil(BLOCK_S / block.seconds)) if block.seconds > 0 else 1
            self._blocks[key] = block
        return self._blocks[key]

    def rounds(self, blocks: list[Block], budget_s: float, tell: Tell | None = None) -> dict[Block, Timing]:
        """Return the seconds of each block's operation, round by round."""
        done = 0

        def run(block: Block) -> None:
            nonlocal done
            if tell is not None:
                tell("rounds", done / (1 + len(blocks) * (MAX_ROUNDS + 1)))
            block()
            done += 1

        taken = time_rounds(run, blocks, budget_s=budget_s, clock=self._clock, device=self._device)
        return {block: Timing(tuple(s / block.repeats for s in seconds)) for block, seconds in taken.items()}


def _long_enough(block: Block, smaller: Block | None) -> bool:
    grown = smaller is not None and block.seconds >= 4 * smaller.seconds
    return block.seconds >= LONG_S or (block.seconds >= BLOCK_S and grown)
