"""A checkpoint that carries the loss scale."""

from collections.abc import Iterator

from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.practices._base import Practice
from ampguard.auditing.reading.checkpoints import restored, saves
from ampguard.auditing.reading.module import Module


class ScalerInCheckpoint(Practice):
    """The state of the gradient scaler is saved beside the optimizer's, and loaded with it.

    A resumed run goes on with the loss scale that it had, instead of skipping steps until it is found again.
    """

    name = "scaler-in-checkpoint"
    title = "Complete resume"
    words = ("scaler",)

    def check(self, module: Module) -> Iterator[GoodPractice]:
        """Yield the first save that holds both, in a file that restores both or leaves loading to another."""
        loads = restored(module)
        if "optimizer" in loads and "scaler" not in loads:
            return
        for save in saves(module):
            if {"optimizer", "scaler"} <= save.holds.kinds:
                told = "saved and restored" if "scaler" in loads else "saved"
                yield self.practice(module, save.call, f"The scaler's state is {told} with the optimizer's")
                return
