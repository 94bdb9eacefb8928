"""A process that runs trials: `python -m ampguard.tuning.worker FOLDER`.

It is told one thing a line on stdin, and answers one thing a line, all JSON:

    <- {"trial": 3, "params": {...}}        run this
    -> {"validation": 1, "value": 0.4}      it was validated
    <- {"stop": false}                      go on
    -> {"result": {...}}                    it ended so

It knows neither Optuna nor the storage. When stdin ends, because the search is over, interrupted or dead, so does the
process: at the boundary of a step, if a trial runs. What a Task prints goes to stderr, a file of the study folder, also
where it is not Python that prints.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from ampguard.tuning.job import load_job
from ampguard.tuning.objective import run_trial


class Orders:
    """What stdin says, in order; its end interrupts whatever runs."""

    def __init__(self, stdin: TextIO) -> None:
        self.busy = False
        """Whether a trial runs."""
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        Thread(target=self._listen, args=(stdin,), daemon=True).start()

    def next(self) -> Mapping[str, Any] | None:
        """Return the next order; None: there is none any more."""
        order = self._queue.get()
        if order is None:
            # Whoever asks next is told so, too.
            self._queue.put(None)
        return order

    def _listen(self, stdin: TextIO) -> None:
        for line in stdin:
            self._queue.put(json.loads(line))
        self._queue.put(None)
        if self.busy:
            os.kill(os.getpid(), signal.SIGINT)


def main(folder: Path) -> int:
    """Run trials until stdin ends; return the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def judge(validation: int, value: float) -> bool:
        tell(validation=validation, value=value)
        answer = orders.next()
        return answer is not None and bool(answer["stop"])

    job = load_job(folder)
    orders = Orders(sys.stdin)
    tell(ready=os.getpid())
    try:
        while (order := orders.next()) is not None:
            orders.busy = True
            result = run_trial(job, order["trial"], order["params"], judge)
            orders.busy = False
            tell(result=result.as_dict())
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The search is dead; nobody is left to be told.
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
