import json
import os
import struct
import subprocess
import sys
import time

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from ampguard.errors import AmpguardError
from ampguard.testing import FACTS, ROWS, SKIP, SUMMARY, ReadBack, TrackerContract
from ampguard.tracking.wandb import STEP, WandbTracker

BLOCK = 32 * 1024
HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """W&B as it is without a network, its own folders apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_RUN_ID"):
            patch.delenv(name, raising=False)
        yield
        wandb.teardown()


def records(path):
    """Yield the records of a .wandb file: a LevelDB log of blocks of 32 KiB behind a header of 7 bytes."""
    data = path.read_bytes()
    assert data.startswith(HEADER)
    at, parts = 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        if len(data) - at < 7:
            return
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def record_files(run_dir):
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_ctime)


def all_records(run_dir):
    return [record for path in record_files(run_dir) for record in ended(path)]


def ended(path):
    """Return the records of a file once its last one stands: W&B's own process writes it just after `finish`."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = list(records(path))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.01)
    return pytest.fail(f"{path} has no end")


def items(message, field):
    """Yield (name, value) of the items of a config, summary or history record."""
    for item in getattr(message, field):
        yield "/".join(item.nested_key) or item.key, json.loads(item.value_json)


def histories(found):
    return [dict(items(record.history, "item")) for record in found if record.HasField("history")]


def read(run_dir):
    found = all_records(run_dir)
    points, texts = {}, []
    for row in histories(found):
        for name, value in row.items():
            if isinstance(value, str):
                texts.append(value)
            elif not name.startswith("_") and STEP in row:
                points.setdefault(name, []).append((row[STEP], value))
    configs = [dict(items(r.config, "update")) for r in found if r.HasField("config")]
    summaries = [dict(items(r.summary, "update")) for r in found if r.HasField("summary")]
    runs = [r.run for r in found if r.HasField("run")]
    return ReadBack(
        runs=len({run.run_id for run in runs}),
        points=points,
        texts=texts,
        facts=json.dumps([*configs, *[dict(items(run.config, "update")) for run in runs]]),
        tags=[tag for run in runs for tag in run.tags],
        summary=json.dumps(summaries),
    )


class TestContract(TrackerContract):
    def make(self, run_dir):
        return WandbTracker(run_dir)

    def read_back(self, run_dir):
        return read(run_dir)


@pytest.fixture
def users_run(tmp_path):
    run = wandb.init(project="mine", dir=tmp_path, tags=["theirs"], settings=wandb.Settings(silent=True, console="off"))
    yield run
    run.finish()


def test_rows_are_plotted_over_the_attempted_step(tmp_path):
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    tracker.log(ROWS[0])
    tracker.event(SKIP)
    tracker.finish(SUMMARY)
    metrics = {r.metric.name: r.metric.step_metric for r in all_records(tmp_path) if r.HasField("metric")}
    assert metrics["train/loss"] == metrics["event/skip"] == STEP


def test_our_own_run_leaves_the_top_level_functions_to_the_user(tmp_path):
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    assert wandb.run is None
    tracker.finish(SUMMARY)


def test_a_run_that_goes_on_asks_the_server_for_what_it_has(tmp_path):
    """Without `resume`, W&B overwrites a run of the same id. Without a server, what is asked for is looked at."""
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {"run": "abc", "project": "p", "entity": "e"})
    run = tracker._run
    assert (run.id, run.project, run.entity, run.settings.resume) == ("abc", "p", "e", "allow")
    tracker.finish(SUMMARY)


def test_the_terminal_stays_ampguards(tmp_path, capfd):
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    tracker.log(ROWS[0])
    tracker.finish(SUMMARY)
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_end_is_bounded(tmp_path):
    """W&B would upload without a limit, and once more when the process exits."""
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    assert 0 < tracker._run.settings.finish_timeout <= 30
    tracker.finish(SUMMARY)


def test_a_users_run_gets_the_rows_and_is_not_finished(tmp_path, users_run):
    users_run.log({"mine": 1.0}, step=500)
    tracker = WandbTracker(tmp_path)
    assert tracker.start(FACTS, {}) == {}
    for row in ROWS:
        tracker.log(row)
    tracker.event(SKIP)
    tracker.finish(SUMMARY)
    assert wandb.run is users_run
    users_run.log({"mine": 2.0})
    users_run.finish()
    sent = read(tmp_path)
    assert sent.runs == 1
    assert sent.points["train/loss"] == [(row["step"], row["train/loss"]) for row in ROWS]
    assert [row["mine"] for row in histories(all_records(tmp_path)) if "mine" in row] == [1.0, 2.0]
    assert {"theirs", *FACTS["tags"]} <= set(sent.tags)
    assert "ampguard" in sent.facts
    assert '"ampguard"' in sent.summary


def test_a_users_run_that_was_finished_meanwhile_is_an_outage_that_says_so(tmp_path, users_run):
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    users_run.finish()
    assert wandb.run is None
    for call in (lambda: tracker.log(ROWS[0]), lambda: tracker.event(SKIP), lambda: tracker.finish(SUMMARY)):
        with pytest.raises(AmpguardError, match="was finished meanwhile"):
            call()


def test_disabled_is_honoured(tmp_path, monkeypatch):
    wandb.teardown()  # W&B reads its environment once
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker(tmp_path)
    tracker.start(FACTS, {})
    tracker.log(ROWS[0])
    tracker.finish(SUMMARY)
    assert list(tmp_path.iterdir()) == []
    wandb.teardown()


def test_without_credentials_nothing_is_asked(tmp_path):
    """In a terminal, where W&B would ask: a pseudo-terminal that nobody types into."""
    code = (
        "import os, pty, sys; main, child = pty.openpty()\n"
        "for number in (0, 1, 2): os.dup2(child, number)\n"
        "from pathlib import Path; from ampguard.tracking.wandb import WandbTracker\n"
        "from ampguard.errors import AmpguardError; tracker = WandbTracker(Path(sys.argv[1]))\n"
        "try: tracker.start({'task': {'name': 't'}, 'name': 'n', 'tags': []}, {})\n"
        "except AmpguardError as error: os._exit(0 if 'no credentials' in str(error) else 1)\n"
        "os._exit(2)"
    )
    env = {**os.environ, "WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc"), "WANDB_SILENT": "true"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=False, timeout=120)
    assert done.returncode == 0


def test_a_process_of_wandbs_that_dies_is_an_outage(tmp_path):
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path\n"
        "from ampguard.tracking.wandb import WandbTracker\n"
        "tracker = WandbTracker(Path(sys.argv[1]))\n"
        "tracker.start({'task': {'name': 't'}, 'name': 'n', 'tags': []}, {})\n"
        "tracker.log({'step': 1, 'a': 1.0})\n"
        "listed = ['ps', '-o', 'pid=,comm=', '--ppid', str(os.getpid())]\n"
        "children = subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()\n"
        "(core,) = [int(line.split()[0]) for line in children if 'wandb' in line]\n"
        "os.kill(core, signal.SIGKILL); os.waitpid(core, 0)\n"
        "try:\n"
        "    for step in range(2, 1000): tracker.log({'step': step, 'a': 1.0})\n"
        "except ConnectionError: os._exit(0)\n"
        "os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120)
    assert done.returncode == 0
