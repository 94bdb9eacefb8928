"""What a Guard refuses before the first step, with the reason."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from ampguard.errors import ConfigError, GradientError


def parameters(optimizers: Sequence[Optimizer]) -> list[nn.Parameter]:
    """Return the parameters of all optimizers, in order; frozen ones too, which may be unfrozen later.

    Raises:
        ConfigError: None requires a gradient, one is in two optimizers, or they live on two devices.
    """
    if not optimizers:
        raise ConfigError("Guard got no optimizer.", hint="Give one, or a sequence that steps together.")
    params = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    if len({id(p) for p in params}) != len(params):
        raise ConfigError(
            "a parameter is in two optimizers.", hint="Give each parameter to one; they step together or not at all."
        )
    if not any(p.requires_grad for p in params):
        raise ConfigError("the optimizer has no trainable parameter.", hint="Set requires_grad on what is to learn.")
    devices = sorted({str(p.device) for p in params})
    if len(devices) > 1:
        raise ConfigError(
            f"the parameters live on {len(devices)} devices: {', '.join(devices)}.",
            hint="Move the model to one device before making its optimizer.",
        )
    return params


def refuse_half_weights(model: nn.Module, params: Sequence[nn.Parameter]) -> None:
    """Raise ConfigError if a weight is float16: scaled training needs float32 weights to add small updates to."""
    names = {id(p): name for name, p in model.named_parameters()}
    for param in params:
        if param.requires_grad and param.dtype == torch.float16:
            raise ConfigError(
                f"parameter {names.get(id(param), '?')!r} is float16; fp16-mixed keeps float32 weights and casts "
                "them itself, because small updates vanish in float16 weights.",
                hint="Remove .half() or .to(torch.float16) from the model.",
            )


def may_be_sparse(model: nn.Module) -> bool:
    """Return whether a module was made with sparse=True, as nn.Embedding and nn.EmbeddingBag may be."""
    return any(getattr(module, "sparse", False) is True for module in model.modules())


def no_gradient() -> GradientError:
    """Return the error of a step in which no parameter has a gradient."""
    return GradientError(
        "no parameter has a gradient in this step.",
        hint="Call guard.backward(loss) before guard.step(), with a loss that depends on the parameters "
        "of this guard's optimizer.",
    )


def groups_added() -> ConfigError:
    """Return the error of a step after `add_param_group`: those gradients would be neither unscaled nor judged."""
    return ConfigError(
        "a parameter group was added to the optimizer after its Guard was made; its gradients are not guarded.",
        hint="Put all parameters into the optimizer first, frozen ones too (requires_grad=False), or make a new Guard.",
    )
