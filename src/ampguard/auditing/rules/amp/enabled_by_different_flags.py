"""A scaler and the autocast beside it that listen to different switches."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, regions_in, truth
from ampguard.auditing.reading.tree import argument, called, key
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._precision.always_on import always_on, chosen_here, is_plain
from ampguard.auditing.rules.amp._precision.asked_where_used import asked_where_used
from ampguard.auditing.rules.amp._precision.flag_unheard import unheard
from ampguard.auditing.rules.amp._precision.listens_apart import half_by_a_setting, on_in_a_model
from ampguard.auditing.rules.amp._precision.made_where_on import made_by_choice
from ampguard.auditing.rules.amp._precision.overridden_steps import scaled_whatever_the_flag
from ampguard.auditing.rules.amp._precision.scaler_alone import scalers_switched_off, scalers_without_half
from ampguard.auditing.rules.amp._precision.switched_apart import source_of, switched_apart
from ampguard.auditing.rules.amp._precision.switches import apart
from ampguard.auditing.rules.amp._precision.wrapped_scalers import wrapped_always_on
from ampguard.auditing.rules.amp._steps import tests_above


class EnabledByDifferentFlags(Rule):
    """`GradScaler(enabled=A)` and `autocast(enabled=B)` work on the same step, and A and B are different switches.

    ## What it does
    Finds a file with scalers and float16 autocasts of which each side is switched by one plain flag (a name, an
    attribute, a key), and the two have nothing in common: neither a name, nor what they were assigned from. `use_amp`
    and `self.use_amp` are the same; a flag joined with a dtype test is fine. Low: a scaler that no flag switches and
    that always scales, where a flag (or a class of the project's own, by what it finds out) switches the autocast, also
    in a function that both are handed to, and where a class of the project holds the scaler. So is a scaler that scales
    in a project where nothing computes in float16, and one that is off, the only one there is, where a switch turns the
    autocast on or float16 is what it may compute in. Also one that is on for nothing where each use of it asks a switch
    first, and an autocast with its scaler in a function that is given a flag of mixed precision and never asks it.
    Flags that are each other's opposite are medium. An autocast that is always on is low, too, where the scaler is made
    by a flag, or listens to one. So is the scaler of a base class that is always on, where a flag switches the autocast
    in which that class runs the method of another one that scales with it. At last any scaler, of a function, a class
    or a file, is compared with the autocasts of the functions that it scales in, by the words of all that switches
    either (low); a switch that asks for the device alone is none.

    ## Why is this bad
    With only the autocast on, float16 gradients are not scaled and underflow; with only the scaler on, steps are
    checked and skipped for nothing.

    ## Example
    ```python
    import torch


    def train(args, model, optimizer, loader):
        scaler = torch.amp.GradScaler("cuda", enabled=args.fp16)
        for batch in loader:
            with torch.autocast("cuda", enabled=args.mixed):
                loss = model(batch).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Use instead
    ```python
    import torch


    def train(args, model, optimizer, loader):
        scaler = torch.amp.GradScaler("cuda", enabled=args.mixed)
        for batch in loader:
            with torch.autocast("cuda", enabled=args.mixed):
                loss = model(batch).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Fix safety
    Safe where the two flags were meant to be one; otherwise say in the code how they depend on each other.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html: one `use_amp` for both
    """

    code = "AMP029"
    name = "enabled-by-different-flags"
    severity = Severity.MEDIUM
    likelihood = "possible"
    impact = "With one flag on and the other off, gradients underflow, or steps are skipped for nothing."
    risk = "Low: both get the same flag."
    fix = "Switch the scaler and the autocast by the same flag."
    words = ("caler", "autocast")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the scalers whose flags cannot agree with those of autocast, the surest of a file first."""
        sure = list(self._known(module))
        yield from sure
        told = [range(at.lineno, (at.end_lineno or at.lineno) + 1) for at in module.root.body if _holds(at, sure)]
        for found in apart(module) if module.role not in ("test", "benchmark") else ():
            if any(found.place.lineno in lines or found.region.lineno in lines for lines in told):
                continue
            ours = f"listens to {module.segment(found.scaler, 30)}" if found.scaler is not None else "is always on"
            theirs = f"to {module.segment(found.autocast, 30)}" if found.autocast is not None else "is always on"
            message = f"the scaler {ours}, autocast (line {found.region.lineno}) {theirs}"
            yield self.finding(module, found.place, message, severity=Severity.LOW)

    def _known(self, module: Module) -> Iterator[Finding]:
        """Yield the scaler of a file whose flags cannot agree, and those that are on whatever autocast's flag says."""
        for made, flag, where in always_on(module) if module.role not in ("test", "benchmark") else ():
            message = f"the scaler is always on, and {module.segment(flag, 30)} switches the autocast of {where}"
            yield self.finding(module, made, message, severity=Severity.LOW)
        for use, flag, step in scaled_whatever_the_flag(module) if module.role not in ("test", "benchmark") else ():
            switch = step.home.segment(flag, 30)
            message = f"the scaler of {step.base.name} is always on, and {switch} switches the autocast it runs "
            message += f"{step.method.name}() in"
            yield self.finding(module, use, message, severity=Severity.LOW)
        for made, region, home in wrapped_always_on(module) if module.role not in ("test", "benchmark") else ():
            at = f"line {region.call.lineno}" + ("" if home is module else f" of {home.path}")
            switch = home.segment(region.flag or region.call, 30)
            message = (
                f"the scaler in {module.segment(made, 30)} is always on, and {switch} switches the autocast of {at}"
            )
            yield self.finding(module, made, message, severity=Severity.LOW)
        for made, region in half_by_a_setting(module) if module.role not in ("test", "benchmark") else ():
            line, ours = region.call.lineno, module.segment(argument(region.call, 1, "dtype") or region.call, 50)
            message = f"the scaler is on whatever makes autocast (line {line}) fp16 or fp32: {ours}"
            yield self.finding(module, made, message, severity=Severity.LOW)
        for call in on_in_a_model(module) if module.role not in ("test", "benchmark") else ():
            message = "this autocast is always on, and every scaler of the project has a switch"
            yield self.finding(module, call, message, severity=Severity.LOW)
        for made, where in asked_where_used(module) if module.role not in ("test", "benchmark") else ():
            message = (
                f"the scaler is on whatever the switch says that is asked before it scales ({where}), and for autocast"
            )
            yield self.finding(module, made, message, severity=Severity.LOW, likelihood="unlikely")
        for region, unasked in unheard(module) if module.role not in ("test", "benchmark") else ():
            message = f"autocast and the scaler are on whatever `{unasked}` says: nothing here asks it"
            yield self.finding(module, region.call, message, severity=Severity.LOW)
        for made, flags in switched_apart(module) if module.role not in ("test", "benchmark") else ():
            yield self.finding(module, made, f"the scaler listens to {flags}", severity=Severity.LOW)
        for call in scalers_without_half(module):
            message = f"{module.segment(call)} scales a loss, and nothing in this project computes in float16"
            yield self.finding(module, call, message, severity=Severity.LOW)
        for made, autocast in scalers_switched_off(module):
            message = f"{module.segment(made)} is off, and {autocast}"
            yield self.finding(module, made, message, severity=Severity.LOW)
        yield from self._apart(module)

    def _apart(self, module: Module) -> Iterator[Finding]:
        regions = [r for r in regions_in(module) if r.enabled is not False]
        scalers = scaler_constructions(module)
        if len(scalers) != 1 or not regions or not all(map(_is_half, regions)):
            return
        flag = argument(scalers[0], None, "enabled")
        chosen = made_by_choice(module, scalers[0], regions) if flag is None else None
        if chosen is not None:
            line, ours = regions[0].call.lineno, module.segment(chosen, 30)
            message = f"autocast (line {line}) is always on, and the scaler is made only where {ours} is set"
            yield self.finding(module, scalers[0], message, severity=Severity.LOW)
        if flag is None or truth(module, flag) is not None or not is_plain(flag) or not _used_together(module):
            return
        if all(
            r.enabled is True and not any(tests_above(module, r.call)) for r in regions if r.call in module.tree.parents
        ):
            line, ours = regions[0].call.lineno, module.segment(flag, 30)
            message = f"autocast (line {line}) is always on, and the scaler listens to {ours}"
            yield self.finding(module, scalers[0], message, severity=Severity.LOW)
            return
        regions = [chosen_here(module, r) for r in regions]
        plain = all(r.flag is not None and is_plain(r.flag) for r in regions)
        if plain and (_apart(module, flag, regions) or all(_opposed(flag, r.flag) for r in regions)):
            ours, theirs = module.segment(flag, 30), module.segment(regions[0].flag or flag, 30)
            message = f"the scaler listens to {ours}, autocast (line {regions[0].call.lineno}) to {theirs}"
            yield self.finding(module, scalers[0], message)


def _holds(at: ast.stmt, findings: list[Finding]) -> bool:
    """Whether a finding stands in a statement of the file."""
    return any(at.lineno <= finding.line <= (at.end_lineno or at.lineno) for finding in findings)


def _is_half(region: Region) -> bool:
    """Whether an autocast is one of fp16; one that names no dtype is, on whatever device the scaler works for."""
    if any(keyword.arg is None for keyword in region.call.keywords):
        return False  # its settings lie elsewhere
    return region.certain == "float16" or (region.certain == "unknown" and argument(region.call, 1, "dtype") is None)


def _apart(module: Module, flag: ast.expr, regions: list[Region]) -> bool:
    """Whether no autocast's flag shares a word with the scaler's, and where each comes from is known."""
    ours = source_of(module, flag)
    theirs = [source_of(module, r.flag) for r in regions]
    return bool(ours) and all(words and not words & ours for words in theirs)


def _opposed(one: ast.expr, other: ast.expr | None) -> bool:
    """Whether one flag is the opposite of the other."""
    either = ((one, other), (other, one))
    return any(isinstance(n, ast.UnaryOp) and key(n.operand) == key(p) is not None for n, p in either)


def _used_together(module: Module) -> bool:
    return any(called(c) == "scale" and c.args for c in module.calls.get("scale", ()))
