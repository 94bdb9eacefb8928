"""Which module a fallback takes: the one that was found, or one around it and what fell back beside it before.

A module in fp32 hands its large numbers on to the next operation in fp16, so a second finding right beside a first is
the same fault. Then their nearest common parent takes both.
"""

from collections.abc import Iterable

from torch import nn


def fallback_target(model: nn.Module, fqn: str, earlier: Iterable[str]) -> str:
    """Return the fqn of the module to bring to fp32; "" where only the whole model is left.

    Args:
        model: Has all of these modules.
        fqn: What was found.
        earlier: What fell back before.
    """
    for other in earlier:
        if _within(fqn, other):
            # It runs in fp32 already: what is around it does not.
            return _parent(model, other)
        shared = _common(fqn, other)
        # A list of blocks, or the model, is no block around both.
        if shared and _runs(model, shared):
            return shared
    return _runnable(model, fqn)


def _within(fqn: str, other: str) -> bool:
    return f"{fqn}.".startswith(f"{other}.")


def _common(one: str, other: str) -> str:
    parts = zip(one.split("."), other.split("."), strict=False)
    shared = []
    for a, b in parts:
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def _parent(model: nn.Module, fqn: str) -> str:
    return _runnable(model, fqn.rpartition(".")[0])


def _runnable(model: nn.Module, fqn: str) -> str:
    """Return `fqn`, or the nearest module around it that has a forward; a list of blocks has none."""
    while fqn and not _runs(model, fqn):
        fqn = fqn.rpartition(".")[0]
    return fqn


def _runs(model: nn.Module, fqn: str) -> bool:
    return type(_find(model, fqn)).forward is not nn.Module.forward


def _find(model: nn.Module, fqn: str) -> nn.Module:
    found = getattr(model, "_orig_mod", model)
    for name in fqn.split("."):
        found = found._modules[name]
        found = getattr(found, "_orig_mod", found)
    return found
