"""Discriminators that step on what the generator's backward pass left: theirs is cleared behind the step alone.

The generator's loss runs through the discriminator, so its backward pass leaves gradients on that one's parameters too.
Only a clear between that pass and the discriminator's own takes them away.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver, walk
from ampguard.auditing.rules.amp._steps import arms

_STEPS = ("step", "scaler step")
_BACKWARD = ("backward", "managed backward")
_DISCRIMINATOR = regex(
    r"discr|critic|(^|[._])(net_?)?(d|dis|disc)(_?\d)?(_(opt\w*|solver|trainer))?$|(opt\w*|solver)_(net_?)?(d|dis|disc)(_?\w)?$"
    r"|opt\w*(D|Dis|Disc)$"
)
_ADVERSARIAL = ("discr", "Discr", "GAN", "gan_", "_gan", "fake", "netD", "net_d", "generator", "Generator")
_FROZEN = regex(r"requires_grad(?!_?\(?(self|True)\b)\w*|toggle|freeze|\binputs\s*=|\.grad\b")
"""What may keep, or take, the generator's gradients off the discriminator."""

_TRAINABLE = regex(r"\bif \w+\.requires_grad\b(?=\s*[\])])|lambda \w+: \w+\.requires_grad\b")
"""What only picks the parameters that an optimizer is given."""

_OTHERS = regex(r"([\w.]+)\.(?:requires_grad_\(|requires_grad ?= ?)False\b\)?")
"""What is frozen by its name: that of another model frees nothing of the discriminator's."""

_ANYTHING = regex(r"(^|[._])(p|q|v|t|m|x|par|param|params|parameter|w|weight|model|models|net|nets|self|module|layer)$")

_JUDGED = regex(r"disc|critic|adv|gan|fake|real|judge|hinge|(^|[\W_])[dD](\W|_|$)|net_?d|self", re.IGNORECASE)
_TERMS = 40

_ACTING = ("actor", "policy", "reward", "advantage")
_LEARNS_TO_ACT = regex(r"(?<![a-z])actor|policy|reward|advantage", re.IGNORECASE)
"""Where a critic, or a discriminator, only tells a number that the other's loss is weighted with."""


def left_by_the_generator(module: Module) -> Iterator[tuple[Event, Event]]:
    """Walk (the discriminator's step, the generator's backward pass), once a function."""
    if not module.mentions(_ADVERSARIAL) or _LEARNS_TO_ACT.search(module.about(*_ACTING)):
        return
    frozen = _freezes(module.about("grad", "toggle", "freeze", "inputs"))
    told: set[ast.AST] = set()
    for _, ops in skeletons(module):
        found = [e for e in events(ops) if e.kind in (*_STEPS, *_BACKWARD, "zero", "clear")]
        owners = {_owner(e) for e in found if e.kind in _STEPS}
        for judge in sorted(name for name in owners if _DISCRIMINATOR.search(name)):
            pair = _carried(module, found, judge) if len(owners) > 1 else None
            if pair is None or pair[0].module is not module or (frozen and _frozen_where_run(module, found)):
                continue
            if pair[0].node not in told:
                told.add(pair[0].node)
                yield pair


def _carried(module: Module, found: list[Event], judge: str) -> tuple[Event, Event] | None:
    """Return the step that applies too much: from another's backward pass, round the loop, nothing clears."""
    if not any(_clears(e, judge) for e in found):
        return None
    passes = {at: _applied(found, at) for at, e in enumerate(found) if e.kind in _BACKWARD}
    own = [at for at, steps in passes.items() if any(_owner(s) == judge for s in steps)]
    for at, steps in passes.items():
        if not steps or at in own or any(_DISCRIMINATOR.search(_owner(s)) for s in steps) or _passes_by(found[at]):
            continue
        for behind in (*found[at + 1 :], *found[:at]):
            if _clears(behind, judge):
                break
            if behind.kind in _BACKWARD and found.index(behind) in own:
                step = next(s for s in passes[found.index(behind)] if _owner(s) == judge)
                return None if _apart(module, found[at], step) else (step, found[at])
    return None


def _passes_by(event: Event) -> bool:
    """Whether a loss is worked out here from terms without a judge, as that of a cycle or an identity is."""
    module, call = event.module, event.node
    if not isinstance(call, ast.Call):
        return False
    left = [n for value in (receiver(call), *call.args) if value is not None for n in walk(value)]
    seen: set[str] = set()
    for node in left:  # the list grows
        if isinstance(node, ast.Attribute) or not isinstance(node, ast.Name) or node.id in seen:
            continue
        seen.add(node.id)
        values = assigned(module, node)
        if not values and "loss" in node.id.lower():
            return False
        of_loss = "loss" in node.id.lower()
        if len(seen) > _TERMS or any(_judges(value, of_loss=of_loss) for value in values):
            return False
        left += [n for value in values if of_loss for n in walk(value)]
    return any("loss" in name.lower() for name in seen)


def _judges(value: ast.expr, *, of_loss: bool) -> bool:
    """Whether a loss speaks of the judge, or what it is made of is what a discriminator gives."""
    if of_loss:
        return bool(_JUDGED.search(ast.unparse(value)))
    called_here = (key(n.func) or "" for n in walk(value) if isinstance(n, ast.Call))
    return any(_DISCRIMINATOR.search(name) or name in ("D", "self.D") for name in called_here)


def _applied(found: list[Event], at: int) -> list[Event]:
    """Return the steps behind a backward pass, up to the next one."""
    steps: list[Event] = []
    for event in found[at + 1 :]:
        if event.kind in _BACKWARD and steps:
            break
        if event.kind in _STEPS:
            steps.append(event)
        elif event.kind in _BACKWARD and event.node is not found[at].node and not _same_block(found[at], event):
            return []
    return steps


def _same_block(one: Event, other: Event) -> bool:
    gap: int = getattr(one.node, "lineno", 0) - getattr(other.node, "lineno", 0)
    return abs(gap) <= _NEAR


_NEAR = 6
"""Lines within which two backward passes are ways of one, as with a scaler and without."""


def _clears(event: Event, judge: str) -> bool:
    if event.kind not in ("zero", "clear"):
        return False
    return not event.data.get("is_optimizer") or _owner(event) == judge


def _owner(event: Event) -> str:
    return str(event.data.get("optimizer") or "")


def _apart(module: Module, one: Event, other: Event) -> bool:
    """Whether the two never run in one pass, as where an argument says whose turn it is."""
    return not one.stack and not other.stack and arms(module, one.node, other.node)


def _frozen_where_run(module: Module, found: list[Event]) -> bool:
    """Whether what may freeze stands where the events run, in what calls that, or in what these call by name.

    A file may freeze parts of a model once and for all, as for fine-tuning: that keeps no gradient off the rest.
    """
    if any(e.module is not module for e in found):
        return True
    nodes = [node for e in found for node in (e.node, *(call for where, call in e.stack if where is module))]
    running = {f for node in nodes if (f := module.tree.function(node)) is not None}
    around = {f for inner in running for call in module.calls.get(inner.name, ()) if (f := module.tree.function(call))}
    texts = [module.text_of(f) for f in running | around]
    named = [f for f in module.functions if any(re.search(rf"\b{f.name}\(", text) for text in texts)]
    return any(_freezes(text) for text in (*texts, *map(module.text_of, named)))


def _freezes(text: str) -> bool:
    """Whether a text may keep gradients off the discriminator."""
    return bool(_FROZEN.search(_OTHERS.sub(_unless_it_may_be_the_judge, _TRAINABLE.sub("", text))))


def _unless_it_may_be_the_judge(found: re.Match[str]) -> str:
    name = found[1]
    return found[0] if _ANYTHING.search(name) or _DISCRIMINATOR.search(name) else ""
