"""`train`: from a Task and options to a RunRecord. Builds the parts, resumes them, runs the loop, writes the record."""

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ampguard.checkpointing import CheckpointStore, restore
from ampguard.engine import Collapse, Guard, GuardConfig
from ampguard.errors import (
    AmpguardError,
    CollapseError,
    CompileError,
    ConfigError,
    RunError,
    RunFolderError,
    TaskError,
    UserCodeError,
)
from ampguard.hardware import inspect, pick_device
from ampguard.health import Seen, Sentinel
from ampguard.precision import Decision, parse_overrides
from ampguard.records import Event, RunRecord, RunStatus, StepCounts
from ampguard.run_folder import read_run
from ampguard.task import Task
from ampguard.tracking import Deliveries, RunLog, described, lower_marks
from ampguard.training import setup
from ampguard.training.callbacks import Callback, Callbacks
from ampguard.training.compiling import Compiled, NotCompiled
from ampguard.training.config import TrainConfig, as_items, make_config
from ampguard.training.data import TrainData, open_train_data, to_device
from ampguard.training.folder import RunFolder, fresh_path, newest_unfinished, versions
from ampguard.training.loop import Loop, Parts
from ampguard.training.monitor import Monitor
from ampguard.training.notebook import default_progress
from ampguard.training.preempt import StopFlag
from ampguard.training.progress import Outline, Progress
from ampguard.training.recorder import Limits, Recorder
from ampguard.training.replay_ring import ReplayRing
from ampguard.training.replayed_locate import ReplayedLocate
from ampguard.training.report import reported
from ampguard.training.sampling import NoSampling, RangeSampling, Sampling

log = logging.getLogger("ampguard.training")


RESTARTED = (
    "max_time", "workers", "checkpoint_every", "replay_bundles", "replay_limit_mib", "track", "track_timeout", "device",
    "ranges_every", "on_collapse", "report",
)  # fmt: skip
"""Options that may be given beside a resumed run's own: they decide no number of it."""


def train(
    task: Task,
    *,
    origin: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> RunRecord:
    """Train a Task and return what came of it; the run folder holds the rest.

    Args:
        task: What to train.
        origin: How to find the Task again: {"target", "options"}, as the command line names it.
        progress: Shows the run; None: a bar in a notebook, nothing elsewhere.
        callbacks: Called at step boundaries, in order.
        options: Fields of TrainConfig: steps, lr, precision, out, resume ...

    Raises:
        InputError: What was given cannot work; nothing was written.
        RunError: The run failed on its way; its folder says how far it came.
    """
    if not isinstance(task, Task):
        raise TaskError(f"train got a {type(task).__name__}, not a Task.", hint="Call what builds it: train(build()).")
    resume = options.get("resume")
    if resume not in (None, "auto"):
        options = _taken_over(Path(str(resume)), options)
    config = make_config(options, task)
    with StopFlag(config.max_time_s()) as stop, setup.kept_process():
        run = Run(
            task,
            {"name": task.name, **(origin or {})},
            config,
            progress=progress or default_progress(),
            callbacks=Callbacks(callbacks),
            stop=stop,
        )
        try:
            return run.execute()
        except RunError as error:
            error.hint = f"{error.hint} {run.continuation()}".strip()
            raise
        except AmpguardError:
            raise
        except Exception as error:
            raise _explained(error, run.continuation()) from error


def _taken_over(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the run in `path`, to go on with it.

    Raises:
        ConfigError: An option was given beside it that would make it another run.
    """
    stored = read_run(path)["config"]
    # The limit was of that part of the run.
    stored.pop("max_time", None)
    given = {name: value for name, value in given.items() if name not in ("resume", "out") and value not in (None, ())}
    if "override" in given:
        given["override"] = list(as_items(given["override"]))
    for name, value in given.items():
        if name not in RESTARTED and stored.get(name) != value:
            raise ConfigError(
                f"{name} is given beside resume {path}, whose run.toml decides it ({stored.get(name)!r}).",
                allowed=RESTARTED,
                hint="Leave it out, or start a new run.",
            )
    return {**stored, **given, "out": path, "resume": "auto"}


class Run:
    """One run: its folder, its parts, its record. decision: the precision, where it is decided already."""

    def __init__(
        self,
        task: Task,
        origin: Mapping[str, Any],
        config: TrainConfig,
        *,
        progress: Progress,
        callbacks: Callbacks,
        stop: StopFlag,
        decision: Decision | None = None,
    ) -> None:
        self.task, self.origin, self.config = task, origin, config
        self.progress, self.callbacks, self.stop = progress, callbacks, stop
        self._decision = decision
        self.device = pick_device(config.device)
        self.path = self._choose_path()
        self.resumed_from: int | None = None
        self._begun = False

    def _choose_path(self) -> Path:
        out = self.config.out
        if self.config.resume == "auto":
            return out or newest_unfinished(self.task.name) or fresh_path(self.task.name)
        if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunFolderError(
                f"run folder {out} exists already.", hint="Give another --out, or --resume auto to go on with it."
            )
        return out or fresh_path(self.task.name)

    def continuation(self) -> str:
        """Return the command that goes on from the last checkpoint, as a sentence; "" without one."""
        if not (self.path / "checkpoints" / "latest").exists():
            return ""
        if "target" not in self.origin:
            return f"Continue from the last checkpoint: ampguard.train(task, resume={str(self.path)!r})"
        return f"Continue from the last checkpoint: ampguard train --resume {shlex.quote(str(self.path))}"

    def execute(self) -> RunRecord:
        """Build, resume, run, and write the record; with the folder free again, its report."""
        with reported(self.path, wanted=self.config.report, begun=lambda: self._begun), self.built() as (folder, loop):
            return self._go(folder, loop)

    @contextmanager
    def built(self) -> Iterator[tuple[RunFolder, Loop]]:
        """Give the run's locked folder and its loop, ready for the first step."""
        config = self.config
        deliveries = Deliveries(config.track, self.path)
        monitor = Monitor(config, self.task)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        setup.seed_everything(config.seed, deterministic=config.deterministic)
        data = open_train_data(self.task, batch_size=config.batch_size, seed=config.seed, workers=config.workers)
        self.config = config = replace(config, batch_size=data.batch_size or config.batch_size)
        setup.check_sizes(config)
        steps = self._steps(data.batches_per_epoch)
        model = self._model()
        decision = self._decide(model, data.peek())
        optimizer = setup.make_optimizer(self.task, model, config)
        loop_box: list[Loop] = []
        guard = Guard(model, optimizer, self._guard_config(steps, lambda: loop_box[0]), decision=decision)
        compilation = Compiled(model) if config.compile else NotCompiled()
        folder = RunFolder(self.path)
        store = CheckpointStore(folder.checkpoints)
        try:
            parts = Parts(
                model=model,
                optimizer=optimizer,
                guard=guard,
                data=data,
                monitor=monitor,
                compilation=compilation,
                store=store,
                recorder=self._recorder(store, guard, data),
                sampling=self._sampling(model, guard),
                tracker=RunLog(folder.path),
                deliveries=deliveries,
                progress=self.progress,
                callbacks=self.callbacks,
            )
            loop = Loop(self.task, config, parts, steps=steps, stop=self.stop)
            loop_box.append(loop)
            yield folder, loop
        finally:
            deliveries.close()
            folder.close()

    def _recorder(self, store: CheckpointStore, guard: Guard, data: TrainData) -> Recorder:
        config = self.config
        # A read comes at most check_every steps late, and a streak of max_skip_streak may stand before it.
        ring = ReplayRing(guard.config.check_every + config.max_skip_streak + 1, data, self.device)
        return Recorder(
            ring,
            guard,
            store,
            facts={
                "task": dict(self.origin),
                "device": inspect(self.device).label,
                "config": replace(config, resume=None).as_dict(),
            },
            versions=versions,
            limits=Limits(bundles=config.replay_bundles, nbytes=config.replay_limit_mib * 2**20),
        )

    def _sampling(self, model: nn.Module, guard: Guard) -> Sampling:
        every = self.config.ranges_every
        return NoSampling() if every is None else RangeSampling(model, guard, self.task.name, every, self.path)

    def _steps(self, per_epoch: int | None) -> int:
        if self.config.epochs is None:
            return self.config.steps or 1
        if per_epoch is None:
            raise ConfigError("epochs is given, but the length of train_data is unknown.", hint="Give --steps.")
        return self.config.epochs * per_epoch

    def _model(self) -> nn.Module:
        model = self.task.model()
        if not isinstance(model, nn.Module):
            raise TaskError(f"Task {self.task.name!r}: model returned {type(model).__name__}, not a torch.nn.Module.")
        if not any(p.requires_grad for p in model.parameters()):
            raise TaskError(
                f"Task {self.task.name!r}: the model, a {type(model).__name__}, has no trainable parameter.",
                hint="Set requires_grad on what is to learn.",
            )
        if self.config.activation_checkpointing:
            setup.checkpoint_activations(self.task, model)
        return model.to(self.device)

    def _decide(self, model: nn.Module, batch: Any) -> Decision:
        if self._decision is not None:
            return self._decision
        stored = self._stored_precision()
        if stored is not None and self.config.precision == "auto":
            return stored
        model.train()
        return setup.decide_precision(self.task, model, to_device(batch, self.device), self.config, self.device)

    def _stored_precision(self) -> Decision | None:
        """Return the decision of the run that is resumed: it is part of what makes the resume exact."""
        if self.config.resume != "auto" or not (self.path / "run.toml").exists():
            return None
        facts = read_run(self.path)["precision"]
        return Decision(requested=facts["requested"], granted=facts["granted"], reason=facts["reason"])

    def _guard_config(self, steps: int, loop: Callable[[], Loop]) -> GuardConfig:
        """Return the guard's options; the loop, which is made of the guard, is asked for when it is needed."""
        config = self.config

        def look_again(collapse: Collapse) -> Seen | None:
            parts = loop().parts
            return ReplayedLocate(self.task, parts.guard, parts.recorder.ring, config.micro_batch_size).look(collapse)

        return GuardConfig(
            max_grad_norm=config.max_grad_norm or None,
            schedule=setup.make_schedule(self.task, config, steps),
            ema=config.ema,
            init_scale=2.0**16 if config.init_scale is None else config.init_scale,
            growth_interval=config.growth_interval,
            max_skip_streak=config.max_skip_streak,
            on_collapse=Sentinel(config.on_collapse, again=look_again),
            overrides=parse_overrides(config.override),
            on_unsupported=config.on_unsupported,
            on_event=lambda event: loop().event(event),
        )

    def _go(self, folder: RunFolder, loop: Loop) -> RunRecord:
        if self.config.resume is not None:
            self._resume(loop)
        facts = {
            "task": self.origin,
            # What it began with: the checkpoint holds what it fell back to since.
            "precision": vars(loop.parts.guard.first_decision.record()),
            "device": inspect(self.device).label,
            "config": replace(self.config, resume=None).as_dict(),
        }
        folder.write_run(facts)
        self._begun = True
        loop.parts.deliveries.start(described(self.path, read_run(self.path)))
        self._outline(loop)
        try:
            status = loop.run()
            _refuse_a_run_that_never_moved(status, loop.parts.guard)
        except BaseException as error:
            self._write_failure(folder, loop, error)
            raise
        finally:
            self.progress.stop()
        record = self._record(loop, status)
        folder.write_record(record)
        self._deliver(loop, record.as_dict())
        return record

    def _deliver(self, loop: Loop, summary: Mapping[str, Any]) -> None:
        """Give trackers the time that they may have, and close the log."""
        parts, by_signal = loop.parts, summary["status"] in ("interrupted", "preempted")
        parts.tracker.sync()
        parts.deliveries.finish(
            summary,
            step=loop.cursor.step,
            timeout_s=self.config.track_timeout,
            tell=loop.event,
            # Ctrl-C ends the wait; after one that ended the run already, the next exits at once.
            hurried=lambda: self.stop.signalled and not by_signal,
        )
        parts.tracker.close()

    def _resume(self, loop: Loop) -> None:
        found = loop.parts.store.newest_valid()
        if found is None:
            log.warning("no valid checkpoint in %s: the run starts from its first step.", self.path)
            self._cut_log(loop, 0)
            return
        self._warn_of_other_options()
        parts = loop.parts
        progress = restore(found.state, model=parts.model, optimizers=[parts.optimizer], guard=parts.guard)
        loop.load_state_dict(progress)
        self._cut_log(loop, found.step)
        self.resumed_from = found.step
        rejected = "".join(f"; rejected {item.path.name}: {item.reason}" for item in found.rejected)
        loop.event(Event(kind="resumed", step=found.step, message=f"from {found.path.name}{rejected}"))

    def _cut_log(self, loop: Loop, step: int) -> None:
        lower_marks(self.path, last_step=step)
        loop.parts.tracker.truncate_after(step)

    def _warn_of_other_options(self) -> None:
        if not (self.path / "run.toml").exists():
            return
        stored, now = read_run(self.path)["config"], self.config.as_dict()
        names = sorted((stored.keys() | now.keys()) - {*RESTARTED, "out", "resume"})
        changed = [
            f"{name} {stored.get(name)!r} -> {now.get(name)!r}" for name in names if stored.get(name) != now.get(name)
        ]
        if changed:
            log.warning("the run in %s goes on with other options: %s.", self.path, ", ".join(changed))

    def _outline(self, loop: Loop) -> None:
        self.progress.start(
            Outline(
                task=self.task.name,
                steps=loop.steps,
                first_step=loop.cursor.step,
                precision=str(loop.parts.guard.decision),
                device=inspect(self.device).label,
                run_dir=str(self.path),
                parameters=sum(p.numel() for p in loop.parts.model.parameters()),
            )
        )

    def _write_failure(self, folder: RunFolder, loop: Loop, error: BaseException) -> None:
        summary: Mapping[str, Any] = {"status": "failed"}
        try:
            record = self._record(loop, "failed")
            summary = record.as_dict()
            folder.write_record(record)
        except (OSError, RuntimeError) as second:
            log.warning("the failed run's record could not be written after %s: %s", type(error).__name__, second)
        self._deliver(loop, summary)

    def _record(self, loop: Loop, status: RunStatus) -> RunRecord:
        state = loop.parts.guard.state_dict()
        tally = state["tally"]
        return RunRecord(
            status=status,
            task=self.task.name,
            precision=loop.parts.guard.decision.record(),
            device=inspect(self.device).label,
            steps=StepCounts(attempted=tally["attempted"], applied=tally["applied"], skipped=tally["skipped"]),
            final=loop.cursor.final or {},
            loss_scale=state["scale"].get("scale"),
            samples_per_s=loop.meter.samples_per_s(),
            wall_s=loop.wall_s,
            run_dir=str(self.path),
            resumed_from=self.resumed_from,
            info=dict(self.task.info),
        )


def _refuse_a_run_that_never_moved(status: RunStatus, guard: Guard) -> None:
    """Raise where every step was skipped, in a run too short for the streak to count as a collapse."""
    if status == "finished" and guard.attempted and not guard.state_dict()["tally"]["applied"]:
        raise CollapseError(
            f"none of {guard.attempted} steps was applied: no gradient was finite ({guard.decision.granted}).",
            hint="Look for inf or NaN in the data and the loss; with fp16, start from a smaller init_scale.",
        )


def _explained(error: Exception, continuation: str) -> RunError:
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(f"out of memory: {error}", hint=f"Give a smaller --micro-batch-size. {continuation}".strip())
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return CompileError(
            f"torch.compile failed: {str(error).strip().splitlines()[0].rstrip('.')}.",
            hint=f"Train without --compile; on a CPU it needs a C++ compiler (g++). {continuation}".strip(),
        )
    return UserCodeError(f"{type(error).__name__}: {error}", hint=continuation)
