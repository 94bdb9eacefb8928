"""One step for training and for judging, of which a phase allows the backward pass alone: the forward always records.

`if mode == "train": loss.backward()` behind a forward pass that nothing tells apart, or `if judging: return loss` in
front of the backward pass. That the other phase is run is told by a test of the same name, or by a call for it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, NEEDS, OFF, off_around, run_model, source
from ampguard.auditing.rules.amp._steps import callers

_TRAINS = regex(r"train(ing)?|fit|learn")
_JUDGES = regex(r"(in)?val(id(ation|ating)?)?|eval(uat(e|ion|ing))?|test(ing)?|dev|forward|infer(ence)?|predict(ion)?")
_FLAG = regex(r"(is_|do_|for_)?(train|training|learn|backward|optimi[sz]e)")
_OTHER_FLAG = regex(r"(is_|do_|for_)?(val|valid|validation|validate|eval|evaluate|evaluation|test|testing|inference)")
_RUNS = regex(r"(^|_)(forward|compute_loss|get_loss|calc_loss|calculate_loss|shared_step)", 0)
_HOPS = 3
"""Assignments followed back from a loss."""


def recorded_in_any_phase(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the forward pass, what is wrong: its backward pass is allowed in one phase alone), once a function."""
    if module.mentions(("ightning", "set_grad_enabled")):
        return
    seen: set[ast.AST] = set()
    for backward in module.calls.get("backward", ()):
        scope: ast.AST = module.tree.function(backward) or module.root
        phase = _phase(module, backward, scope) if scope not in seen else None
        if phase is None:
            continue
        seen.add(scope)
        test, name, first = phase
        text = source(module, scope) if isinstance(scope, FUNCTIONS) else module.text
        if OFF.search(text) or NEEDS.search(text.replace("backward", "")):
            continue
        run = _forward(module, backward, scope, first, test)
        if run is not None and _also_judges(module, scope, name, test) and not _is_off(module, scope):
            asked = f"line {first} ({module.segment(test, 30)}) decides on its backward pass"
            yield run, f"{module.segment(run, 40)} records in every phase, though {asked}"


def _phase(module: Module, backward: ast.Call, scope: ast.AST) -> tuple[ast.expr, str, int] | None:
    """Return (the test that allows a backward pass, the name that it asks, the line from which on it holds)."""
    below: ast.AST = module.tree.statement(backward)
    for at in module.tree.above(backward):
        if isinstance(at, ast.If) and below in at.body and (name := _asks_for(at.test, _TRAINS, _FLAG, _OTHER_FLAG)):
            return at.test, name, at.lineno
        for before in _block(at, below):
            if isinstance(before, ast.If) and isinstance(before.body[-1], ast.Return) and not before.orelse:
                name = _asks_for(before.test, _JUDGES, _OTHER_FLAG, _FLAG)
                if name:
                    return before.test, name, before.lineno
        if at is scope:
            return None
        below = at
    return None


def _block(around: ast.AST, below: ast.AST) -> list[ast.stmt]:
    """Return the statements before one in the block of `around` that holds it."""
    for field in ("body", "orelse"):
        block = getattr(around, field, None)
        if isinstance(block, list) and below in block:
            return block[: block.index(below)]
    return []


def _asks_for(test: ast.expr, words: re.Pattern[str], flags: re.Pattern[str], others: re.Pattern[str]) -> str:
    """Return the name that a test asks whether this is the phase that the words name, or "" for another test."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        asked, said = key(test.left), test.comparators[0]
        told = isinstance(said, ast.Constant) and isinstance(said.value, str) and words.fullmatch(said.value.lower())
        return asked if asked and told and not asked.startswith("self.") else ""
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    plain = test.operand if isinstance(test, ast.UnaryOp) and negated else test
    wanted = others if negated else flags
    return plain.id if isinstance(plain, ast.Name) and wanted.fullmatch(plain.id.lower()) else ""


def _forward(module: Module, backward: ast.Call, scope: ast.AST, first: int, test: ast.expr) -> ast.Call | None:
    """Return the call before the test that gives what the loss is made of, if it runs a model."""
    loss = receiver(backward) if not backward.args else backward.args[0]
    names = {n.id for n in walk(loss) if isinstance(n, ast.Name)} if loss is not None else set()
    given = [n for n in walk_scope(scope) if isinstance(n, ast.Assign) and n.lineno < first]
    found: list[ast.Call] = []
    for _ in range(_HOPS):
        made = [a for a in given if names & {n.id for t in a.targets for n in walk(t) if isinstance(n, ast.Name)}]
        for call in (c for a in made for c in walk(a.value) if isinstance(c, ast.Call)):
            asked = any(isinstance(at, ast.If) and _same_name(at.test, test) for at in module.tree.above(call))
            if _runs_a_model(call) and not asked and not off_around(module, call):
                found.append(call)
        names |= {n.id for a in made for n in walk(a.value) if isinstance(n, ast.Name)}
    return min(found, key=lambda c: c.lineno, default=None)


def _same_name(one: ast.expr, other: ast.expr) -> bool:
    names = {n.id for n in walk(other) if isinstance(n, ast.Name)}
    return any(isinstance(n, ast.Name) and n.id in names for n in walk(one))


def _runs_a_model(call: ast.Call) -> bool:
    given = [key(a) or "" for a in (*call.args, *(k.value for k in call.keywords))]
    owner, place = key(receiver(call)) or "", run_model(call) or ""
    if not given or called(call) in ("to", "cuda", "get_target", "size"):
        return False
    if MODEL.search(place) or (MODEL.search(owner) and called(call) in ("loss", "forward", "compute_loss", "get_loss")):
        return True
    return bool(_RUNS.search(called(call))) and any(MODEL.search(name) for name in given)


def _also_judges(module: Module, scope: ast.AST, name: str, test: ast.expr) -> bool:
    """Whether the other phase is asked for: by a test of the same name, by a mode that is set, or by a caller."""
    wanted = ast.unparse(test)
    for node in walk_scope(scope):
        if isinstance(node, ast.Compare) and key(node.left) == name and ast.unparse(node) != wanted:
            said = [n.value for n in walk(node.comparators[0]) if isinstance(n, ast.Constant)]
            if any(isinstance(word, str) and _JUDGES.fullmatch(word.lower()) for word in said):
                return True
    if not isinstance(scope, FUNCTIONS):
        return False
    if ".eval()" in source(module, scope):
        return True
    return any(_judged_by(call, scope, name) for call in callers(module, scope))


def _judged_by(call: ast.Call, function: Function, name: str) -> bool:
    """Whether a call leaves the training to others: `step(batch, training=False)`, `step(batch, mode="eval")`."""
    if not any(arg.arg == name for arg, _ in parameters(function)):
        return False
    value = argument_for(call, function, name)
    if not isinstance(value, ast.Constant):
        return False
    flagged = value.value is (_FLAG.fullmatch(name.lower()) is None)
    return flagged if isinstance(value.value, bool) else bool(_JUDGES.fullmatch(str(value.value).lower()))


def _is_off(module: Module, scope: ast.AST) -> bool:
    """Whether any call of the function, in the file or in the project, stands where gradients are off."""
    if not isinstance(scope, FUNCTIONS):
        return False
    return any(off_around(module, c) for c in callers(module, scope)) or called_where_off(module, scope)
