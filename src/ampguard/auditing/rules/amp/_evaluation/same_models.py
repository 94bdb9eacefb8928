"""Names of one model in a function: bare, wrapped and unwrapped, and what it holds a model by.

`model.module`, `accelerator.unwrap_model(model)` and `DistributedDataParallel(model)` hold the weights and the mode of
`model`; `for net in self.nets.values()` runs through what `self.nets` holds.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._steps import enclosing

_WRAPS = regex(
    r"(de_?parallel|unwrap|get_bare)\w*|(Distributed)?DataParallel|F?S?DDP|FSDP|FullyShardedDataParallel|compile"
)
_RETURNS_ITSELF = frozenset({"to", "cuda", "cpu", "float", "half", "bfloat16", "train", "eval", "requires_grad_"})
_INNER = (".module", "._orig_mod")
_HOPS = 3
"""Assignments followed from one name to another."""


def bare(node: ast.AST | None) -> str | None:
    """Return the key of the model that an expression is, or wraps, or is unwrapped from."""
    if isinstance(node, ast.IfExp):
        return bare(node.body) if bare(node.body) == bare(node.orelse) else None
    if isinstance(node, ast.Call):
        first = node.args[0] if node.args else None
        if called(node) == "getattr":
            return bare(first) if "'module'" in ast.unparse(node) else None
        if called(node) in _RETURNS_ITSELF and isinstance(node.func, ast.Attribute):
            return bare(receiver(node))
        return bare(first) if _WRAPS.fullmatch(called(node)) else None
    place = key(node)
    for inner in _INNER if place else ():
        place = (place or "").removesuffix(inner)
    return place


def named(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Walk (a name, the key of what it stands for or is one of) of an assignment or the head of a loop."""
    for target, value in _assigned(node) if isinstance(node, ast.Assign) else ():
        name, held = key(target), bare(value)
        if name and held and name != held:
            yield name, held
    if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
        over = node.iter
        held = bare(receiver(over) if isinstance(over, ast.Call) and called(over) == "values" else over)
        if held:
            yield node.target.id, held


def _assigned(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        yield from zip(target.elts, node.value.elts, strict=False) if several else ((target, node.value),)  # type: ignore[attr-defined]


def same_models(module: Module, at: ast.AST, trained: set[str]) -> dict[str, str]:
    """Return the names that stand for the trained models in the function around a node, each with the model's first."""
    around = enclosing(module, at)
    pairs = module.once(("pairs of names", around), lambda: list(_pairs(around)))
    found = {place: place for place in trained}
    for _ in range(_HOPS):
        for one, other in pairs:
            known = [found[name] for name in (one, other) if name in found]
            if known:
                first = min(known)
                found |= {name: first for name in found if found[name] in known} | {one: first, other: first}
    return found


def _pairs(around: ast.AST) -> Iterator[tuple[str, str]]:
    sources: dict[str, set[str]] = {}
    for node in walk_scope(around):
        for name, held in named(node):
            sources.setdefault(name, set()).add(held)
    yield from ((name, next(iter(held))) for name, held in sources.items() if len(held) == 1)


def held_in_collections(module: Module, trained: set[str]) -> set[str]:
    """Return the attributes whose items a loop of the file puts into a mode: `for net in self.nets: net.train()`."""
    loops = (node for node in module.tree.all(ast.For) if isinstance(node.target, ast.Name))
    return {held for node in loops for name, held in named(node) if name in trained and held.startswith("self.")}


def itself(module: Module, at: ast.AST) -> set[str]:
    """Return {"self"} where the class around a node is a network whose modes are those of PyTorch, or nothing."""
    owner = module.tree.class_of(at)
    return {"self"} if owner is not None and has_modes(module, owner) else set()


def has_modes(module: Module, owner: ast.ClassDef) -> bool:
    """Whether a class is a network that leaves `train` and `eval` to PyTorch."""
    own = (i.name for _, c in ((module, owner), *bases(module, owner)) for i in c.body if isinstance(i, FUNCTIONS))
    return is_network(module, owner) and not {"train", "eval"} & set(own)
