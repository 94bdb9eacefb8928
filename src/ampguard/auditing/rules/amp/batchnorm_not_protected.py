"""BatchNorm's running statistics and steps that are skipped."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import regions_in, truth
from ampguard.auditing.reading.tree import argument, receiver
from ampguard.auditing.rules._base import Rule

_LAYERS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


class BatchnormNotProtected(Rule):
    """A model with BatchNorm trains with a float16 scaler: a skipped step has updated the running statistics already.

    ## What it does
    Notes, once a file, a scaler in a file that also builds BatchNorm layers and autocasts to float16.

    ## Why is this bad
    The scaler takes back the optimizer's step when gradients overflow, but the forward pass has already moved
    `running_mean` and `running_var`. If the activations themselves were infinite, they stay so, and evaluation is NaN.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    scaler = torch.amp.GradScaler("cuda")


    def step(optimizer, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8))
    scaler = torch.amp.GradScaler("cuda")


    def step(optimizer, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Another layer changes the model. Checking the loss for infinity, and putting the buffers back on a skipped step,
    does not.

    ## References
    - https://pytorch.org/docs/stable/amp.html#gradient-scaling
    """

    code = "AMP034"
    name = "batchnorm-not-protected"
    severity = Severity.INFO
    likelihood = "unlikely"
    impact = "A forward pass that overflows leaves infinite running statistics behind, which the skipped step keeps."
    risk = "Medium: another layer is another model."
    fix = "Check the loss for infinity before the next step, or put the running statistics back when a step is skipped."
    words = ("BatchNorm",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first scaler of such a file."""
        layers = [c for c in module.calls_of(*_LAYERS) if _of_torch(module, c)] if "GradScaler" in module.text else []
        half = any(r.certain == "float16" and r.enabled is not False for r in regions_in(module)) if layers else False
        if not half or not any(is_scaler(module, receiver(c)) for c in module.calls.get("step", ())):
            return
        for call in scaler_constructions(module)[:1]:
            if truth(module, argument(call, None, "enabled")) is not False:
                message = f"steps are skipped here, and the BatchNorm of line {layers[0].lineno} keeps what it saw"
                yield self.finding(module, call, message)


def _of_torch(module: Module, call: object) -> bool:
    return any(name.startswith("torch.nn") for name in module.names.dotted(getattr(call, "func", None)))
