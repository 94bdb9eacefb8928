"""Biases that layers of the file do not have, reached while weights are begun.

`nn.init.zeros_(layer.bias)` under `isinstance(layer, nn.Conv2d)` fails for a `Conv2d(..., bias=False)`: its `bias` is
None, so that `hasattr` does not tell either. Told where the file makes such a layer of the kind that is asked for.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional_plain import is_asked
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, argument, called, key, walk

_LAYER = regex(r"Conv(Transpose)?[123]d|Linear")
_KIND = regex(r"(?:Conv(?:Transpose)?[123]d|Linear)\b|(?<=['\"])(?:Conv|Linear)")
_BEGINS = regex(r"^(constant|zeros|ones|uniform|normal|trunc_normal)_$")


@dataclass(frozen=True, eq=False)
class Missing:
    """A use of a bias, and a layer of the file that has none.

    Attributes:
        use: What fails.
        layer: The call that makes a layer without a bias.
        certain: Whether the class that begins its own modules makes that layer itself.
    """

    use: ast.Attribute
    layer: ast.Call
    certain: bool


def missing_biases(module: Module) -> Iterator[Missing]:
    """Walk the first use of a bias under each test of the kind of a layer."""
    if not module.mentions((".bias",)) or "bias=False" not in module.text:
        return
    told: set[ast.AST] = set()
    for node in module.tree.all(ast.Attribute):
        if node.attr != "bias" or not isinstance(node.value, ast.Name) or not fails_while_begun(module, node):
            continue
        test, function = kind_test(module, node), module.tree.function(node)
        if test is None or function is None or test in told or is_asked(module, function, key(node) or ""):
            continue
        kinds = set(_KIND.findall(ast.unparse(test.test)))
        layers = [layer for layer in _without_bias(module) if any(called(layer).startswith(kind) for kind in kinds)]
        if layers:
            told.add(test)
            own = module.tree.class_of(function)
            of_own = [layer for layer in layers if own is not None and module.tree.class_of(layer) is own]
            yield Missing(node, (of_own or layers)[0], bool(of_own) and _over_own_modules(module, test))


def fails_while_begun(module: Module, node: ast.Attribute) -> bool:
    """Whether a bias is read off, or handed to what begins weights."""
    above = module.tree.parents[node]
    if isinstance(above, ast.Attribute):
        return not any(True for _ in module.tree.handlers_around(node))
    return isinstance(above, ast.Call) and above.args[:1] == [node] and bool(_BEGINS.search(called(above)))


def kind_test(module: Module, node: ast.Attribute) -> ast.If | None:
    """Return the innermost `if` whose body holds the use, where it asks for a kind of layer and nothing else."""
    below: ast.AST = node
    for above in module.tree.above(node):
        if isinstance(above, FUNCTIONS):
            return None
        if isinstance(above, ast.If):
            about = key(node.value) in {key(n) for n in walk(above.test)} or "classname" in ast.unparse(above.test)
            asks = about and "bias" not in ast.unparse(above.test) and _KIND.search(ast.unparse(above.test))
            return above if asks and below in above.body else None
        below = above
    return None


def _without_bias(module: Module) -> list[ast.Call]:
    def found() -> list[ast.Call]:
        layers = (c for name, calls in module.calls.items() if _LAYER.fullmatch(name) for c in calls)
        return [c for c in layers if isinstance(b := argument(c, None, "bias"), ast.Constant) and b.value is False]

    return module.once("layers without bias", found)


def _over_own_modules(module: Module, test: ast.If) -> bool:
    loop = next(module.tree.loops(test), None)
    return isinstance(loop, ast.For) and ast.unparse(loop.iter) in ("self.modules()", "self.named_modules()")
