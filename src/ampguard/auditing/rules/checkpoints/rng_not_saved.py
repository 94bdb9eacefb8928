"""A checkpoint without the state of the random number generators."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.checkpoints import restores, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule

_KEPT = ("rng_state", "getstate", "get_state(", "random_state", "rng")


class RngNotSaved(Rule):
    """A resumable checkpoint without random number generators: the run goes on, but not as it would have.

    ## What it does

    Notes, once a file, a checkpoint with model and optimizer that the file also restores, where no state of a
    random number generator is saved.

    ## Why is this bad

    Dropout masks, augmentation and the order of samples after the resume are others than without the interruption.
    That is harmless for most runs, and in the way of those who search a fault or compare two runs bit by bit.

    ## Example

    ```python
    import torch

    def save(model, optimizer, path):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    def resume(model, optimizer, path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    ```

    ## Use instead

    ```python
    import torch

    def save(model, optimizer, path):
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        torch.save(state, path)

    def resume(model, optimizer, path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"]["cpu"])
        torch.cuda.set_rng_state_all(state["rng"]["cuda"])
    ```

    ## Fix safety

    Safe. An exact resume also needs the generators of Python and NumPy, and the position in the data.

    ## References

    - PyTorch notes on reproducibility
    """

    code = "CKP004"
    name = "rng-not-saved"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "A resumed run draws other random numbers than one that was never interrupted."
    risk = "None."
    fix = "Save the states of the torch, CUDA, NumPy and Python generators, and the position in the data."
    words = ("torch.save", "save(", "save_", "checkpoint(")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the file's first resumable save without generators."""
        if module.mentions(_KEPT) or not restores(module):
            return
        for save in saves(module):
            if {"model", "optimizer"} <= save.holds.kinds and "rng" not in save.holds.kinds and not save.holds.open:
                yield self.finding(module, save.call, "the checkpoint holds no state of the random number generators")
                return
