"""Trackers that fail in each way that real ones do, and one that works; each keeps what it takes in the run folder.

A fault is gone as soon as a file `healed` lies in the run folder, as an outage ends that somebody repaired.
"""

import atexit
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ampguard.tracking import Tracker

FOREVER_S = 10_000.0
SINK = "received.jsonl"


class Fine(Tracker):
    """Works."""

    def start(self, facts, previous):
        return {"path": str(self.run_dir / SINK)}

    def held(self):
        if not (self.run_dir / SINK).exists():
            return 0
        kept = map(json.loads, (self.run_dir / SINK).read_text().splitlines())
        return max((content["step"] for kind, content in kept if kind == "row"), default=0)

    def _log(self, row):
        self._keep("row", row)

    def event(self, row):
        self._keep("event", row)

    def finish(self, summary):
        self._keep("end", {"status": summary.get("status")})

    def _keep(self, kind, content):
        with (self.run_dir / SINK).open("a") as file:
            file.write(json.dumps([kind, content]) + "\n")

    @property
    def healed(self):
        return (self.run_dir / "healed").exists()

    def hang(self):
        """Hang; in a thread that is nobody's any more it ends when the fault is healed."""
        until = time.monotonic() + FOREVER_S
        while not self.healed and time.monotonic() < until:
            time.sleep(0.02)


class LogRaises(Fine):
    def _log(self, row):
        if not self.healed:
            raise ConnectionError("the service is down")
        super()._log(row)


class EveryThirdRaises(Fine):
    calls = 0

    def _log(self, row):
        self.calls += 1
        if self.calls % 3 == 0:
            raise BrokenPipeError(32, "Broken pipe")
        super()._log(row)


class LogHangs(Fine):
    def _log(self, row):
        self.hang()
        super()._log(row)


class LogTakesASecond(Fine):
    def _log(self, row):
        if not self.healed:
            time.sleep(1.0)
        super()._log(row)


class InitRaises(Fine):
    def __init__(self, run_dir):
        super().__init__(run_dir)
        if not self.healed:
            raise RuntimeError("no credentials")


class StartRaises(Fine):
    def start(self, facts, previous):
        if not self.healed:
            raise TimeoutError("Run initialization has timed out after 90.0 sec.")
        return super().start(facts, previous)


class StartHangs(Fine):
    def start(self, facts, previous):
        self.hang()
        return super().start(facts, previous)


class FinishRaises(Fine):
    def finish(self, summary):
        if not self.healed:
            raise OSError("upload failed")
        super().finish(summary)


class FinishHangs(Fine):
    def finish(self, summary):
        self.hang()
        super().finish(summary)


class Exits(Fine):
    def _log(self, row):
        if not self.healed:
            raise SystemExit(1)
        super()._log(row)


class Interrupts(Fine):
    def _log(self, row):
        if not self.healed:
            raise KeyboardInterrupt
        super()._log(row)


class FullDisk(Fine):
    """Writes to a device that is full: the system's own ENOSPC."""

    def _log(self, row):
        if not self.healed:
            with Path("/dev/full").open("w") as file:
                file.write(json.dumps(row))
        super()._log(row)


class HoldsTheProcess(Fine):
    """Waits for a worker thread that never ends: Python joins such threads at exit; and for a handler at exit."""

    def _log(self, row):
        atexit.register(time.sleep, FOREVER_S)
        ThreadPoolExecutor(1).submit(time.sleep, FOREVER_S).result()


class KillsAfterARow(Fine):
    """The process dies after the service took the row of step 12, before anybody noted that down."""

    def _log(self, row):
        super()._log(row)
        if row["step"] == 12 and not self.healed:
            (self.run_dir / "healed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
