"""What autocast regions and scaler constructions say: their dtype, their device, and whether they are on.

An expression is followed to the values it can have: through local names and `self` attributes, both arms of a
conditional, dictionaries of dtypes, `getattr(torch, name)`, functions of the project that return an autocast, and
`functools.partial`. What cannot be known (a parameter, a configuration) is "unknown", never guessed.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.autocast_classes import autocast_class, chooses_dtype, derived, held, switch
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.constants_elsewhere import given_elsewhere
from ampguard.auditing.reading.kinds import autocast_of
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Scope, argument, called, key, walk, walk_scope

UNKNOWN = "unknown"
_DEPTH = 6

_DTYPES = {
    **dict.fromkeys(("float16", "half", "fp16", "f16", "16", "16-mixed", "fp16-mixed", "HalfTensor"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16", "bf16-mixed", "BFloat16Tensor"), "bfloat16"),
    **dict.fromkeys(("float32", "float", "fp32", "32", "full", "no", "none", "None", "tf32", "highest"), "float32"),
}
"""Spellings of the dtypes, as names of torch and as words of configurations."""

_DEFAULT = {"cuda": "float16", "cpu": "bfloat16"}
"""What autocast takes where no dtype is given. Source: ATen/autocast_mode.cpp, `autocast_dtype`."""


@dataclass(frozen=True)
class Region:
    """One autocast, as far as it can be read.

    Attributes:
        call: The call that opens it.
        device: "cuda", "cpu", ... or "unknown".
        dtypes: What it may compute in: "float16", "bfloat16", "float32", "unknown".
        enabled: True or False where that is certain, None where it depends.
        flag: The `enabled=` expression, or the test that chooses between the autocast and something else.
    """

    call: ast.Call
    device: str
    dtypes: frozenset[str]
    enabled: bool | None
    flag: ast.expr | None

    @property
    def certain(self) -> str:
        """Return the dtype where only one is possible, else "unknown"."""
        return next(iter(self.dtypes)) if len(self.dtypes) == 1 else UNKNOWN


def dtypes_of(module: Module, node: ast.expr | None, depth: int = 0) -> frozenset[str]:
    """Return the dtypes that an expression may stand for: names of torch, or words of a configuration."""
    if node is None or depth > _DEPTH:
        return frozenset({UNKNOWN})
    if isinstance(node, ast.Constant):
        return frozenset({_DTYPES.get(str(node.value), UNKNOWN)})
    torch_names = [d.removeprefix("torch.") for d in module.names.dotted(node) if d.startswith("torch.")]
    if torch_names and all(name in _DTYPES for name in torch_names):
        return frozenset(_DTYPES[name] for name in torch_names)
    found = [dtypes_of(module, value, depth + 1) for value in _alternatives(module, node)]
    if not found and isinstance(node, ast.Call):
        return _dtypes_returned(module, node, depth)
    if not found and not torch_names:
        elsewhere = given_elsewhere(module, node, ("float16", "half", "bf16", "fp16"))
        found = [dtypes_of(where, value, depth + 1) for where, value in elsewhere]
    return frozenset().union(*found) if found else frozenset({UNKNOWN})


def _dtypes_returned(module: Module, call: ast.Call, depth: int) -> frozenset[str]:
    """Return the dtypes that a function of the project gives; where it is told one in a word, that one."""
    place = target(module, call, ("float16", "half"))
    if place is None:
        return frozenset({UNKNOWN})
    where, function = place
    returned = [n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None]
    found = frozenset[str]().union(*(dtypes_of(where, value, depth + 1) for value in returned))
    told = frozenset[str]().union(*(dtypes_of(module, a) for a in call.args if isinstance(a, ast.Constant)))
    return (told & found - {UNKNOWN}) or found or frozenset({UNKNOWN})


def _alternatives(module: Module, node: ast.expr) -> list[ast.expr | None]:
    """Return the expressions whose values an expression may have; [None] where there may be others."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.NamedExpr):
        return [node.value]
    if isinstance(node, ast.Subscript):
        return _items(module, node.value)
    if isinstance(node, ast.Call):
        if called(node) == "getattr" and len(node.args) > 1 and "torch" in module.names.dotted(node.args[0]):
            return [node.args[1]]
        if called(node) == "get" and isinstance(node.func, ast.Attribute):
            return [*_items(module, node.func.value), *node.args[1:]]
        return []
    return list(_bound(module, node))


def _bound(module: Module, node: ast.expr) -> list[ast.expr | None]:
    """Return what is bound to a name or an attribute of `self`, with None for a binding that says nothing."""
    if isinstance(node, ast.Name):
        found = module.names.lookup(node.id, node)
        if found is None or all(b.kind == "import" for b in found[1]):
            return []
        return [b.value if b.kind == "assign" else None for b in found[1] if b.node is not module.tree.statement(node)]
    return list(assigned(module, node)) or _choices(module, node)


def _choices(module: Module, node: ast.expr) -> list[ast.expr | None]:
    """Return the values that the command line allows for `args.dtype`, where this file declares them all."""
    options = module.calls.get("add_argument", ()) if isinstance(node, ast.Attribute) else ()
    for call in options:
        names = [a.value.lstrip("-").replace("-", "_") for a in call.args if _is_word(a)]  # type: ignore[attr-defined]
        choices = argument(call, None, "choices")
        if isinstance(node, ast.Attribute) and node.attr in names and isinstance(choices, ast.List | ast.Tuple):
            return list(choices.elts)
    return []


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _items(module: Module, node: ast.expr) -> list[ast.expr | None]:
    """Return the values of a dictionary display, also `dict(a=...)` and one that a name stands for."""
    if isinstance(node, ast.Dict):
        return list(node.values)
    if isinstance(node, ast.Call) and called(node) == "dict" and not node.args:
        return [k.value for k in node.keywords]
    found = [v for v in assigned(module, node) if isinstance(v, ast.Dict)]
    return list(found[0].values) if len(found) == 1 else []


def truth(module: Module, node: ast.expr | None, depth: int = 0) -> bool | None:
    """Return whether a flag is certainly on or off; None where it depends on something."""
    if node is None:
        return True
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Name) and depth < _DEPTH:
        values = [None if v is None else truth(module, v, depth + 1) for v in _bound(module, node)]
        return values[0] if values and all(v is values[0] for v in values) else None
    return None


def region_of(module: Module, node: ast.expr) -> Region | None:
    """Return the autocast that an expression opens, through names, choices and functions of the project, or None."""
    return module.once(("region", node), lambda: _region_of(module, node, 0))


def _region_of(module: Module, node: ast.expr, depth: int) -> Region | None:
    if depth > _DEPTH:
        return None
    if isinstance(node, ast.IfExp):
        return _chosen(_region_of(module, node.body, depth + 1) or _region_of(module, node.orelse, depth + 1), node)
    if isinstance(node, ast.Call):
        return _opened(module, node, depth) if autocast_of(module, node) is node else _returned(module, node, depth)
    values = [v for v in assigned(module, node) if v is not node]
    regions = [r for v in values if (r := _region_of(module, v, depth + 1)) is not None]
    return _merged(regions, whole=len(regions) == len(values)) if regions else None


def _chosen(region: Region | None, node: ast.IfExp) -> Region | None:
    if region is None or region.enabled is False:
        return region
    return Region(region.call, region.device, region.dtypes, None, region.flag or node.test)


def _merged(regions: list[Region], *, whole: bool) -> Region:
    first = regions[0]
    dtypes = frozenset().union(*(r.dtypes for r in regions))
    devices = {r.device for r in regions}
    enabled = first.enabled if whole and len({r.enabled for r in regions}) == 1 else None
    return Region(first.call, devices.pop() if len(devices) == 1 else UNKNOWN, dtypes, enabled, first.flag)


def _returned(module: Module, call: ast.Call, depth: int) -> Region | None:
    """Return the autocast that a function of the project returns or yields inside."""
    own = autocast_class(module, call)
    if own is not None:
        return _of_class(call, *own)
    place = target(module, call)
    if place is None or not place[0].mentions(("autocast",)):
        return None
    where, function = place
    for node in walk_scope(function):
        if isinstance(node, ast.Return) and node.value is not None:
            found = _region_of(where, node.value, depth + 1)
            if found is not None:
                return _chosen_outside(found)
        if isinstance(node, ast.Yield):
            around = region_around(where, node)
            if around is not None:
                return _chosen_outside(around)
    return None


def _of_class(call: ast.Call, where: Module, cls: ast.ClassDef) -> Region | None:
    """Return the autocast that an object of a class of the project is, holds, or sets torch's switch as."""
    base = derived(where, cls)
    if base is not None:
        if any(isinstance(n, ast.FunctionDef) for n in cls.body):
            return Region(call, UNKNOWN, frozenset({UNKNOWN}), None, None)
        device = next((d for d in ("cuda", "cpu") for n in where.names.dotted(base) if f".{d}." in n), UNKNOWN)
        return Region(call, device, frozenset({_DEFAULT.get(device, UNKNOWN)}), None, None)
    inside = held(where, cls)
    if inside is not None:
        return _chosen_outside(_opened(where, inside))
    value = switch(where, cls)
    if value is None:
        return None
    dtypes = frozenset({UNKNOWN if chooses_dtype(where, cls) else "float16"})
    return Region(call, "cuda", dtypes, truth(where, value), value)


def _chosen_outside(region: Region) -> Region:
    """Return the region without what the caller decides: its flag is a name of another function."""
    enabled = region.enabled if region.flag is None else None
    return Region(region.call, region.device, region.dtypes, enabled, region.flag)


def _opened(module: Module, call: ast.Call, depth: int = 0) -> Region:
    if any(keyword.arg is None for keyword in call.keywords):
        call = _spread(module, call)
    device = _device(module, call)
    dtype = _on_cuda(_given(module, call, "dtype", _position(module, call, "dtype")))
    flag = _given(module, call, "enabled", _position(module, call, "enabled"))
    left_out = UNKNOWN if any(keyword.arg is None for keyword in call.keywords) else _DEFAULT.get(device, UNKNOWN)
    dtypes = dtypes_of(module, dtype) if dtype is not None else frozenset({left_out})
    if isinstance(dtype, ast.Constant) and dtype.value is None:
        dtypes = frozenset({_DEFAULT.get(device, UNKNOWN)})
    if dtype is None and flag is None and dtypes == {UNKNOWN}:
        own = _of_that_name(module, call, depth)
        if own is not None:
            return Region(call, own.device, own.dtypes, False if own.enabled is False else None, None)
    return Region(call, device, dtypes, truth(module, flag), flag)


def _of_that_name(module: Module, call: ast.Call, depth: int) -> Region | None:
    """Return what a function of the project gives that is called `autocast` itself."""
    if any(name.startswith("torch.") for name in module.names.dotted(call.func)):
        return None
    place = target(module, call, ("autocast",))
    own = place is not None and place[1] is module.tree.function(call)
    return None if place is None or own else _returned(module, call, depth + 1)


def _spread(module: Module, call: ast.Call) -> ast.Call:
    """Return the call with `**options` written out, where these are a dictionary display that can be seen."""
    keywords: list[ast.keyword] = []
    for keyword in call.keywords:
        options = _display(module, keyword.value) if keyword.arg is None else None
        if options is None:
            keywords.append(keyword)
            continue
        pairs = zip(options.keys, options.values, strict=True)
        words = ((k.value, v) for k, v in pairs if isinstance(k, ast.Constant))
        keywords += [ast.keyword(word, v) for word, v in words if isinstance(word, str)]
    spread = ast.copy_location(ast.Call(call.func, call.args, keywords), call)
    module.tree.parents.setdefault(spread, module.tree.parents[call])
    return spread


def _display(module: Module, node: ast.expr) -> ast.Dict | None:
    """Return the dictionary display that an expression stands for: itself, a name's, or a function's of this file."""
    if isinstance(node, ast.Call):
        place = target(module, node)
        returned = walk_scope(place[1]) if place is not None and place[0] is module else ()
        values = [n.value for n in returned if isinstance(n, ast.Return)]
    else:
        values = list(assigned(module, node)) if isinstance(node, ast.Name | ast.Attribute) else [node]
    shown = [value for value in values if isinstance(value, ast.Dict)]
    return shown[-1] if shown and len(shown) == len(values) else None


def _on_cuda(dtype: ast.expr | None) -> ast.expr | None:
    """Return the dtype that is taken on CUDA, of a choice by the kind of device alone."""
    if not isinstance(dtype, ast.IfExp):
        return dtype
    test = ast.unparse(dtype.test)
    if _IS_CUDA.fullmatch(test):
        return dtype.body
    return dtype.orelse if _IS_CPU.fullmatch(test) else dtype


_IS_CUDA = regex(r"torch\.cuda\.is_available\(\)|[\w.]*(device|device_type|\.type) == 'cuda'|'cuda' in [\w.()]+")
_IS_CPU = regex(r"[\w.]*(device|device_type|\.type) == 'cpu'|'cpu' in [\w.()]+")

_POSITIONS = {"old": {"enabled": 0, "dtype": 1}, "new": {"dtype": 1, "enabled": 2}}
"""`torch.cuda.amp.autocast(enabled, dtype)` and `torch.autocast(device_type, dtype, enabled)`."""


def _position(module: Module, call: ast.Call, name: str) -> int:
    return _POSITIONS["old" if _old_device(module, call) else "new"][name]


def _old_device(module: Module, call: ast.Call) -> str:
    """Return "cuda" or "cpu" for an autocast or scaler of `torch.cuda.amp` or `torch.cpu.amp`, else ""."""
    funcs = [call.func, *(assigned(module, call.func) if isinstance(call.func, ast.Attribute) else ())]
    for name in (name for func in funcs for name in module.names.dotted(func)):
        for device in ("cuda", "cpu"):
            if name.startswith(f"torch.{device}.amp."):
                return device
    return ""


def _device(module: Module, call: ast.Call) -> str:
    old = _old_device(module, call)
    return old or device_word(module, _given(module, call, "device_type", 0))


def device_word(module: Module, node: ast.expr | None) -> str:
    """Return the kind of device that an expression names, "cuda" where a GPU is taken if there is one, or "unknown"."""
    words = _device_words(module, node, 0)
    if words == {"cuda", "cpu"}:
        return "cuda"
    return next(iter(words)) if len(words) == 1 else UNKNOWN


def _device_words(module: Module, node: ast.expr | None, depth: int) -> frozenset[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return frozenset({node.value.split(":")[0]})
    if node is None or depth > _DEPTH:
        return frozenset({UNKNOWN})
    if isinstance(node, ast.IfExp):
        arms = _device_words(module, node.body, depth + 1) | _device_words(module, node.orelse, depth + 1)
        return arms - {UNKNOWN} | {"cuda"} if "is_available" in ast.unparse(node.test) and "cpu" in arms else arms
    if isinstance(node, ast.Attribute) and node.attr == "type":
        return _device_words(module, node.value, depth + 1)
    if isinstance(node, ast.Call) and called(node) in ("str", "device") and len(node.args) == 1:
        return _device_words(module, node.args[0], depth + 1)
    values = _bound(module, node) if isinstance(node, ast.Name | ast.Attribute) else []
    found = [_device_words(module, value, depth + 1) for value in values]
    return frozenset().union(*found) if found else frozenset({UNKNOWN})


def _given(module: Module, call: ast.Call, name: str, position: int) -> ast.expr | None:
    """Return an argument of the call, or of the `partial` that the called name stands for."""
    found = argument(call, position, name)
    if found is not None:
        return found
    for value in [call.func] if isinstance(call.func, ast.Call) else assigned(module, call.func):
        if isinstance(value, ast.Call) and called(value) == "partial":
            return argument(value, position + 1, name)
    return None


def regions_in(module: Module) -> list[Region]:
    """Return every autocast that the file opens itself, in source order."""
    if "autocast" not in module.text:
        return []
    return module.once(
        "regions",
        lambda: [_opened(module, c) for calls in module.calls.values() for c in calls if autocast_of(module, c) is c],
    )


def regions_around(module: Module, node: ast.AST) -> Iterator[Region]:
    """Walk the autocast regions that hold a node inside its function, innermost first, then those of decorators."""
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, ast.With | ast.AsyncWith) and below in at.body:
            yield from (r for item in reversed(at.items) if (r := region_of(module, item.context_expr)) is not None)
        if isinstance(at, FUNCTIONS):
            yield from decorations(module, at)
        if isinstance(at, Scope):
            return
        below = at


def region_around(module: Module, node: ast.AST) -> Region | None:
    """Return the innermost autocast region that holds the node inside its function, or None."""
    return next(regions_around(module, node), None)


def decorations(module: Module, function: Function) -> Iterator[Region]:
    """Walk the autocasts that decorate a function, with or without being called."""
    for decorator in function.decorator_list:
        region = region_of(module, decorator)
        if region is not None:
            yield region


def flag_words(module: Module, node: ast.expr | None, depth: int = 0) -> frozenset[str]:
    """Return the last names that a flag depends on, through assignments: `use_amp = args.amp` gives both words."""
    if node is None or depth > _DEPTH:
        return frozenset()
    words: set[str] = set()
    for at in walk(node):
        if isinstance(at, ast.Name | ast.Attribute) and isinstance(getattr(at, "ctx", None), ast.Load):
            if isinstance(module.tree.parents.get(at), ast.Attribute):
                continue
            words.add((key(at) or "").split(".")[-1].strip("_"))
            for value in assigned(module, at):
                if value is not node:
                    words |= flag_words(module, value, depth + 1)
        if isinstance(at, ast.Constant) and isinstance(at.value, str):
            words.add(at.value)
    return frozenset(words - {""})
