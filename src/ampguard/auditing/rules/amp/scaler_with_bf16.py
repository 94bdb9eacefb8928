"""A gradient scaler that is on while the only autocast computes in bfloat16."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, assigned, attributes, bases, same_function, target
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import UNKNOWN, Region, dtypes_of, flag_words, regions_in, truth
from ampguard.auditing.reading.tree import argument, called, key, receiver, walk
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.asked_elsewhere import words_of_its_choice
from ampguard.auditing.rules.amp._precision.asking_dtypes import holds_for_bf16, only_asks_for_any
from ampguard.auditing.rules.amp._precision.same_conditions import on_together
from ampguard.auditing.rules.amp._precision.scaler_alone import is_off
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_EITHER = frozenset({"bfloat16", "float16"})
_NONE = frozenset({"float32"})
"""What autocast is not entered for, or does nothing for: no reason to scale either."""

_COMMON = frozenset(
    {"torch", "self", "cuda", "cfg", "args", "config", "bfloat16", "float16", "device", "get", "opt", "hps", "train"}
)
_PRECISION = regex(r"dtype|half|fp_?16|bf_?16|float_?16|precision", re.IGNORECASE)
_WHICH = regex(r"dtype|half|fp_?16|bf_?16|float_?16|scal", re.IGNORECASE)
"""What a flag is called that may stand for one of the two half dtypes, or for scaling itself."""

_KNOWN = frozenset({"bool", "is_available"})


class ScalerWithBf16(Rule):
    """A gradient scaler scales a loss that is computed in bfloat16.

    ## What it does
    Finds a `GradScaler` in a file whose every autocast region is certainly bfloat16, unless its condition may ask for
    the dtype; the scaler may be made in a base class, or by who calls the function that trains. A scaler with
    `enabled=(dtype == torch.float16)`, or made only for float16, is what it should be. Where the dtype is chosen
    between the two, or set elsewhere, and the scaler does not ask which, the finding is low. A scaler whose own
    condition switches it on for bfloat16, as `enabled=dtype in ("float16", "bfloat16")` does, is found wherever
    autocast is, also where an object, a function or a caller of the project gives that condition.

    ## Why is this bad
    bfloat16 has the exponent range of float32, so there is nothing to scale. The scaler still multiplies, checks every
    gradient and waits for the answer, may skip steps that were fine, and raises for parameters kept in bfloat16.

    ## Example
    ```python
    import torch

    scaler = torch.amp.GradScaler("cuda")


    def train_step(model, optimizer, batch):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)


    def train_step(model, optimizer, batch):
        with torch.autocast("cuda", dtype=dtype):
            loss = model(batch).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Safe: with `enabled=False` every method of the scaler passes its work through. Checkpoints lose the scaler's state,
    which is then empty.

    ## References
    - https://pytorch.org/docs/stable/amp.html#gradient-scaling
    - https://github.com/pytorch/pytorch/issues/127176
    """

    code = "AMP021"
    name = "scaler-with-bf16"
    severity = Severity.MEDIUM
    impact = "Every step pays for scaling and a wait that bfloat16 does not need, and good steps may be skipped."
    risk = "Low: a scaler with enabled=False passes everything through."
    fix = "Give the scaler enabled=(dtype == torch.float16), or leave it out."
    words = ("caler",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every scaler that is on beside bfloat16 only."""
        regions = _of_training(module)
        certain = bool(regions) and all(r.dtypes - _NONE == {"bfloat16"} for r in regions)
        either = bool(regions) and all(r.dtypes - _NONE == _EITHER for r in regions)
        scales = _scales(module)
        for call in (c for c in scaler_constructions(module) if not is_off(module, c)):
            asked = None if certain and scales else _asks_for_bf16(module, call)
            if asked is not None:
                message = f"{module.segment(asked, 60)} switches the scaler on for bfloat16 too"
                yield self.finding(module, call, message, critical_path=True)
            elif scales and ((either and _whatever_dtype(module, call, regions)) or _any_dtype(module, call, regions)):
                message = (
                    f"the scaler is made for bfloat16 too, which autocast (line {regions[0].call.lineno}) may take"
                )
                yield self.finding(
                    module, call, message, severity=Severity.LOW, likelihood="possible", critical_path=True
                )
            if scales and certain and (_as_often(module, call, regions) or not _asks_which(module, call)):
                message = f"the scaler is on, and autocast (line {regions[0].call.lineno}) computes in bfloat16"
                yield self.finding(module, call, message, critical_path=True)
        if certain and scales and not scaler_constructions(module):
            yield from self._made_elsewhere(module, regions[0])

    def _made_elsewhere(self, module: Module, region: Region) -> Iterator[Finding]:
        """Yield the first use of each scaler that another file makes without asking for the dtype."""
        told: set[str | None] = set()
        for use in sorted(module.calls_of("scale"), key=lambda c: c.lineno):
            owner = receiver(use)
            if owner is None or not is_scaler(module, owner) or key(owner) in told:
                continue
            told.add(key(owner))
            made = next(_makers(module, owner), None)
            if made is not None:
                where, call = made
                message = (
                    f"the scaler of {where.path} (line {call.lineno}) scales here, and autocast (line "
                    f"{region.call.lineno}) computes in bfloat16"
                )
                yield self.finding(module, use, message, critical_path=True)


def _makers(module: Module, owner: ast.expr) -> Iterator[tuple[Module, ast.Call]]:
    """Walk the constructions in other files that a scaler comes from, if none of them asks for the dtype.

    A scaler of `self` is made in a base class; one that is a parameter, beside a call of the function.
    """
    place = key(owner) or ""
    cls = module.tree.class_of(owner)
    function = module.tree.function(owner)
    found: list[tuple[Module, ast.Call]] = []
    if place.startswith("self.") and cls is not None:
        for where, base in bases(module, cls):
            values = attributes(where, base).get(place.removeprefix("self."), [])
            made = [c for c in scaler_constructions(where) if any(where.tree.inside(c, v) for v in values)]
            found += [(where, call) for call in made if where is not module]
    elif function is not None and place in {arg.arg for arg, _ in parameters(function)}:
        for where in _files_with(module, function.name):
            if any(_runs(where, c, (module, function)) for c in where.calls_of(function.name)):
                found += [(where, call) for call in scaler_constructions(where)]
    if not any(_asks_which(where, call) for where, call in found):
        yield from found


def _runs(where: Module, call: ast.Call, wanted: Place) -> bool:
    place = target(where, call)
    return place is not None and same_function(place, wanted)


def _files_with(module: Module, name: str) -> Iterator[Module]:
    project = module.project
    for path in project.files:
        if path != module.path and project.holds(path, ("GradScaler",)) and project.holds(path, (name,)):
            where = project.module(path)
            if where is not None and where.role == module.role:
                yield where


def _asks_which(module: Module, call: ast.Call) -> bool:
    """Whether the condition of a scaler may depend on the dtype, or switches it off."""
    flag = argument(call, None, "enabled")
    conditions = [] if flag is None else [flag]
    conditions += [test for test, _ in tests_above(module, call)]
    if truth(module, flag) is False or any(k.arg is None for k in call.keywords):
        return True
    words = [word for c in conditions for word in flag_words(module, c)]
    return any(_WHICH.search(word) for word in words) or any(_compares(c) for c in conditions)


def _compares(condition: ast.expr) -> bool:
    """Whether a condition compares the precision with one of several."""
    compared = (at for at in walk(condition) if isinstance(at, ast.Compare))
    return any(_PRECISION.search(ast.unparse(at)) for at in compared)


def _asks_for_bf16(module: Module, call: ast.Call) -> ast.expr | None:
    """Return the condition of a scaler that holds for bfloat16, where no other one keeps it from that; else None."""
    flag = argument(call, None, "enabled")
    asked = [(flag, True)] if flag is not None else []
    asked += list(tests_above(module, call))
    if any("loss_scale" in flag_words(module, test) for test, _ in asked):  # a scale that somebody set by hand
        return None
    said = [(test, holds_for_bf16(module, test), inside) for test, inside in asked]
    if any(answer is not None and answer != inside for _, answer, inside in said):
        return None
    return next((test for test, answer, inside in said if answer and inside), None)


def _of_training(module: Module) -> list[Region]:
    """Return the regions of the functions that train, where there are some, else all that are not off."""
    regions = [r for r in regions_in(module) if r.enabled is not False]
    training = {enclosing(module, c) for c in module.calls_of("backward", "scale")}
    return [r for r in regions if enclosing(module, r.call) in training] or regions


def _whatever_dtype(module: Module, call: ast.Call, regions: list[Region]) -> bool:
    """Whether neither the scaler nor its use depends on what the dtype of the regions depends on."""
    dtypes = [d for r in regions if (d := _dtype_given(module, r)) is not None]
    given = frozenset((key(d) or "").split(".")[-1].strip("_") for d in dtypes)
    elsewhere = [words_of_its_choice(module, r.call) for r in regions if _dtype_given(module, r) is None]
    chosen = frozenset().union(*(flag_words(module, d) for d in dtypes), *elsewhere) - _COMMON
    flag = argument(call, None, "enabled")
    conditions = [] if flag is None else [flag]
    conditions += [test for test, _ in tests_above(module, call)]
    for use in module.calls.get("scale", ()):
        conditions += [test for test, _ in tests_above(module, use) if _may_ask(module, test, chosen)]
    conditions = [c for c in conditions if not _sets_full_apart(module, c)]
    if truth(module, flag) is False or not all(_plain(c) for c in conditions):
        return False
    asked = frozenset().union(*(flag_words(module, c) for c in conditions if not only_asks_for_any(c, given)))
    return not asked & chosen and not any(_PRECISION.search(word) for word in asked)


def _any_dtype(module: Module, call: ast.Call, regions: list[Region]) -> bool:
    """Whether autocast takes a dtype that is set elsewhere, and the scaler asks at most whether there is one."""
    dtypes = [_dtype_given(module, r) for r in regions]
    places = {key(d) or "" for d in dtypes}
    if len(places) != 1 or not all("dtype" in p.rpartition(".")[2] for p in places):
        return False
    if any(r.dtypes != {UNKNOWN} for r in regions) or any(tests_above(module, call)):
        return False
    if any(
        _PRECISION.search(w)
        for c in module.calls.get("scale", ())
        for t, _ in tests_above(module, c)
        for w in flag_words(module, t)
    ):
        return False
    flag = argument(call, None, "enabled")
    if any(k.arg is None for k in call.keywords):
        return False
    if flag is None:
        return True
    values = assigned(module, flag)
    flag = values[0] if len(values) == 1 else flag
    asks = isinstance(flag, ast.Compare) and isinstance(flag.ops[0], ast.IsNot) and key(flag.left) in places
    return asks or key(flag) in places


def _may_ask(module: Module, condition: ast.expr, chosen: frozenset[str]) -> bool:
    """Whether a condition around a use of a scaler may speak of precision, or of what the dtype is chosen by."""
    words = flag_words(module, condition)
    return bool(words & chosen) or any(_WHICH.search(word) or _PRECISION.search(word) for word in words)


def _sets_full_apart(module: Module, condition: ast.expr) -> bool:
    """Whether a condition only tells float32 from the rest: `dtype == torch.float32`, `bf16 or fp16`."""
    if isinstance(condition, ast.BoolOp) and holds_for_bf16(module, condition):
        return True
    if not isinstance(condition, ast.Compare) or len(condition.ops) > 1:
        return False
    said = dtypes_of(module, condition.comparators[0])
    return said <= _NONE and isinstance(condition.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot)


def _dtype_given(module: Module, region: Region) -> ast.expr | None:
    if region.call not in module.tree.parents:
        return None
    return next((k.value for k in region.call.keywords if k.arg == "dtype"), None) or argument(region.call, 1, "dtype")


def _plain(condition: ast.expr) -> bool:
    """Whether a condition can be read: it calls nothing that may know of the dtype."""
    return all(called(at) in _KNOWN for at in walk(condition) if isinstance(at, ast.Call))


def _scales(module: Module) -> bool:
    return any(is_scaler(module, receiver(c)) for c in module.calls.get("scale", ()))


def _as_often(module: Module, call: ast.Call, regions: list[Region]) -> bool:
    """Whether the scaler is on whenever autocast is: always, or by the same flag."""
    flag = argument(call, None, "enabled")
    if any(keyword.arg is None for keyword in call.keywords):
        return False
    conditions = [] if truth(module, flag) else [flag]
    conditions += [test for test, _ in tests_above(module, call)]
    flags = {_spelled(r.flag) for r in regions if r.flag is not None}
    same = all(c is not None and {_spelled(c)} == flags for c in conditions)
    return same or on_together(module, call, regions)


def _spelled(flag: ast.expr) -> str:
    """Return a flag's spelling; `args.amp` in `__init__` and `self.args.amp` elsewhere are one."""
    return ast.unparse(flag).removeprefix("self.")
