"""Attributes that one arm of a test alone gives, and that another method reads whatever the test said.

`if torch.cuda.is_available(): self.scaler = GradScaler()` with an `else` that gives other things but not this one:
where the other arm ran, `self.scaler` is not None but missing, and the first method that reads it fails. Left alone is
what has a value in any other way: on the class, in a base, from another file, or looked up by its name.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional_attributes import runs_untold
from ampguard.auditing.flow.optional_plain import is_conditional
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import definition
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key

_DYNAMIC = ("__getattr__", "__dict__", "setattr(self", "vars(self)", "@dataclass", "__slots__")
_CUDA = regex(r"cuda|gpu|\bcpu\b", re.IGNORECASE)
_PLAIN_BASES = frozenset({"object", "nn.Module", "torch.nn.Module", "Module", "ABC", "abc.ABC"})


@dataclass(frozen=True, eq=False)
class OneArmed:
    """An attribute that is missing where one arm ran.

    Attributes:
        name: The attribute.
        use: Where a method reads it.
        branch: The test.
        arm: The first statement of the arm that leaves it out.
    """

    name: str
    use: ast.Attribute
    branch: ast.If
    arm: ast.stmt

    @property
    def asks_for_cuda(self) -> bool:
        """Whether the test is one for a GPU."""
        return _CUDA.search(ast.unparse(self.branch.test)) is not None


def one_armed(module: Module) -> list[OneArmed]:
    """Return the first reading of each such attribute in each class."""
    return module.once("one-armed attributes", lambda: list(_one_armed(module)))


def _one_armed(module: Module) -> Iterator[OneArmed]:
    if module.mentions(_DYNAMIC) or not module.mentions(("else:", "is_available()")):
        return
    owned: dict[ast.ClassDef, dict[str, list[ast.Attribute]]] = {}
    for node in module.tree.all(ast.Attribute):
        cls = module.tree.class_of(node) if isinstance(node.value, ast.Name) and node.value.id == "self" else None
        if cls is not None:
            owned.setdefault(cls, {}).setdefault(node.attr, []).append(node)
    for cls, names in owned.items():
        for name, nodes in names.items() if _is_read_here(module, cls) else ():
            stored = [n for n in nodes if not isinstance(n.ctx, ast.Load)]
            branch = _branch_of(module, stored) if stored and len(stored) < len(nodes) else None
            arm = _arm_without(module, branch, stored, names) if branch is not None else None
            if branch is None or arm is None or _is_known_otherwise(module, cls, name):
                continue
            use = next((n for n in nodes if n not in stored and _is_reached(module, n, branch)), None)
            if use is not None:
                yield OneArmed(name, use, branch, arm)


def _is_read_here(module: Module, cls: ast.ClassDef) -> bool:
    """Whether all that gives the attributes of a class stands in it: its bases are plain."""
    return all(key(base) in _PLAIN_BASES and definition(module, base) is None for base in cls.bases)


def _branch_of(module: Module, stored: list[ast.Attribute]) -> ast.If | None:
    """Return the `if`, at the top of one method, that all that gives an attribute stands under."""
    method = module.tree.function(stored[0])
    for branch in method.body if method is not None else ():
        if isinstance(branch, ast.If) and module.tree.inside(stored[0], branch):
            return branch if all(module.tree.inside(n, branch) for n in stored) else None
    return None


def _arm_without(
    module: Module, branch: ast.If, stored: list[ast.Attribute], names: dict[str, list[ast.Attribute]]
) -> ast.stmt | None:
    """Return the first statement of an arm that does not give an attribute, and gives some that the others give.

    A test for CUDA without an `else` is its own such arm.
    """
    arms = list(_arms(branch))
    without = [arm for arm in arms if not any(module.tree.inside(n, s) for n in stored for s in arm)]
    open_ = [arm for arm in without if not arm or not leaves(arm[-1])]
    if not open_:
        return None
    if not all(arms):
        return branch if "is_available()" in ast.unparse(branch.test) and not branch.orelse else None
    given = ([n for n in nodes if not isinstance(n.ctx, ast.Load)] for nodes in names.values())
    shared = any(all(any(module.tree.inside(n, s) for n in own for s in arm) for arm in arms) for own in given)
    return open_[0][0] if shared else None


def _arms(branch: ast.If) -> Iterator[list[ast.stmt]]:
    """Walk what runs on each side of a test; [] where nothing does."""
    yield branch.body
    if len(branch.orelse) == 1 and isinstance(branch.orelse[0], ast.If):
        yield from _arms(branch.orelse[0])
    else:
        yield branch.orelse


def leaves(statement: ast.stmt) -> bool:
    """Whether a statement ends its function or the run."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return called(statement.value) in ("exit", "_exit", "error")
    return isinstance(statement, ast.Raise | ast.Return | ast.Assert)


def _is_known_otherwise(module: Module, cls: ast.ClassDef, name: str) -> bool:
    """Whether a class holds a name itself, a text looks it up by name, or another object or file gives it."""
    for item in cls.body:
        bound = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        if any(key(t) == name for t in bound) or getattr(item, "name", "") == name:
            return True
    if re.search(rf"['\"]{re.escape(name)}['\"]|(?<!\bself)\.{re.escape(name)}\s*=(?!=)", module.text):
        return True
    given = re.compile(rf"\.{re.escape(name)}\s*=(?!=)")
    inherited = re.compile(rf"class \w+\([^\n)]*\b{re.escape(cls.name)}\b")
    others = (text for path, text in module.project.texts(cls.name) if path != module.path)
    return any(given.search(text) for text in others) or inherited.search(module.text) is not None


def _is_reached(module: Module, use: ast.Attribute, branch: ast.If) -> bool:
    """Whether another method reads an attribute under no test, and nothing says that it runs behind one arm alone."""
    method, maker = module.tree.function(use), module.tree.function(branch)
    if method is None or method is maker or method.name == "__init__":
        return False
    if is_conditional(module, use, method, loops=True):
        return False
    return runs_untold(module, method, use.attr) and not _is_left_before(method, use)


def _is_left_before(method: Function, use: ast.Attribute) -> bool:
    early = (s for s in method.body if isinstance(s, ast.If | ast.Assert) and s.lineno < use.lineno)
    return any(isinstance(s, ast.Assert) or isinstance(s.body[-1], ast.Return | ast.Raise) for s in early)
