"""What a test does to the code it tests: what it replaces, what it hands over, and what it checks.

Only what stands in the test function (its decorators included) counts; fixtures and the tested code are not read.
"""

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, argument, called, key, receiver, walk

_ERROR = regex(r"(Error|Exception|Interrupt|Timeout|Warning|Exit)$")
_CHECKS = regex(r"^(assert\w*|raises|warns|fail|approx|expect\w*)$")
_SKIPPED = frozenset({"skip", "xfail"})


@dataclass(frozen=True)
class Replacement:
    """Something that a test puts in another's place.

    Attributes:
        node: Where.
        target: Dotted name of what is replaced, as far as it is written: "torch.cuda.is_available".
        value: What stands there instead; for a function, what it returns; None where that is not written.
        raises: Whether calling the replacement raises.
    """

    node: ast.AST
    target: str
    value: ast.expr | None
    raises: bool


@dataclass(eq=False)
class Case:
    """One test function.

    Attributes:
        function: Its node.
        calls: The calls in it, decorators included, in source order.
        assigns: The assignments in it.
        checks: Whether it checks anything.
    """

    function: Function
    calls: list[ast.Call] = field(default_factory=list)
    assigns: list[ast.Assign] = field(default_factory=list)
    checks: bool = False

    @property
    def name(self) -> str:
        """Return its name without "test_", in lower case, camel case taken apart."""
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.function.name).lower()
        return name.removeprefix("test").strip("_")

    def keywords(self) -> Iterator[tuple[ast.Call, str, ast.expr]]:
        """Walk the arguments that are given by keyword, in any call of the test."""
        for call in self.calls:
            for keyword in call.keywords:
                if keyword.arg is not None:
                    yield call, keyword.arg, keyword.value

    def assigned(self) -> Iterator[tuple[ast.Assign, str, ast.expr]]:
        """Walk what is assigned to names, attributes and items: `trainer.scaler = None`."""
        for node in self.assigns:
            for target in node.targets:
                place = key(target)
                if place is not None:
                    yield node, place, node.value


def cases(module: Module) -> list[Case]:
    """Return the tests of a file that run, in source order; [] for a file that is not about tests.

    A function `test` or `test_epoch` in training code evaluates a model: outside of test files only those count that
    stand in a file which imports pytest or unittest.
    """
    return module.once("test cases", lambda: _cases(module) if _has_tests(module) else [])


def replacements(module: Module, test: Case) -> list[Replacement]:
    """Return what a test replaces: by `mock.patch`, `monkeypatch.setattr`, or a plain assignment."""
    return module.once(("replacements", test.function), lambda: list(_replacements(module, test)))


def _replacements(module: Module, test: Case) -> Iterator[Replacement]:
    for call in test.calls:
        found = _patched(call)
        if found is not None:
            target, value = found
            yield Replacement(call, target, _returned(module, call, value), _raises(module, call, value))
    for node, place, value in test.assigned():
        if place.endswith(".side_effect"):
            yield Replacement(node, place.removesuffix(".side_effect"), None, _is_error(module, value))
        elif place.endswith(".return_value"):
            yield Replacement(node, place.removesuffix(".return_value"), value, False)
        elif "." in place:
            yield Replacement(node, place, _returned(module, None, value), _raises(module, None, value))


def is_constant(node: ast.expr | None, *values: object) -> bool:
    """Whether an expression is one of these constants; True and 1 are told apart."""
    return isinstance(node, ast.Constant) and any(type(node.value) is type(v) and node.value == v for v in values)


def number(node: ast.expr | None) -> float | None:
    """Return the number that an expression of constants is: `2**-30`, `-1.0`, `float("inf")`; else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, power = number(node.left), number(node.right)
        small = base is not None and power is not None and 0 < base <= 16 and abs(power) <= 128
        return base**power if small and base is not None and power is not None else None
    return _non_finite(node)


def _non_finite(node: ast.expr | None) -> float | None:
    if isinstance(node, ast.Call) and called(node) == "float" and len(node.args) == 1:
        given = node.args[0]
        if isinstance(given, ast.Constant) and str(given.value).lower() in ("nan", "inf", "-inf", "infinity"):
            return float(str(given.value))
    place = key(node)
    if place in ("math.nan", "torch.nan", "np.nan", "numpy.nan"):
        return float("nan")
    return float("inf") if place in ("math.inf", "torch.inf", "np.inf", "numpy.inf") else None


def _has_tests(module: Module) -> bool:
    if "def test" not in module.text:
        return False
    return module.role == "test" or bool(re.search(r"^\s*(import|from) (pytest|unittest)\b", module.text, re.M))


def _cases(module: Module) -> list[Case]:
    tests = [Case(f) for f in module.functions if f.name.lower().startswith("test") and not _skipped(f)]
    starts = [_first_line(test.function) for test in tests]
    for node in module.tree.all(ast.Call, ast.Assign, ast.Assert):
        at = bisect_right(starts, node.lineno) - 1
        if at >= 0 and node.lineno <= (tests[at].function.end_lineno or 0):
            _add(tests[at], node)
    return tests


def _add(test: Case, node: ast.AST) -> None:
    if isinstance(node, ast.Assign):
        test.assigns.append(node)
    elif isinstance(node, ast.Assert):
        test.checks = True
    elif isinstance(node, ast.Call):
        test.calls.append(node)
        test.checks = test.checks or bool(_CHECKS.match(called(node)))


def _first_line(function: Function) -> int:
    return min([function.lineno, *(d.lineno for d in function.decorator_list)])


def _skipped(function: Function) -> bool:
    """Whether a decorator keeps the test from running, whatever the machine: `@pytest.mark.skip`, `@unittest.skip`."""
    names = [key(d.func if isinstance(d, ast.Call) else d) or "" for d in function.decorator_list]
    return any(name.split(".")[-1] in _SKIPPED for name in names)


def _patched(call: ast.Call) -> tuple[str, ast.expr | None] | None:
    """Return the target of a patching call, and the replacement where it is given."""
    name, owner = called(call), key(receiver(call)) or ""
    if name == "patch" and call.args and (written := _text(call.args[0])):
        return written, argument(call, 1, "new")
    patches_object = name == "object" and owner.split(".")[-1] == "patch"
    if (patches_object or name == "setattr") and len(call.args) >= 2:
        first, second = call.args[:2]
        if written := _text(first):
            return written, second
        if attribute := _text(second):
            return f"{key(first) or '?'}.{attribute}", argument(call, 2, "new" if patches_object else "value")
    return None


def _text(node: ast.expr) -> str:
    """Return the text that an expression is; of an f-string the parts that are written out."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _returned(module: Module, call: ast.Call | None, value: ast.expr | None) -> ast.expr | None:
    """Return what the replacement is, or what it returns when called."""
    given = argument(call, None, "return_value") if call is not None else None
    if given is not None:
        return given
    if isinstance(value, ast.Lambda):
        return value.body
    if isinstance(value, ast.Call) and called(value).endswith("Mock"):
        return argument(value, None, "return_value")
    function = _local(module, value)
    if function is not None:
        returns = [n.value for n in walk(function) if isinstance(n, ast.Return)]
        return returns[0] if len(returns) == 1 else None
    return value


def _raises(module: Module, call: ast.Call | None, value: ast.expr | None) -> bool:
    given = argument(call, None, "side_effect") if call is not None else None
    if given is None and isinstance(value, ast.Call) and called(value).endswith("Mock"):
        given = argument(value, None, "side_effect")
    if given is not None:
        return _is_error(module, given)
    if isinstance(value, ast.Lambda):
        return any(isinstance(n, ast.Call) and called(n) == "throw" for n in walk(value))
    return _is_raiser(module, value)


def _is_error(module: Module, node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return any(_is_error(module, item) for item in node.elts)
    named = node.func if isinstance(node, ast.Call) else node
    return bool(_ERROR.search(key(named) or "")) or _is_raiser(module, node)


def _is_raiser(module: Module, node: ast.expr | None) -> bool:
    function = _local(module, node)
    return function is not None and any(isinstance(n, ast.Raise) for n in walk(function))


def _local(module: Module, node: ast.expr | None) -> Function | None:
    """Return the function of this file that a name stands for."""
    if not isinstance(node, ast.Name):
        return None
    found = module.names.lookup(node.id, node)
    last = found[1][-1].node if found else None
    return last if isinstance(last, FUNCTIONS) else None
