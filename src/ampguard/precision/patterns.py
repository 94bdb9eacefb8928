"""Which modules a per-module override means: globs over fqns, and their form on a command line.

A glob is read component by component: `*`, `?` and `[...]` stand for text within one component, as in a file name;
`**` stands for any number of components, none included. "blocks.*" is each child of `blocks`, "**.norm" each module
called `norm` at any depth, "" the model itself. Upper and lower case differ.

Left out: braces, negation. This file needs no torch.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ampguard.errors import ConfigError

FORM = "GLOB=PRECISION"


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """Return {glob: precision} of texts such as "blocks.*.norm=fp32", in their order; a glob given again moves last.

    Raises:
        ConfigError: An item has not the form GLOB=PRECISION.
    """
    overrides: dict[str, str] = {}
    for item in items:
        glob, _, precision = (part.strip() for part in item.rpartition("="))
        if not glob or not precision:
            raise ConfigError(
                f"override {item!r} has not the form {FORM}.", hint="Write, for example, 'blocks.*.norm=fp32'."
            )
        overrides.pop(glob, None)
        overrides[glob] = precision
    return overrides


def matching(glob: str, fqns: Sequence[str]) -> list[str]:
    """Return the fqns that `glob` stands for.

    Raises:
        ConfigError: There is none; the message has the closest names.
    """
    pattern = components(glob)
    found = [fqn for fqn in fqns if _fits(pattern, components(fqn))]
    if not found:
        raise ConfigError(f"override {glob!r} matches no module.", hint=_advice(glob, fqns))
    return found


def components(fqn: str) -> tuple[str, ...]:
    """Return the components of an fqn or glob; the model itself, "", has none."""
    return tuple(fqn.split(".")) if fqn else ()


def _fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(pattern[1:], path[1:])


def _advice(glob: str, fqns: Sequence[str]) -> str:
    close = get_close_matches(glob, [fqn for fqn in fqns if fqn], n=3)
    if close:
        return f"Close: {', '.join(map(repr, close))}."
    children = [fqn for fqn in fqns if len(components(fqn)) == 1]
    return f"'*' stays within one component and '**' crosses them; the model has {', '.join(map(repr, children))}."
