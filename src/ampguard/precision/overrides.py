"""Per-module overrides: parts of a model in another precision than the run's.

    {"lm_head": "fp32", "blocks.*.norm": "fp32"}

Globs stand for modules (patterns.py). An override holds for its module and all that runs inside; of nested ones the
inner holds; of several globs that match one module the last holds. A weight is kept in the storage dtype of the
innermost override around it, so that an fp32 part of a bf16-true run keeps float32 weights.

How a module changes its precision stands in overridden.py. torch.compile is told to run backward passes as eager mode
does, without the autocast of the forward. Left out: tf32, which is a mode of the whole process, and
code that uses a module's weights without calling its forward: `check_ran` finds such modules after the first step.
"""

import logging
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
import torch._functorch.config as compiler_config
from torch import Tensor, nn

from ampguard.errors import ConfigError, PrecisionError
from ampguard.hardware import Hardware
from ampguard.precision.names import AUTO, canonical
from ampguard.precision.overridden import Overridden, is_overridden, override, ran, restore
from ampguard.precision.patterns import components, matching
from ampguard.precision.policy import IMPLEMENTED, Policy, policy_of
from ampguard.precision.resolve import OnUnsupported, resolve

logger = logging.getLogger("ampguard.precision")

MODULE_PRECISIONS = tuple(name for name in IMPLEMENTED if name != "tf32")
"""The precisions that a part of a model can have."""


def grant_overrides(
    overrides: Mapping[str, object], run: Policy, hardware: Hardware, *, on_unsupported: OnUnsupported
) -> dict[str, Policy]:
    """Return the policy of each glob: what was asked for, or fp32 where the device lacks it and a fallback is allowed.

    Raises:
        PrecisionError: A precision is unknown or refused, a module cannot have it in this run, or the device lacks it
            and `on_unsupported` is "error".
    """
    return {glob: policy_of(_grant(glob, name, run, hardware, on_unsupported)) for glob, name in overrides.items()}


def _grant(glob: str, given: object, run: Policy, hardware: Hardware, on_unsupported: OnUnsupported) -> str:
    try:
        name = canonical(given)
    except PrecisionError as error:
        raise _refused(glob, error.message, error.hint) from error
    if name not in MODULE_PRECISIONS:
        raise _refused(glob, f"a module cannot have precision {name!r}: {_why_never(name)}.")
    if name == "fp32" and run.name == "tf32":
        raise _refused(glob, "this run is tf32, which holds for the whole process.", "Run in fp32 or bf16-mixed.")
    if name not in ("fp32", run.name):
        name = _granted_by(hardware, glob, name, on_unsupported)
    if policy_of(name).scaled and not run.scaled:
        raise _refused(
            glob,
            f"{name} needs the loss scale; this run is {run.name} and has none.",
            "Use 'bf16-mixed' there, or run in fp16-mixed with the other modules in fp32.",
        )
    return name


def _granted_by(hardware: Hardware, glob: str, name: str, on_unsupported: OnUnsupported) -> str:
    try:
        return resolve(name, hardware, on_unsupported="emulate" if on_unsupported == "emulate" else "error").granted
    except PrecisionError as lack:
        if on_unsupported != "fallback":
            raise _refused(glob, lack.message) from lack
        logger.warning("override %r: %s It is fp32 instead.", glob, lack.message)
        return "fp32"


def _why_never(name: str) -> str:
    if name == AUTO:
        return "an override says which one"
    return "it is a mode of the whole process" if name == "tf32" else "it is not available in this version of ampguard"


def _refused(glob: str, why: str, hint: str = "") -> PrecisionError:
    return PrecisionError(f"override {glob!r}: {why}", allowed=MODULE_PRECISIONS, hint=hint)


def apply_overrides(
    model: nn.Module,
    overrides: Mapping[str, Policy],
    *,
    run: Policy,
    device_type: str,
    allow_covered: bool = False,
) -> tuple[tuple[str, nn.Module], ...]:
    """Give the model the run's storage dtype and its modules their own precision, in place of any that they have.

    Weights keep their identity, so an optimizer made before goes on. Nothing is changed when this raises.

    Args:
        model: Its modules' classes and, where bf16-true is involved, its weights are changed.
        overrides: Policy by glob; the last that matches holds.
        run: The policy of everything else.
        device_type: As `torch.device.type` names it.
        allow_covered: Whether a glob may have no effect because later ones match all of its modules.

    Returns:
        (fqn, module) of each overridden module, for `check_ran`.

    Raises:
        ConfigError: A glob matches nothing that runs, or is wholly covered by later ones; or a tied weight would have
            to be kept in two dtypes.
    """
    modules = _modules(model)
    chosen = _choose(modules, overrides, allow_covered=allow_covered)
    by_fqn = {fqn: chosen[module] for fqn, module in modules.items() if module in chosen}
    _store(model, _storage(model, by_fqn, run))
    remove_overrides(model)
    for module, policy in chosen.items():
        override(module, policy, device_type)
    if chosen:
        compile_backward_as_eager()
    return tuple({module: (fqn, module) for fqn, module in modules.items() if module in chosen}.values())


def compile_backward_as_eager() -> None:
    """Have torch.compile run backward passes outside of autocast, in the whole process, as eager mode does.

    By default it traces them under the autocast that surrounds the compiled code, and the gradients of an fp32 part
    would be products in half precision.

    Source: pytorch issues 153044, 179804; the later default of torch (pull request 177287).
    """
    config: Any = compiler_config
    if hasattr(config, "backward_pass_autocast"):
        config.backward_pass_autocast = "off"


def remove_overrides(model: nn.Module) -> None:
    """Give every module of the model its original class back. Weights keep the dtype that they have."""
    for module in model.modules():
        restore(module)


def check_ran(overridden: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse overrides that had no effect in a step.

    A module that torch.compile runs counts as run when any of its class did.

    Raises:
        ConfigError: A module's forward was not called.
    """
    idle = [fqn for fqn, module in overridden if not ran(module)]
    if idle:
        raise ConfigError(
            f"the forward of {', '.join(map(repr, idle))} was not called in the first step, so the override has no "
            "effect there.",
            hint="Override the module that uses its weights (all that runs inside follows), or leave it out.",
        )


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return modules by fqn, shared ones under each; compiled ones under the name that they had before."""
    return {_plain(fqn): module for fqn, module in model.named_modules(remove_duplicate=False)}


def _plain(fqn: str) -> str:
    return ".".join(part for part in components(fqn) if part != "_orig_mod")


def _choose(
    modules: Mapping[str, nn.Module], overrides: Mapping[str, Policy], *, allow_covered: bool
) -> dict[nn.Module, Policy]:
    """Return the policy of each overridden module."""
    chosen: dict[nn.Module, tuple[str, Policy]] = {}
    for glob, policy in overrides.items():
        found = matching(glob, tuple(modules))
        running = [fqn for fqn in found if type(modules[fqn]).forward is not nn.Module.forward]
        if not running:
            raise ConfigError(
                f"override {glob!r} matches {found[0]!r}, a {type(modules[found[0]]).__name__}, which has no forward.",
                hint=f"Name what it holds: {f'{found[0]}.*'.lstrip('.')!r}.",
            )
        for fqn in running:
            _refuse_hidden(fqn, modules[fqn])
            chosen[modules[fqn]] = (glob, policy)
    if not allow_covered:
        _refuse_covered(overrides, {glob for glob, _ in chosen.values()})
    return {module: policy for module, (_, policy) in chosen.items()}


def _refuse_hidden(fqn: str, module: nn.Module) -> None:
    if "forward" in vars(module):
        raise ConfigError(
            f"override of {fqn!r}: its forward was replaced on the instance, which hides that of its class.",
            hint="Make the Guard before what replaces it, or override a module around it.",
        )
    if isinstance(module, Overridden) and not is_overridden(module):
        raise ConfigError(
            f"override of {fqn!r}: its class was derived from an override's, as parametrizations do.",
            hint="Undo that before making another Guard.",
        )


def _refuse_covered(overrides: Mapping[str, Policy], used: set[str]) -> None:
    for glob in overrides:
        if glob not in used:
            raise ConfigError(
                f"override {glob!r} has no effect: later ones match all of its modules, and the last holds.",
                hint="Put the general glob first.",
            )


def _storage(model: nn.Module, by_fqn: Mapping[str, Policy], run: Policy) -> dict[Tensor, torch.dtype]:
    """Return the dtype of each weight and buffer that must change, gradients included."""
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    wanted: dict[Tensor, tuple[str, torch.dtype]] = {}
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        policy = _innermost(_plain(name), by_fqn) or run
        # A run with float32 weights leaves the model's as they are; an override was asked for by name.
        dtype = tensor.dtype if policy is run and run.storage_dtype is torch.float32 else policy.storage_dtype
        other, before = wanted.setdefault(tensor, (name, dtype))
        if dtype is not before:
            raise ConfigError(
                f"{other!r} and {name!r} are one weight, and overrides would keep it in {before} and {dtype}.",
                hint="Untie it, or override both modules alike.",
            )
    gradients = {t.grad: dtype for t, (_, dtype) in wanted.items() if t.is_leaf and t.grad is not None}
    return {tensor: dtype for tensor, (_, dtype) in wanted.items()} | gradients


def _innermost(name: str, by_fqn: Mapping[str, Policy]) -> Policy | None:
    """Return the policy of the innermost override around a weight or buffer."""
    path = components(name)[:-1]
    prefixes = (".".join(path[:length]) for length in range(len(path), -1, -1))
    return next((by_fqn[prefix] for prefix in prefixes if prefix in by_fqn), None)


def _store(model: nn.Module, wanted: Mapping[Tensor, torch.dtype]) -> None:
    """Cast in place, through the same door as `Module.to`, which keeps each parameter's identity."""
    if any(tensor.dtype is not dtype for tensor, dtype in wanted.items()):
        model._apply(lambda tensor: tensor.to(wanted.get(tensor, tensor.dtype)))  # type: ignore[no-untyped-call]
