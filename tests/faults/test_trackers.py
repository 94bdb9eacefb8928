"""Trackers that raise, hang, fill up, die: training is bitwise what it is without them, and nothing is lost for good.

The table is in docs/reliability.md; what each fault costs in time is measured by benchmarks/trackers.py.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from safetensors.torch import load_file

from ampguard import Callback, train
from ampguard.cli.main import run as run_cli
from ampguard.errors import UserCodeError
from ampguard.tasks import find_task
from ampguard.tracking import read_rows, stuck
from ampguard.training.progress import NullProgress

BAD = Path(__file__).with_name("bad_trackers.py")
TOY = Path(__file__).parents[1] / "training" / "toy_task.py"
CLOCKED = ("time/", "throughput/", "memory/")
OPTIONS = {"steps": 20, "precision": "fp32", "log_every": 1}
SOON_S = 60.0
"""Upper bound for what must not hang; nothing waits that long when the code is right."""

FAULTS = {
    "LogRaises": "log raised ConnectionError: the service is down",
    "EveryThirdRaises": "log raised BrokenPipeError: [Errno 32] Broken pipe",
    "LogHangs": "log has not returned",
    "LogTakesASecond": None,
    "InitRaises": "it cannot be made: RuntimeError: no credentials",
    "StartRaises": "start raised TimeoutError: Run initialization has timed out",
    "StartHangs": "start has not returned",
    "FinishRaises": "finish raised OSError: upload failed",
    "FinishHangs": None,
    "Exits": "log raised SystemExit: 1",
    "Interrupts": "log raised KeyboardInterrupt",
    "FullDisk": "log raised OSError: [Errno 28] No space left on device",
}
"""Each fault, and the cause that its one warning tells; None: it is none, or told at the end only."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run without trackers."""
    out = tmp_path_factory.mktemp("plain") / "run"
    train(find_task(f"{TOY}:build")(), out=out, **OPTIONS)
    return out


@pytest.fixture
def run(tmp_path):
    """A run folder; what still hangs in it is freed at the end."""
    path = tmp_path / "run"
    yield path
    if path.exists():
        (path / "healed").touch()
    eventually_free()


@pytest.fixture
def track(capsys):
    """Runs `ampguard track`: (exit code, stdout, stderr)."""
    logger = logging.getLogger("ampguard")
    before = logger.handlers, logger.level, logger.propagate

    def call(path, tracker, *flags):
        code = run_cli(["track", str(path), "--to", tracker, *flags])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    yield call
    # A command takes the library's messages to stderr; the tests after it read them where they were.
    logger.handlers, logger.level, logger.propagate = before


def eventually_free():
    until = time.monotonic() + SOON_S
    while stuck() and time.monotonic() < until:
        time.sleep(0.01)
    assert not stuck()


def numbers(path):
    rows = read_rows(path / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith(CLOCKED)} for row in rows]


def weights(path):
    last = (path / "checkpoints" / "latest").read_text().strip()
    return load_file(path / "checkpoints" / last / "model.safetensors")


def assert_same(path, plain):
    """Bit by bit: losses, norms, scales in every row, and the weights at the end."""
    assert numbers(path) == numbers(plain)
    expected = weights(plain)
    assert all(value.equal(expected[name]) for name, value in weights(path).items())


def received(path, kind):
    file = path / "received.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return [content for name, content in lines if name == kind]


def assert_complete(path):
    """The tracker holds every row and event once, in order, and its end."""
    assert received(path, "row") == read_rows(path / "metrics.jsonl")
    assert received(path, "event") == read_rows(path / "events.jsonl")
    assert {end["status"] for end in received(path, "end")} == {"finished"}


def warnings_about(caplog, words):
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_warning_and_no_bit_of_the_run(fault, run, plain, caplog, monkeypatch, track):
    if fault in ("LogHangs", "StartHangs"):
        monkeypatch.setattr(f"ampguard.tracking._outages.{'START_' * (fault == 'StartHangs')}HANG_S", 0.1)
    tracker, cause = f"{BAD}:{fault}", FAULTS[fault]
    began = time.monotonic()
    timeout_s = SOON_S if fault == "EveryThirdRaises" else 0.4
    record = train(find_task(f"{TOY}:build")(), out=run, track=[tracker], track_timeout=timeout_s, **OPTIONS)
    assert time.monotonic() - began < SOON_S / 2
    assert record.status == "finished"
    assert_same(run, plain)

    told = [row["cause"] for row in read_rows(run / "events.jsonl") if row["event"] == "tracker_outage"]
    warned = warnings_about(caplog, "Training goes on")
    assert len(told) == len(warned) == (cause is not None)
    assert all(words.startswith(cause) and cause in line for words, line in zip(told, warned, strict=True))
    missing = warnings_about(caplog, f"ampguard track {run} --to {tracker}")
    assert len(missing) == (fault != "EveryThirdRaises")

    (run / "healed").touch()
    eventually_free()
    code, out, err = track(run, tracker)
    assert code == 0, err
    assert_complete(run)
    assert_same(run, plain)
    code, out, _ = track(run, tracker)
    assert code == 0 and "nothing new to deliver" in out


def test_an_unknown_tracker_or_a_missing_package_stops_before_anything_is_written(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    for name, words in (("wandbb", "Did you mean 'wandb'"), ("trackio", 'pip install "ampguard[trackio]"')):
        with pytest.raises(Exception, match=r"tracker|package") as caught:
            train(find_task(f"{TOY}:build")(), out=run, track=[name], **OPTIONS)
        assert caught.value.exit_code == 2 and words in str(caught.value)
        assert not run.exists()


def test_a_run_that_failed_and_was_resumed_sends_rows_and_skips_once(run):
    """Steps 13 and 14 come twice, for the checkpoint is of step 12: once before the failure, once after it."""
    tracker, build = f"{BAD}:Fine", find_task(f"{TOY}:build")
    options = {**OPTIONS, "out": run, "checkpoint_every": "12", "validate_every": 12, "track": [tracker]}
    with pytest.raises(UserCodeError):
        train(build(poison_at=13, raise_at=15), **options)
    # The precision was measured by no forward: it is given. So the resumed run's first forward is that of step 13.
    train(build(poison_at=1), resume="auto", **options)
    assert [row["step"] for row in received(run, "row")] == list(range(1, 21))
    kinds = [(row["event"], row["step"]) for row in received(run, "event")]
    assert kinds.count(("skip", 13)) == kinds.count(("resumed", 12)) == kinds.count(("checkpoint", 20)) == 1
    assert [end["status"] for end in received(run, "end")] == ["failed", "finished"]


def test_rows_arrive_at_each_row_and_not_only_at_the_end(run):
    class Reading(Callback):
        def on_step_end(self, state):
            until = time.monotonic() + SOON_S
            while not any(row["step"] == state.step for row in received(run, "row")) and time.monotonic() < until:
                time.sleep(0.005)
            seen.append([row["step"] for row in received(run, "row")])

    seen = []
    train(find_task(f"{TOY}:build")(), out=run, track=[f"{BAD}:Fine"], callbacks=[Reading()], **{**OPTIONS, "steps": 3})
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_a_run_that_fails_before_its_first_step_leaves_no_thread(run):
    class Broken(NullProgress):
        def start(self, outline):
            raise ValueError("no terminal")

    with pytest.raises(UserCodeError, match="no terminal"):
        train(find_task(f"{TOY}:build")(), out=run, track=[f"{BAD}:Fine"], progress=Broken(), **OPTIONS)
    eventually_free()


# What needs a process of its own.


def command(run, tracker, *flags):
    options = ["--precision", "fp32", "--log-every", "1", "--out", str(run)]
    timeout = [] if "--track-timeout" in flags else ["--track-timeout", "0.5"]
    return [sys.executable, "-m", "ampguard", "train", f"{TOY}:build", *options, "--track", tracker, *timeout, *flags]


def in_a_process(words, **more):
    env = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}
    return subprocess.run(words, capture_output=True, text=True, timeout=SOON_S, env=env, check=False, **more)


def test_a_tracker_that_holds_threads_and_handlers_does_not_hold_the_process(run, plain):
    done = in_a_process(command(run, f"{BAD}:HoldsTheProcess", "--format", "json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert f"ampguard track {run} --to" in done.stderr
    assert_same(run, plain)


def test_a_hung_call_does_not_hold_a_script_that_calls_train(run, plain):
    code = (
        "import sys; from pathlib import Path; from ampguard import train; from ampguard.tasks import find_task\n"
        f"train(find_task('{TOY}:build')(), out=Path({str(run)!r}), track=['{BAD}:LogHangs'], track_timeout=0.2, "
        f"**{OPTIONS!r})\n"
        "print('done')"
    )
    done = in_a_process([sys.executable, "-c", code])
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert_same(run, plain)


def test_a_closed_stdout_stops_nothing(run, plain):
    words = command(run, f"{BAD}:Fine")
    done = in_a_process(["sh", "-c", 'exec "$@" >&-', "sh", *words])
    assert done.returncode == 0, done.stderr
    assert_same(run, plain)
    assert_complete(run)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("from wandb import sdk", "ImportError: cannot import name 'sdk'"),
        ("import a_dependency_that_is_gone", "ModuleNotFoundError: No module named 'a_dependency_that_is_gone'"),
        ("run = None", "AttributeError: module 'wandb' has no attribute"),
    ],
)
def test_a_package_that_is_half_installed_is_one_warning(run, plain, tmp_path, monkeypatch, caplog, source, cause):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text(source + "\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        train(find_task(f"{TOY}:build")(), out=run, track=["wandb"], track_timeout=0.3, **OPTIONS)
    finally:
        sys.modules.pop("wandb", None)
    (told,) = warnings_about(caplog, "Training goes on")
    assert cause in told
    assert_same(run, plain)


def test_a_disk_that_is_full_for_the_trackers_folder_only(run, plain, tmp_path):
    """A real file system of 4 KiB under the run's tensorboard folder; later a larger one."""
    probe = 'mount -t tmpfs -o size=4k none "$1"'
    folder = run / "tensorboard"
    folder.mkdir(parents=True)
    if shutil.which("unshare") is None or in_a_process(["unshare", "-rm", "sh", "-c", probe, "sh", folder]).returncode:
        pytest.skip("needs the right to mount a file system in a namespace of its own")
    words = command(run, "tensorboard", "--resume", "auto", "--quiet")
    later = f"{sys.executable} -m ampguard track {run} --to tensorboard"
    script = f'{probe} && shift && "$@" && mount -o remount,size=1m {folder} && {later} && cp -r {folder} {tmp_path}'
    done = in_a_process(["unshare", "-rm", "sh", "-c", script, "sh", folder, *words])
    assert done.returncode == 0, done.stderr
    assert_same(run, plain)
    outages = [row for row in read_rows(run / "events.jsonl") if row["event"] == "tracker_outage"]
    # Linux writes what still fits, of a row or an event; the next try finds no room at all.
    assert len(outages) == 1 and " raised OSError: " in outages[0]["cause"]
    assert scalar_steps(tmp_path / "tensorboard", "train/loss") == list(range(1, 21))


def scalar_steps(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [scalar.step for scalar in accumulator.Scalars(tag)]


def test_a_process_that_dies_between_a_row_and_its_mark_sends_no_row_twice(run, plain):
    words = command(run, f"{BAD}:KillsAfterARow", "--checkpoint-every", "5", "--resume", "auto")
    killed = in_a_process(words)
    assert killed.returncode == -signal.SIGKILL
    done = in_a_process(words)
    assert done.returncode == 0, done.stderr
    assert_same(run, plain)
    # Each step once; what a clock measured before the kill is that of the first process.
    assert [row["step"] for row in received(run, "row")] == list(range(1, 21))
    kinds = [row["event"] for row in received(run, "event")]
    assert kinds.count("resumed") == 1


def test_ctrl_c_passes_while_a_tracker_hangs(run):
    words = command(run, f"{BAD}:LogHangs", "--steps", "100000")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    while not (run / "metrics.jsonl").exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=SOON_S)
    assert child.returncode == 130, err
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_ctrl_c_ends_the_wait_for_a_tracker_at_the_end(run):
    words = command(run, f"{BAD}:LogHangs", "--steps", "20", "--track-timeout", str(10 * SOON_S))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    while not (run / "run.json").exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=SOON_S)
    assert child.returncode == 0 and "finished" in out, err
    assert f"ampguard track {run} --to" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_raised_in_the_loops_own_thread_passes(run, error):
    class Raising(Callback):
        def on_step_end(self, state):
            if state.step == 7:
                raise error

    with pytest.raises(error):
        train(
            find_task(f"{TOY}:build")(), out=run, track=[f"{BAD}:LogRaises", f"{BAD}:Fine"], track_timeout=0.3,
            callbacks=[Raising()], **OPTIONS,
        )  # fmt: skip
    assert received(run, "end") == [{"status": "failed"}]
    assert [row["step"] for row in received(run, "row")] == [1, 2, 3, 4, 5, 6, 7]


def test_a_hook_of_a_trackers_package_that_raises_in_backward_is_shown_as_what_it_is(run):
    """A package's hook on the model (wandb.watch) runs inside backward, out of any guard's reach: ours set none."""
    task = find_task(f"{TOY}:build")()
    calls = []

    def model():
        built = task.model()

        def watch(gradient):
            calls.append(1)
            if len(calls) > 5:
                raise ValueError("max must be larger than min")

        built[0].weight.register_hook(watch)
        return built

    with pytest.raises(UserCodeError, match="max must be larger than min") as caught:
        train(replace(task, model=model), out=run, track=[f"{BAD}:Fine"], **OPTIONS)
    assert isinstance(caught.value.__cause__, ValueError)
    assert received(run, "row") == read_rows(run / "metrics.jsonl") != []
    assert received(run, "end") == [{"status": "failed"}]


class Server:
    """A real `mlflow server` over SQLite on the loopback, which can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"),
        ]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        until = time.monotonic() + 2 * SOON_S
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def answers(self):
        try:
            return urlopen(f"{self.uri}/health", timeout=5).status == 200
        except (URLError, ConnectionError, TimeoutError):
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
def test_an_mlflow_server_that_is_killed_and_started_again_holds_every_row_once(
    run, plain, tmp_path, monkeypatch, caplog
):
    mlflow = pytest.importorskip("mlflow")
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    class Outage(Callback):
        """Row 8 arrives; then the server dies, and is away for steps 9 to 16."""

        def on_step_end(self, state):
            if state.step == 8:
                until = time.monotonic() + SOON_S
                while mark(run)["step"] < 8 and time.monotonic() < until:
                    time.sleep(0.02)
                server.kill()
            if 9 <= state.step <= 16:
                time.sleep(0.1)
            if state.step == 17:
                server.start()

    try:
        record = train(
            find_task(f"{TOY}:build")(),
            out=run,
            track=["mlflow"],
            track_timeout=SOON_S,
            callbacks=[Outage()],
            **OPTIONS,
        )
        assert record.status == "finished"
        client = mlflow.MlflowClient(tracking_uri=server.uri)
        (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        history = client.get_metric_history(found.info.run_id, "train/loss")
        expected = [(row["step"], row["train/loss"]) for row in read_rows(run / "metrics.jsonl")]
        assert [(point.step, point.value) for point in history] == expected
        assert found.info.status == "FINISHED"
    finally:
        server.kill()
    assert_same(run, plain)
    kinds = [row["event"] for row in read_rows(run / "events.jsonl") if row["event"].startswith("tracker")]
    assert kinds == ["tracker_outage", "tracker_recovered"]
    assert len(warnings_about(caplog, "Training goes on")) == 1


def mark(run):
    file = run / "trackers" / "mlflow.json"
    return json.loads(file.read_text()) if file.exists() else {"step": -1}
