"""The sentinel: what a guard does about a collapse. It finds the module, says why, and heals what can be healed.

    guard = Guard(model, optimizer, precision="fp16", on_collapse=Sentinel("fallback"))

A streak of skipped steps leaves the state as it was before, so nothing is lost by looking twice. Where the loop can run
the step again (`again`: `train` does), that tells at once. Then the next steps run with a `Locator`, in whatever loop
that is, until one is applied, or the place is known. Then

    raise       CollapseError, whose message names module, phase and cause
    continue    an event that names them, and the run goes on
    fallback    what overflows in fp16 goes to fp32: the module that was found; where it happens again beside it, the
                block around both; after three modules, or where none can be named, the whole run to bf16 or fp32

A gradient that overflows while the loss scale can still fall is nobody's fault yet, and a bad batch may be followed by
a good one: both are raised only if they last. Nothing heals weights that are not finite, or an overflow in bf16 or
fp32: these raise under both. Each decision is an event with its reason.

Left out: ranks, which would have to agree on the finding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ampguard.engine import Action, Collapse, Guard, raise_collapse
from ampguard.errors import CollapseError, ConfigError, did_you_mean
from ampguard.health.locate import LOSS, Finding, Locator
from ampguard.health.widen import fallback_target
from ampguard.records import Event, StepRecord

OnCollapse = Literal["raise", "continue", "fallback"]
MODULE_FALLBACKS = 3
"""Modules that go to fp32 one by one; an overflow in a fourth place is no matter of single modules."""
STEPS = 8
"""Steps that are looked at: enough for a loss scale to fall by 256, and for a bad batch to be followed by others."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a second look at a step found."""

    finding: Finding | None
    """What was not finite first; None: all was finite."""
    exact: bool
    """Whether the weights are those of the step."""


Again = Callable[[Collapse], Seen | None]
"""Runs the step of a collapse again and leaves the run as it was; None: it cannot."""


class Sentinel:
    """Decides about collapses; give it to a Guard as `on_collapse`. One may serve several guards.

    Args:
        policy: What to do about what was found.
        steps: Skipped steps to look at before deciding without a finding.
        again: Looks at the step itself; None: only the steps that follow are looked at.

    Raises:
        ConfigError: The policy is unknown, or there are no steps.
    """

    def __init__(self, policy: OnCollapse = "raise", *, steps: int = STEPS, again: Again | None = None) -> None:
        if policy not in get_args(OnCollapse):
            allowed = get_args(OnCollapse)
            raise ConfigError(
                f"on_collapse {policy!r} is unknown.", allowed=allowed, hint=did_you_mean(str(policy), allowed)
            )
        if steps < 1:
            raise ConfigError(f"steps is {steps!r}; it must be an integer >= 1.")
        self.policy = policy
        self.steps = steps
        self._again = again

    def __call__(self, collapse: Collapse) -> Action:
        """Look at the next steps; where there is no guard to watch, raise unless the policy is to continue."""
        if collapse.guard is None:
            return Action.CONTINUE if self.policy == "continue" else raise_collapse(collapse)
        if not collapse.guard.watched:
            seen = self._look_again(collapse.guard, collapse)
            collapse.guard.watch(_Search(collapse.guard, collapse, policy=self.policy, steps=self.steps, seen=seen))
        return Action.CONTINUE

    def _look_again(self, guard: Guard, collapse: Collapse) -> Finding | None:
        """Tell what the step itself shows; return it, if it could be run again with the weights that it had."""
        seen = None if self._again is None else self._again(collapse)
        if seen is None or seen.finding is None:
            return None
        how = "" if seen.exact else "; steps were applied since: these are other weights"
        message = f"step {collapse.step} run again: found {seen.finding.message()}{how}"
        data = {**seen.finding.as_dict(), "replayed": True, "exact": seen.exact}
        guard.tell(Event(kind="nonfinite", step=collapse.step, message=message, data=data))
        return seen.finding if seen.exact else None


class _Search:
    """Looks at the steps that follow a collapse; a Watcher."""

    def __init__(
        self, guard: Guard, collapse: Collapse, *, policy: OnCollapse, steps: int, seen: Finding | None = None
    ) -> None:
        self._collapse, self._policy = collapse, policy
        self._seen = seen
        self._told = None if seen is None else (seen.fqn, seen.phase)
        self._steps = self._left = steps
        self._locator = Locator(guard.model, loss_scale=guard.loss_scale)
        self._locator.__enter__()

    def close(self) -> None:
        """Take the hooks away."""
        self._locator.__exit__(None, None, None)

    def step_end(self, guard: Guard) -> None:
        """Decide, if this step tells enough."""
        try:
            self._judge(guard, guard.read())
        except CollapseError:
            guard.watch(None)
            raise

    def _judge(self, guard: Guard, record: StepRecord) -> None:
        self._locator.check_loss(guard.loss)
        finding = self._locator.finding
        self._locator.restart()
        self._left -= 1
        if record.applied:
            guard.watch(None)
        else:
            # A step that shows nothing of its own leaves what the collapsed step showed, for once.
            known, self._seen = finding or self._seen, None
            if self._left <= 0 or (known is not None and not _may_pass(known, record, guard)):
                self._decide(guard, record, known, is_own=finding is not None)
        self._locator.loss_scale = guard.loss_scale

    def _decide(self, guard: Guard, record: StepRecord, finding: Finding | None, *, is_own: bool) -> None:
        if finding is not None and is_own and self._told != (finding.fqn, finding.phase):
            message = f"found {finding.message()}"
            guard.tell(Event(kind="nonfinite", step=record.step, message=message, data=finding.as_dict()))
        if self._policy == "continue":
            guard.watch(None)
        elif self._policy == "raise" or not _heals(guard, finding):
            raise self._error(guard, record, finding, step=record.step if is_own else self._collapse.step)
        elif finding is not None and _may_pass(finding, record, guard):
            # The loss scale still falls; where that does not help, the guard asks again.
            guard.watch(None)
        else:
            self._fall_back(guard, finding)
            self._left = self._steps

    def _fall_back(self, guard: Guard, finding: Finding | None) -> None:
        if finding is None:
            guard.fall_back(f"no module could be named in {self._steps} steps")
            return
        taken = [fqn for fallback in guard.fallbacks for fqn in fallback.modules]
        target = "" if finding.fqn == LOSS else fallback_target(guard.model, finding.fqn, reversed(taken))
        while target and len(taken) < MODULE_FALLBACKS:
            try:
                guard.fall_back(finding.message(), modules=(target,))
            except ConfigError:
                # Its forward was replaced on the instance, say: what is around it can be overridden.
                target = target.rpartition(".")[0]
            else:
                return
        guard.fall_back(finding.message())

    def _error(self, guard: Guard, record: StepRecord, finding: Finding | None, *, step: int) -> CollapseError:
        first = self._collapse.first_skipped
        if self._collapse.applied_again is not None:
            # Another streak than the one that was asked about: that one was over before the search began.
            first = record.step - record.skip_streak + 1
        message = replace(
            self._collapse,
            step=record.step,
            first_skipped=first,
            skip_streak=record.step - first + 1,
            applied_again=None,
            loss_scale=record.loss_scale,
            precision=guard.decision.granted,
            cause=self._collapse.cause if record.loss_scale is not None else "streak",
        ).message()
        if finding is None:
            return CollapseError(
                f"{message} No module could be named: what ran inside of modules was finite in {self._steps} steps.",
                hint="Look at what is computed outside of modules, and for gradients whose norm leaves float32.",
            )
        return CollapseError(f"{message} At step {step}: {finding.message()}.", hint=_hint(guard, finding))


def _may_pass(finding: Finding, record: StepRecord, guard: Guard) -> bool:
    """Return whether the next step may well be applied: another batch, or a lower loss scale."""
    if finding.phase == "data":
        return True
    scaled = record.loss_scale is not None and record.loss_scale > guard.config.min_scale
    return scaled and finding.phase == "backward" and finding.kind == "overflow"


def _heals(guard: Guard, finding: Finding | None) -> bool:
    """Return whether a wider precision may help: only fp16 has a narrow range, and only numbers made here."""
    return guard.decision.policy.scaled and (finding is None or finding.phase not in ("data", "weights"))


def _hint(guard: Guard, finding: Finding) -> str:
    if finding.phase == "data":
        return "Look for inf or NaN in the data set, and at what normalises it."
    if finding.phase == "weights":
        return "No step wrote them; look at what else sets weights, or go back to a checkpoint."
    if finding.kind == "domain":
        return "Keep its input away from there: clamp it, or add an eps that the precision can hold."
    if not guard.decision.policy.scaled:
        return "Look at its inputs and at the learning rate; no wider precision helps."
    if finding.fqn in ("", LOSS):
        return "Compute it in float32, or try precision 'bf16-mixed'."
    return f"Compute it in fp32 (override {finding.fqn}=fp32, or on_collapse fallback), or use another precision."
