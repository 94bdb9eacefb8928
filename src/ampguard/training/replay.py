"""Run the step of a replay bundle again, in its precision and in fp32 beside it, and name what was not finite first.

The run is built as `train` builds it, in a folder that is thrown away. Then it is brought to where it stood:

    a checkpoint of that very state    the weights are exact
    an older checkpoint, or none       the steps from there (from the seed) are run again, up to `rerun` of them, since
                                       a resumed run is bit by bit the run; further off, the weights stay those of the
                                       checkpoint, and the answer says so

The states of the generators after that are compared with those of the bundle, which tells whether the steps were the
run's own. The step runs eagerly, under a `Locator`. Left out: torch.compile, whose kernels may round differently, and
ranks.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ampguard.checkpointing import CheckpointStore, capture_rng, restore, restore_model, restore_rng
from ampguard.errors import CheckpointError, CollapseError, ConfigError
from ampguard.hardware import inspect, pick_device
from ampguard.health import Locator
from ampguard.health.batch_tree import TreeError
from ampguard.health.bundle import STATE, Bundle, BundleError
from ampguard.precision import Decision, policy_of
from ampguard.precision.autocast import kept_math_mode
from ampguard.records import StepRecord
from ampguard.task import Batch, LossSum, Task
from ampguard.training import setup
from ampguard.training.bad_samples import bad_samples
from ampguard.training.callbacks import Callbacks
from ampguard.training.config import TrainConfig, make_config
from ampguard.training.loop import Loop
from ampguard.training.preempt import StopFlag
from ampguard.training.progress import NullProgress
from ampguard.training.replay_answer import Pass, Replay, advise
from ampguard.training.replay_rng import RngReader, restore_state
from ampguard.training.run import Run

RERUN = 500
"""Steps that are run again at most, where nobody says."""

MOST_THREADS = 4096
"""Threads that a run may have had; more is no number of threads."""

_OF_THE_RUN_ONLY = (
    "out", "resume", "track", "device", "max_time", "compile", "replay_bundles", "ranges_every", "workers", "threads",
)  # fmt: skip
"""Options that a replay does not take over: they decide no number of a step."""


def replay(bundle: Bundle, task: Task, *, device: str | None = None, rerun: int = RERUN) -> Replay:
    """Run a bundle's step again; global generators and modes are left as they were.

    Args:
        bundle: As `read_bundle` read it.
        task: The run's Task.
        device: Where; None: the kind of device that the run was on, if this machine has one, else its own.
        rerun: Most steps to run again to reach the exact weights.

    Raises:
        BundleError: What the bundle tells cannot be used.
        CheckpointError: There are no weights to start from.
    """
    target, remark = _device_of(bundle, device)
    rng = capture_rng()
    with kept_math_mode(target), setup.kept_process():
        _use_threads(bundle)
        try:
            return _Replaying(bundle, task, target, rerun, remark).run()
        finally:
            restore_rng(rng)


def _use_threads(bundle: Bundle) -> None:
    """Split sums over as many threads as the run did: their number decides the last bits."""
    threads = bundle.fact("threads", int)
    if not 1 <= threads <= MOST_THREADS:
        raise BundleError(f"bundle {bundle.path} is of a run with {threads} threads.")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


class _Replaying:
    """One replay under way."""

    def __init__(self, bundle: Bundle, task: Task, device: torch.device, rerun: int, remark: str) -> None:
        self._bundle, self._task, self._device, self._rerun = bundle, task, device, rerun
        self._remarks = [text for text in (remark, _other_torch(bundle)) if text]
        self._exact = not self._remarks
        self._config = _config_of(bundle, task, device)
        self._state: Mapping[str, Any] = bundle.fact("state", dict)

    def run(self) -> Replay:
        bundle = self._bundle
        decision = _decision_of(bundle)
        with _built(self._task, self._config, decision) as loop:
            self._stand(loop)
            weights = {name: value.clone() for name, value in _tensors(loop.parts.model).items()}
            batch = self._batch(loop)
            samples = bad_samples(batch, loop.parts.data, bundle.fact("epoch", int), bundle.fact("position", int))
            own = self._pass(loop, batch)
        fp32 = own if own.precision == "fp32" else self._in_fp32(weights, batch)
        scale = _number(bundle, "loss_scale")
        advice, command = advise(bundle.fact("task", dict), own, fp32, samples, loss_scale=scale)
        return Replay(
            bundle=str(bundle.path),
            step=bundle.step,
            event=str(bundle.fact("event", dict).get("event")),
            reproduced=not own.finite,
            exact=self._exact,
            remarks=tuple(self._remarks),
            loss_scale=scale,
            run=own,
            fp32=fp32,
            samples=samples,
            advice=advice,
            command=command,
        )

    def _in_fp32(self, weights: Mapping[str, Tensor], batch: Batch) -> Pass:
        decision = Decision(requested="fp32", granted="fp32", reason="beside the run's own precision")
        with _built(self._task, replace(self._config, override=()), decision) as loop:
            for name, value in _tensors(loop.parts.model).items():
                if name in weights:
                    value.copy_(weights[name])
            return self._pass(loop, batch)

    def _stand(self, loop: Loop) -> None:
        """Bring the run to where it stood before the step."""
        step = self._bundle.step
        found = self._checkpoint()
        if found is None:
            self._run_again(loop, "the seed")
        elif found[0] >= step:
            self._take_weights(loop, found[1])
            self._remark(f"the weights are those of the step, from the checkpoint of step {found[0]}", exact=True)
        else:
            parts = loop.parts
            progress = restore(found[1], model=parts.model, optimizers=[parts.optimizer], guard=parts.guard)
            loop.load_state_dict(progress)
            self._run_again(loop, f"the checkpoint of step {found[0]}")

    def _checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Return the step and state to start from; None: the seed.

        Raises:
            CheckpointError: There is none, and the step is too far from the seed.
        """
        step, told = self._bundle.step, self._state
        there = told.get("step")
        there = there if isinstance(there, int) and told.get("checkpoint") is not None else 0
        if told.get("kept") is True and there:
            return there, CheckpointStore(self._bundle.path / STATE).load(there)
        store = CheckpointStore(_run_dir(self._bundle.path) / "checkpoints")
        if there in store.steps():
            return there, store.load(there)
        near = [other for other in store.steps() if other < step and step - 1 - other <= self._rerun]
        if near:
            return max(near), store.load(max(near))
        if step - 1 <= self._rerun:
            return None
        missing = f"the checkpoint of step {there}, which the bundle names, is gone" if there else "there is none"
        raise CheckpointError(
            f"no weights to start from: {missing}, and step {step} is {step - 1} steps from the start of the run.",
            hint=f"Run them again: --rerun {step - 1}.",
        )

    def _take_weights(self, loop: Loop, state: dict[str, Any]) -> None:
        """Take weights, buffers and what scales the gradients; the counters and LRs of a step change none of it."""
        guard = loop.parts.guard
        restore_model(state, loop.parts.model)
        own, scale = guard.state_dict(), _number(self._bundle, "loss_scale")
        if own["scale"] and scale is not None:
            own["scale"] = {**own["scale"], "scale": scale}
        fallbacks = self._bundle.fact("fallbacks", list)
        try:
            guard.load_state_dict({**own, "accumulator": state["guard"]["accumulator"], "fallbacks": fallbacks})
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle {self._bundle.path} has fallbacks that cannot be used ({error}).") from error

    def _run_again(self, loop: Loop, start: str) -> None:
        between = self._bundle.step - 1 - loop.cursor.step
        if between > self._rerun:
            far = f"the weights are those of {start}, {between} steps before; --rerun {between} reaches the exact ones"
            self._remark(far, exact=False)
            return
        loop.parts.model.train()
        loop.advance(self._bundle.step - 1)
        again = f"the weights are those of {start}"
        if between:
            again = f"{between} step{'s were' if between > 1 else ' was'} run again from {start}"
        self._remark(again, exact=True)
        drawn = RngReader(self._device).read().as_dict(self._device)
        if drawn != self._bundle.fact("rng", dict):
            self._remark("the generators are not where they were in the run: its steps were others", exact=False)

    def _batch(self, loop: Loop) -> Batch:
        bundle = self._bundle
        try:
            return bundle.batch()
        except TreeError as error:
            reason = error.message.rstrip(".")
        self._remark(f"{reason}: it was read from the Task's data", exact=True)
        if loop.cursor.step == bundle.step - 1:
            return loop.next_batch()
        data = loop.parts.data
        if data.state_dict():
            raise BundleError(f"{reason}, and the data can only go on from a checkpoint of before the step.")
        return next(data.batches(bundle.fact("epoch", int), bundle.fact("position", int)))

    def _pass(self, loop: Loop, batch: Batch) -> Pass:
        lacking = restore_state(self._bundle.fact("rng", dict), self._device)
        if lacking:
            self._remark(lacking, exact=False)
        guard, task = loop.parts.guard, loop.task
        loop.parts.model.train()
        with Locator(loop.parts.model, loss_scale=guard.loss_scale) as locator:
            loop.task = replace(task, loss=_watched(task.loss, locator))
            # One skip more may be too many for the run; the step itself was attempted.
            with suppress(CollapseError):
                loop.attempt(batch)
            record = _last(loop)
            finding = locator.finding
        return Pass(
            precision=guard.decision.granted,
            finite=record.applied,
            loss=record.loss,
            grad_norm=record.grad_norm,
            finding=None if record.applied else finding,
        )

    def _remark(self, remark: str, *, exact: bool) -> None:
        if remark not in self._remarks:
            self._remarks.append(remark)
        self._exact &= exact


@contextmanager
def _built(task: Task, config: TrainConfig, decision: Decision) -> Iterator[Loop]:
    """Give the loop of a run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="ampguard-replay-") as scratch:
        run = Run(
            task,
            {"name": task.name},
            replace(config, out=Path(scratch) / "run"),
            progress=NullProgress(),
            callbacks=Callbacks(()),
            stop=StopFlag(),
            decision=decision,
        )
        with run.built() as (_, loop):
            yield loop


def _watched(
    loss: Callable[[nn.Module, Batch], Tensor | LossSum], locator: Locator
) -> Callable[[nn.Module, Batch], Tensor | LossSum]:
    """Return the loss, with the locator looking at what comes out; what goes into the model it sees itself."""

    def watched(model: nn.Module, batch: Batch) -> Tensor | LossSum:
        value = loss(model, batch)
        locator.check_loss(value.total if isinstance(value, LossSum) else value)
        return value

    return watched


def _last(loop: Loop) -> StepRecord:
    guard = loop.parts.guard
    try:
        return guard.read()
    except CollapseError:
        # Judged once, it is not judged again.
        return guard.read()
    finally:
        guard.watch(None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers, those too that no checkpoint holds, as they are."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def _run_dir(bundle: Path) -> Path:
    """Return the run folder that a bundle lies in: RUN/replay/step-00000120."""
    return bundle.resolve().parents[1]


def _device_of(bundle: Bundle, given: str | None) -> tuple[torch.device, str]:
    """Return the device, and what to remark of it."""
    generator = bundle.fact("rng", dict).get("device")
    kind = str(generator.get("kind")) if isinstance(generator, dict) else "cpu"
    try:
        device = pick_device(given or kind)
    except ConfigError:
        if given is not None:
            raise
        device = pick_device()
    label, before = inspect(device).label, str(bundle.fact("device", str))
    return (
        device,
        "" if label == before else f"the run was on {before}; this is {label}, whose sums may round otherwise",
    )


def _other_torch(bundle: Bundle) -> str:
    """Return what to remark of torch's version; "" where it is the run's."""
    told, now = bundle.fact("versions", dict).get("torch"), version("torch")
    return (
        "" if told == now else f"the run was made with torch {told}; this is {now}, whose kernels may round otherwise"
    )


def _config_of(bundle: Bundle, task: Task, device: torch.device) -> TrainConfig:
    stored = {k: v for k, v in bundle.fact("config", dict).items() if k not in _OF_THE_RUN_ONLY}
    # Nothing is refused for the sake of speed here, and no checkpoint is taken.
    own = {"device": str(device), "on_unsupported": "emulate", "checkpoint_every": "9999d", "replay_bundles": 0}
    try:
        return make_config({**stored, **own}, task)
    except TypeError as error:
        raise BundleError(f"bundle {bundle.path} has a config that cannot be used ({error}).") from error


def _decision_of(bundle: Bundle) -> Decision:
    told = bundle.fact("precision", dict)
    granted = str(told.get("granted"))
    policy_of(granted)
    return Decision(requested=granted, granted=granted, reason=f"of the run: {told.get('reason')}")


def _number(bundle: Bundle, name: str) -> float | None:
    value = bundle.facts.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None
