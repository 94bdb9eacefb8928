"""One module in a precision of its own: its class is swapped for a generated subclass.

Hooks and a `forward` on the instance would break torch.compile and deepcopy; a subclass is plain Python to both. It is
made once for each (class, precision, device type), so that blocks which share compiled code go on sharing it.

    inputs     fp32 and bf16-true: floating-point tensors are cast; the mixed precisions leave that to autocast
    forward    autocast off (fp32), or nested in the override's dtype. Without the cache of cast weights: a tied weight
               that the surrounding precision has cast already would be found there in the wrong dtype
    outputs    where no autocast surrounds the module, half precision is widened to float32, because the next module
               expects it. Nothing is ever narrowed: logits of an fp32 head stay float32

Autocast is dynamic: an override of a container holds for all that runs inside, until an inner override begins.
Tensors are found in tuples, lists, dicts and what else torch's pytree knows; other objects pass as they are.
"""

from collections.abc import Callable
from functools import cache, wraps
from types import new_class
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ampguard.precision.policy import Policy, policy_of

_HALF = (torch.float16, torch.bfloat16)
_RAN: WeakSet[nn.Module] = WeakSet()
"""Modules that ran since they were overridden, compiled code apart."""
_TRACED: set[type] = set()
"""Generated classes that torch.compile has traced: it keeps no account of single modules, which share its code."""


class Overridden:
    """What every generated class is, beside the class that it stands for."""

    _ampguard: ClassVar[tuple[type[nn.Module], str, str]]
    """The original class, the name of the precision, the device type."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the original class: a generated one has no name that an import would find."""
        reduced: Any = super().__reduce_ex__(protocol)
        if not is_overridden(self):
            return reduced
        make, args, *rest = reduced
        base, precision, device_type = self._ampguard
        args = tuple(base if arg is type(self) else arg for arg in args)
        return (_rebuild, (precision, device_type, make, args), *rest)

    def _get_name(self) -> str:
        """Return what `repr` prints: "Linear[fp32]"."""
        name: str = super()._get_name()  # type: ignore[misc]
        return f"{name}[{self._ampguard[1]}]"


def override(module: nn.Module, policy: Policy, device_type: str) -> None:
    """Give a module a precision of its own, in place of one that it may have. Its weights are not touched."""
    restore(module)
    module.__class__ = _subclass(type(module), policy, device_type)  # type: ignore[arg-type]
    _RAN.discard(module)


def restore(module: nn.Module) -> None:
    """Give a module its original class back, if it is overridden."""
    if is_overridden(module):
        module.__class__ = type(module)._ampguard[0]  # type: ignore[attr-defined]


def is_overridden(module: object) -> bool:
    """Return whether a module's class was generated here; False where another was derived from it since."""
    return "_ampguard" in vars(type(module))


def precision_of(module: nn.Module) -> Policy | None:
    """Return the policy that a module was overridden with; None where it has that of its surroundings."""
    return policy_of(type(module)._ampguard[1]) if is_overridden(module) else None  # type: ignore[attr-defined]


def ran(module: nn.Module) -> bool:
    """Return whether an overridden module ran; where torch.compile runs it, whether one of its class did."""
    return module in _RAN or type(module) in _TRACED


@cache
def _subclass(base: type[nn.Module], policy: Policy, device_type: str) -> type[nn.Module]:
    body = {
        "_ampguard": (base, policy.name, device_type),
        "forward": _forward_in(base.forward, policy, device_type),
        "__module__": base.__module__,
        "__qualname__": f"{base.__qualname__}[{policy.name}]",
        "__doc__": base.__doc__,
    }
    # The plain name stays: FSDP wrapping, weight decay groups and saved configs go by it.
    return new_class(base.__name__, (Overridden, base), {}, lambda names: names.update(body))


def _forward_in(forward: Callable[..., Any], policy: Policy, device_type: str) -> Callable[..., Any]:
    """Return `forward` with its inputs cast, run in `policy`."""
    pure = policy.storage_dtype is policy.compute_dtype
    dtype = policy.compute_dtype if policy.autocasts else None

    def widen(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in _HALF else tensor

    @wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        _note(self)
        widens = not torch.is_autocast_enabled(device_type)
        if pure:
            cast = _casting(policy.compute_dtype)
            args = tuple(_map(cast, value) for value in args)
            kwargs = {name: _map(cast, value) for name, value in kwargs.items()}
        with torch.autocast(device_type, dtype=dtype, enabled=policy.autocasts, cache_enabled=False):
            output = forward(self, *args, **kwargs)
        return _map(widen, output) if widens else output

    return run


def _casting(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return a cast that takes a tensor given twice to one tensor: attention asks whether its query *is* its key."""
    done: dict[Tensor, Tensor] = {}

    def cast(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        if tensor not in done:
            done[tensor] = tensor.to(dtype)
        return done[tensor]

    return cast


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return `value` with its tensors changed; the same object where none changes, for modules that fill a list."""
    if isinstance(value, Tensor):
        return change(value)
    leaves, structure = tree_flatten(value)
    changed = [change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    same = all(new is leaf for new, leaf in zip(changed, leaves, strict=True))
    return value if same else tree_unflatten(changed, structure)


def _note(module: nn.Module) -> None:
    if torch.compiler.is_compiling():
        # While tracing: an attribute set here would be a side effect, which compiled checkpointing refuses.
        _note_traced(type(module))
    else:
        _RAN.add(module)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _note_traced(kind: type) -> None:
    _TRACED.add(kind)


def _rebuild(precision: str, device_type: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    module = make(*args)
    module.__class__ = _subclass(type(module), policy_of(precision), device_type)  # type: ignore[arg-type]
    return module
