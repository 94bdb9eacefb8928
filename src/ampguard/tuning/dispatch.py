"""Several processes that run the trials of one study, and what happens when one of them dies.

This process asks the study for each trial and hands it to a worker, so it knows at any time who runs what; no more
trials begin than were asked for. A worker that dies (killed, out of memory, a crash in native code) loses its attempt:
the trial is enqueued again, and another worker takes its place. The pipe is the heartbeat: it breaks when a worker
dies, at once, and a worker whose search dies stops by itself.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, Final

from ampguard.errors import RunError
from ampguard.tuning.objective import Result
from ampguard.tuning.trials import Trial, Trials

log = logging.getLogger("ampguard.tuning")

SAID: Final = "workers.log"
"""In the study folder: what workers and their Tasks write on stdout and stderr."""


@dataclass(kw_only=True, eq=False)
class Worker:
    """A process that runs one trial after another."""

    process: "subprocess.Popen[str]"
    orders: IO[str]
    """Its stdin."""
    ready: bool = False
    """Whether it has ever answered."""
    trial: Trial | None = None
    """What it runs."""

    def tell(self, order: Mapping[str, Any]) -> None:
        """Write one line to it; where it is gone, that is told by the end of its answers."""
        try:
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()
        except BrokenPipeError:
            log.debug("worker %d is gone.", self.process.pid)

    def dismiss(self) -> None:
        """Have it end, in mid-trial at the next step's end."""
        try:
            self.orders.close()
        except BrokenPipeError:
            log.debug("worker %d is gone.", self.process.pid)

    def death(self) -> str:
        """Wait for its end, and return how it came."""
        code = self.process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Dispatcher:
    """Runs trials in worker processes.

    Args:
        folder: Of the study; its job is saved there.
        trials: Where they come from, and where their results go.
        lock: File descriptor that each worker holds while it lives.
        command: What a worker runs; None: `ampguard.tuning.worker`.
    """

    def __init__(self, folder: Path, trials: Trials, *, lock: int, command: Sequence[str] | None = None) -> None:
        self._trials, self._lock, self._said = trials, lock, folder / SAID
        self._command = command or [sys.executable, "-m", "ampguard.tuning.worker", str(folder)]
        self._answers: SimpleQueue[tuple[Worker, Mapping[str, Any] | None]] = SimpleQueue()
        self._workers: list[Worker] = []

    def run(self, workers: int, *, wanted: Callable[[int], bool]) -> None:
        """Have trials run to their end.

        Args:
            workers: Processes.
            wanted: Whether another one is to begin beside so many that run.

        Raises:
            RunError: A worker cannot even start.
        """
        try:
            for _ in range(workers):
                if wanted(self._planned()):
                    self._start()
            while self._workers:
                worker, answer = self._answers.get()
                if answer is None:
                    self._replace(worker, wanted)
                elif "validation" in answer and worker.trial is not None:
                    worker.tell({"stop": self._trials.judge(worker.trial, answer["validation"], answer["value"])})
                else:
                    self._next(worker, answer, wanted)
        finally:
            self._stop()

    def _start(self) -> None:
        with self._said.open("ab") as said:
            # In a session of its own: Ctrl-C is for this process to answer.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pass_fds=[self._lock],
                start_new_session=True,
            )
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        worker = Worker(process=process, orders=process.stdin)
        self._workers.append(worker)
        Thread(target=self._listen, args=(worker, process.stdout), daemon=True).start()

    def _listen(self, worker: Worker, answers: IO[str]) -> None:
        with answers:
            for line in answers:
                self._answers.put((worker, json.loads(line)))
        self._answers.put((worker, None))

    def _next(self, worker: Worker, answer: Mapping[str, Any], wanted: Callable[[int], bool]) -> None:
        """Take what a worker came to, and give it a trial, or let it go."""
        worker.ready = True
        if worker.trial is not None:
            self._trials.end(worker.trial, Result(**answer["result"]))
            worker.trial = None
        if not wanted(self._planned()):
            worker.dismiss()
            return
        worker.trial = self._trials.begin()
        worker.tell({"trial": worker.trial.number, "params": worker.trial.params})

    def _planned(self) -> int:
        """Return how many trials run, or will as soon as their worker has started."""
        return sum(worker.trial is not None or not worker.ready for worker in self._workers)

    def _replace(self, worker: Worker, wanted: Callable[[int], bool]) -> None:
        """Account for a worker that is gone."""
        self._workers.remove(worker)
        worker.dismiss()
        how = worker.death()
        if not worker.ready:
            raise RunError(f"a worker process could not start ({how}).", hint=f"Its message stands in {self._said}.")
        if worker.trial is not None:
            log.warning("trial %d: its process ended with %s.", worker.trial.number, how)
            self._trials.lose(worker.trial, f"its process ended with {how}")
        if wanted(self._planned()):
            self._start()

    def _stop(self) -> None:
        """End the workers, and wait for them; a second Ctrl-C does not."""
        try:
            for worker in self._workers:
                worker.dismiss()
            for worker in self._workers:
                worker.process.wait()
        except KeyboardInterrupt:
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
            raise
