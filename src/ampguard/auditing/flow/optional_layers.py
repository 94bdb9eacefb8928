"""What torch leaves None in layers and parameters, used as if it were always there.

A norm's `affine` is True or False, so that `layer.affine is not None` asks nothing, and the weights under it may be
None. `elementwise_affine` tells of the weight alone: `LayerNorm(bias=False)` has one without a bias. A parameter that
took no part in the loss has no gradient: `p.grad.norm()` over all of them.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_bias import fails_while_begun, kind_test
from ampguard.auditing.flow.optional_plain import is_asked, needed_by
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Function, called, is_none_literal, key, walk

_SWITCHES = ("affine", "elementwise_affine", "track_running_stats")
_HELD = {
    "affine": ("weight", "bias"),
    "elementwise_affine": ("weight", "bias"),
    "track_running_stats": ("running_mean", "running_var"),
}
_VACUOUS = ("affine is not None", "track_running_stats is not None")


def uses_under_vacuous_tests(module: Module) -> Iterator[Use]:
    """Walk the first use of each weight under a test whether a switch, which is True or False, is None."""
    if not module.mentions(_VACUOUS):
        return
    for test in module.tree.all(ast.If):
        owner, switch = _vacuous(test.test)
        for name in _HELD.get(switch, ()) if owner else ():
            use = _first_use(module, test, f"{owner}.{name}")
            if use is not None:
                yield Use(f"{owner}.{name}", use, test.test)


def _vacuous(test: ast.expr) -> tuple[str, str]:
    """Return the layer and the switch that a test compares with None."""
    asks = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and is_none_literal(test.comparators[0])
    if not asks or not isinstance(test.left, ast.Attribute) or test.left.attr not in _SWITCHES:  # type: ignore[attr-defined]
        return "", ""
    return key(test.left.value) or "", test.left.attr  # type: ignore[attr-defined]


def _first_use(module: Module, test: ast.If, place: str) -> ast.AST | None:
    """Return the first use of a place in the body of a test that no test there guards."""
    function = module.tree.function(test)
    if function is not None and any(_asks(n, place) for s in test.body for n in walk(s)):
        return None
    nodes = (n for s in test.body for n in walk(s) if isinstance(n, ast.Attribute) and key(n) == place)
    uses = (n for n in nodes if n in needed_by(module.tree.parents[n]))
    return min((module.tree.parents[n] for n in uses), key=lambda n: n.lineno, default=None)  # type: ignore[attr-defined]


def _asks(node: ast.AST, place: str) -> bool:
    tests = [node.test] if isinstance(node, ast.If | ast.IfExp) else node.values if isinstance(node, ast.BoolOp) else []
    return any(key(n) == place for test in tests for n in walk(test) if isinstance(n, ast.expr))


def biases_beside_weights(module: Module) -> Iterator[Use]:
    """Walk the biases that are used where a layer has weights: under `if norm.elementwise_affine`."""
    if "elementwise_affine" not in module.text or ".bias" not in module.text:
        return
    for test in module.tree.all(ast.If):
        if not isinstance(test.test, ast.Attribute) or test.test.attr != "elementwise_affine":
            continue
        owner, function = key(test.test.value), module.tree.function(test)
        place = f"{owner}.bias"
        if owner in (None, "self") or function is None or is_asked(module, function, place):
            continue
        use = next((n for s in test.body for n in walk(s) if key(n) == place and _fails(module, n)), None)
        if use is not None:
            yield Use(place, use, test.test)


def _fails(module: Module, node: ast.AST) -> bool:
    """Whether a node is read off, or handed to a call that changes it: `prune(norm.bias)`, `zeros_(norm.bias)`."""
    above = module.tree.parents[node]
    if isinstance(above, ast.Attribute | ast.Subscript):
        return True
    return isinstance(above, ast.Call) and node in above.args and called(above) not in ("getattr", "hasattr", "print")


def gradients_of_all(module: Module) -> Iterator[Use]:
    """Walk the gradients that are used over all parameters, where none is asked for."""
    if "parameters()" not in module.text:
        return
    for node in module.tree.all(ast.Attribute):
        if node.attr != "grad" or not isinstance(node.value, ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        function, above = module.tree.function(node), module.tree.parents[node]
        if function is None or node not in needed_by(above) or any(module.tree.handlers_around(node)):
            continue
        loop = _over_parameters(module, node, node.value.id)
        if loop is not None and not _is_seen_to(module, function, node.value.id):
            yield Use(f"{node.value.id}.grad", above, loop)


def _over_parameters(module: Module, node: ast.AST, name: str) -> ast.AST | None:
    """Return the loop or comprehension around a node that goes over the parameters of a model by that name.

    Which of them are trained does not tell which took part: `if p.requires_grad` in a comprehension asks for nothing.
    """
    for above in module.tree.above(node):
        loops = [above] if isinstance(above, ast.For) else getattr(above, "generators", [])
        for loop in loops:
            names = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)}
            if name in names:
                asks = [test for test in getattr(loop, "ifs", ()) if key(test) != f"{name}.requires_grad"]
                return loop.iter if _goes_over(loop.target, loop.iter, name) and not asks else None
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return None
    return None


def _goes_over(target: ast.expr, walked: ast.expr, name: str) -> bool:
    """Whether a loop gives a name the parameters of a model, alone or beside others: `zip(a.parameters(), b)`."""
    if not isinstance(walked, ast.Call):
        return False
    if called(walked) != "zip" or not isinstance(target, ast.Tuple) or len(target.elts) != len(walked.args):
        return called(walked) in ("parameters", "named_parameters")
    beside = zip(target.elts, walked.args, strict=True)
    return any(_goes_over(at, given, name) for at, given in beside if name in {getattr(n, "id", "") for n in walk(at)})


def _is_seen_to(module: Module, function: Function, name: str) -> bool:
    """Whether a function asks about the gradient of a name, or which of them are trained, anywhere."""
    text = module.text_of(function).replace(f"if {name}.requires_grad]", "]")
    return any(word in text for word in (*_SEEN_TO, f"{name}.grad)", f"if {name}.grad", f"{name}.grad ="))


_SEEN_TO = (".grad is not None", ".grad is None", "requires_grad", "'grad'", '"grad"', "zeros_like(", "allow_unused")


def biases_of_imported_layers(module: Module) -> Iterator[Use]:
    """Walk the biases that weights' beginning reaches, where a file that this one imports makes layers without any."""
    if ".bias." not in module.text or "bias=False" in module.text or ".apply(" not in module.text:
        return
    for node in module.tree.all(ast.Attribute):
        if node.attr != "bias" or not isinstance(node.value, ast.Name) or not fails_while_begun(module, node):
            continue
        test, function = kind_test(module, node), module.tree.function(node)
        if test is None or function is None or is_asked(module, function, key(node) or ""):
            continue
        applied = any(key(arg) == function.name for call in module.calls_of("apply") for arg in call.args)
        if applied and "Linear" in ast.unparse(test.test) and _imports_layers_without_bias(module):
            yield Use(key(node) or "", node, test)
            return


_WITHOUT_BIAS = regex(r"\bnn\.Linear\([^\n]*bias=False")
_IMPORT = regex(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w.]+))", re.MULTILINE)


def _imports_layers_without_bias(module: Module) -> bool:
    """Whether a file that is imported, or one that such a file imports, makes linear layers without a bias."""
    project = module.project
    without = {path for path, text in project.texts("bias=False") if _WITHOUT_BIAS.search(text)}
    near = _imported(project, module.path, module.text) if without else set()
    if not near.isdisjoint(without):
        return True
    texts = ((path, text) for path, text in project.texts() if path in near)
    return any(not _imported(project, path, text).isdisjoint(without) for path, text in texts)


def _imported(project: Project, path: str, text: str) -> set[str]:
    names = (found[1] or found[2] for found in _IMPORT.finditer(text))
    package = project.package(path).split(".")
    dotted = (_absolute(name, package) if name.startswith(".") else name for name in names)
    return {found for name in dotted if (found := project.find(name, path)) is not None}


def _absolute(name: str, package: list[str]) -> str:
    rest = name.lstrip(".")
    above = len(name) - len(rest) - 1
    return ".".join([*package[: len(package) - above], *filter(None, [rest])])
