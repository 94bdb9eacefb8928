"""Uses behind `hasattr(self, "clip")` of an attribute that is always there, and None for some configuration.

`self.clip = config.get("CLIP", None)` in `__init__` makes the question true for every configuration. So does the
parser for `hasattr(args, "resume")`, where the option has no default; and Accelerate's state has `deepspeed_plugin`
and its like, None without it.
"""

import ast
from collections.abc import Iterator, Sequence

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, needed_by
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import argument, is_none_literal, key, walk, walk_scope

_PLUGINS = frozenset({"deepspeed_plugin", "fsdp_plugin", "megatron_lm_plugin"})
_BRANCHES = (ast.If, ast.IfExp)


def uses_behind_hasattr(module: Module) -> Iterator[Use]:
    """Walk the first use under each such test."""
    for call in module.calls_of("hasattr"):
        name = call.args[1] if len(call.args) == 2 else None
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            continue
        place = f"{key(call.args[0])}.{name.value}"
        run = _run_where_there(module, call)
        use = _first_need(run, place)
        if use is None or any(True for _ in module.tree.handlers_around(use)):
            continue
        origin = _always_there(module, call, name.value)
        if origin is not None:
            yield Use(place, use, origin)


def _run_where_there(module: Module, call: ast.Call) -> Sequence[ast.AST]:
    """Return what runs behind a test that is this question alone, or leads a conjunction."""
    above = module.tree.parents[call]
    if isinstance(above, ast.BoolOp) and isinstance(above.op, ast.And):
        rest = above.values[above.values.index(call) + 1 :]
        outer = module.tree.parents[above]
        tests = isinstance(outer, _BRANCHES) and outer.test is above
        return [*rest, *_body(outer)] if tests else rest
    return _body(above) if isinstance(above, _BRANCHES) and above.test is call else []


def _body(branch: ast.AST) -> list[ast.AST]:
    body = branch.body if isinstance(branch, _BRANCHES) else []
    return list(body) if isinstance(body, list) else [body]


def _first_need(run: Sequence[ast.AST], place: str) -> ast.AST | None:
    """Return what fails without the place, unless something asks about it or gives it a value before."""
    names = {place}
    if any(isinstance(part, ast.expr) and _asks(part, names) for part in run):
        return None
    for node in (node for part in run for node in (part, *walk_scope(part))):
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert) and _asks(node.test, names):
            return None
        if isinstance(node, ast.BoolOp) and any(_asks(value, names) for value in node.values):
            return None
        if isinstance(node, ast.Assign):
            if any(key(bound) in names for bound in node.targets):
                return None
            if key(node.value) == place and isinstance(node.targets[0], ast.Name):
                names.add(node.targets[0].id)
        if _asks(node, names) and isinstance(node, ast.Call):
            return None
        if any(key(needed) in names for needed in needed_by(node)) or _is_norm(node, names):
            return node
    return None


def _asks(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Call):
        return key(node.func) in ("isinstance", "callable", "getattr") and any(key(a) in names for a in node.args[:1])
    return any(asks_about(node, name) for name in names)


def _is_norm(node: ast.AST, names: set[str]) -> bool:
    """Whether gradients are clipped to what a name holds."""
    clips = isinstance(node, ast.Call) and (key(node.func) or "").endswith(("clip_grad_norm_", "clip_grad_value_"))
    return clips and any(key(argument(node, 1, at)) in names for at in ("max_norm", "clip_value"))  # type: ignore[arg-type,operator]


def _always_there(module: Module, call: ast.Call, name: str) -> ast.AST | None:
    """Return what gives the attribute in every case, and None in some."""
    owner = key(call.args[0]) or ""
    if name in _PLUGINS and owner.rpartition(".")[2] == "state":
        return call
    if owner == "self":
        return _given_by_init(module, call, name)
    return _option_without_default(module, name) if owner.rpartition(".")[2] in ("args", "opt", "opts") else None


def _given_by_init(module: Module, call: ast.Call, name: str) -> ast.AST | None:
    """Return the one value that `__init__` itself gives an attribute, where that may be None."""
    cls = module.tree.class_of(call)
    values = attributes(module, cls).get(name, []) if cls is not None else []
    for value in values:
        made = module.tree.function(value)
        statement = module.tree.statement(value)
        if made is None or made.name != "__init__" or made is module.tree.function(call):
            continue
        if module.tree.parents[statement] is made and _may_be_none(module, value):
            return value
    return None


def _may_be_none(module: Module, value: ast.expr) -> bool:
    """Whether a value is None, a lookup that answers None, or a parameter that is None by default."""
    if isinstance(value, ast.IfExp):
        return _may_be_none(module, value.body) or _may_be_none(module, value.orelse)
    if isinstance(value, ast.Call):
        looks_up = isinstance(value.func, ast.Attribute) and value.func.attr == "get" and not value.keywords
        return looks_up and len(value.args) == 2 and is_none_literal(value.args[1])
    if isinstance(value, ast.Name):
        made = module.tree.function(value)
        given = parameters(made) if made is not None else ()
        return any(a.arg == value.id and d is not None and is_none_literal(d) for a, d in given)
    return is_none_literal(value)


def _option_without_default(module: Module, name: str) -> ast.AST | None:
    """Return the option of the file's own parser that is None where it is not given."""
    call = option(module, name)
    return call if call is not None and is_none_by_default(call) else None


def option(module: Module, name: str) -> ast.Call | None:
    """Return the call that gives the file's own parser an option of that name."""
    for call in module.calls_of("add_argument"):
        flag = next((a.value for a in reversed(call.args) if isinstance(a, ast.Constant)), "")
        dest = argument(call, None, "dest")
        spelled = dest.value if isinstance(dest, ast.Constant) else str(flag).lstrip("-").replace("-", "_")
        if spelled == name and str(flag).startswith("-"):
            return call
    return None


def is_none_by_default(call: ast.Call) -> bool:
    """Whether an option of a parser is None where the command line does not give it."""
    given = {k.arg: k.value for k in call.keywords}
    if "required" in given or None in given or any(isinstance(n, ast.Starred) for n in walk(call)):
        return False
    action = given.get("action")
    plain = action is None or (isinstance(action, ast.Constant) and action.value in ("store", "append"))
    return plain and ("default" not in given or is_none_literal(given["default"]))
