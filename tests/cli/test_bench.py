import io
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ampguard.benchmarking import contender
from ampguard.benchmarking.budget import Plan
from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.protocol import Timings
from ampguard.benchmarking.report import Memory
from ampguard.benchmarking.watch import SilentWatch
from ampguard.cli.bench_watch import LiveWatch, PlainWatch, make_watch

TASK = f"{Path(__file__).parents[1] / 'benchmarking' / 'bench_task.py'}:build"
SHORT = ("--blocks", "10", "--seeds", "3", "--parity-steps", "5", "--budget", "1h", "--device", "cpu", "--out", "b")
FAST = (*SHORT, "--on-unsupported", "emulate", "--precisions", "fp32,bf16")


@pytest.fixture(autouse=True)
def no_memory(monkeypatch):
    """Leaves the fresh processes out, and the time of this machine."""
    found = Footprint(peak=10.0, parts=Memory())
    monkeypatch.setattr("ampguard.benchmarking.memory.footprint", lambda job, *, timeout_s: found)
    monkeypatch.setattr("ampguard.benchmarking.race.EMULATED_SHARE", 1e9)
    monkeypatch.setattr("ampguard.benchmarking.parity_runs.SLOW", 1e9)
    monkeypatch.setattr(contender, "MAX_STEPS", 3)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """A shell that starts tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_json_is_one_object_and_that_of_bench_json(cli):
    code, out, err = cli("bench", TASK, *FAST, "--format", "json")
    assert code == 0, err
    values = json.loads(out)
    stored = json.loads(Path("b/bench.json").read_text())
    assert stored.pop("command") == {"target": TASK, "options": {}}
    assert values == stored
    assert "speed: 10 blocks of each precision in turn" in err
    assert "accuracy: seed 3 of 3 in bf16-mixed, 5 steps" in err


def test_people_get_a_table_and_a_sentence(cli):
    code, out, _ = cli("bench", TASK, *SHORT, "--precisions", "fp32,fp16,fp8", "--task.no-validation")
    assert code == 0
    assert "ms/step" in out
    assert "fp16-mixed unsupported: this CPU only emulates it: torch trains" in out
    assert "\nfp16-mixed cannot run here: this CPU only emulates it; fp8-mixed cannot run here: fp8 training" in out
    assert "figures, samples and settings: b/bench.json" in out


def test_what_is_required_and_not_reached_is_exit_1(cli):
    code, out, _ = cli("bench", TASK, *FAST, "--task.no-validation", "--require", "bf16:speedup>=1000,equivalent")
    assert code == 1
    # on a busy machine there may be no interval, which is then what is told
    assert "not met: bf16-mixed: speedup>=1000 is required, but " in out
    assert "not met: bf16-mixed: equivalent is required, but its parity is not measured (the Task has no" in out


def test_ctrl_c_is_exit_130_with_what_is_finished_and_the_command_that_goes_on(cli, monkeypatch):
    from ampguard.benchmarking.memory import MemoryStage

    def interrupt(self, names, *, budget_s):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStage, "footprints", interrupt)
        code, out, err = cli("bench", TASK, *FAST)
    assert code == 130
    assert "warning: it was interrupted: these are the figures of what was finished." in err
    command = next(line for line in out.splitlines() if line.startswith("Continue: "))
    tokens = command.removeprefix("Continue: ampguard ").split()
    assert tokens[-1] == "--resume"
    code, out, err = cli(*tokens, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert "speed: 10 blocks" not in err


def test_an_older_bench_stands_beside_it_and_that_of_another_task_is_refused(cli):
    assert cli("bench", TASK, *FAST, "--task.no-validation", "--quiet")[0] == 0
    changed = [token if token != "b" else "c" for token in FAST]
    code, out, _ = cli("bench", TASK, *changed, "--task.no-validation", "--against", "b")
    assert code == 0
    assert "against b (not measured side by side: no interval)" in out
    code, out, _ = cli("bench", "digits", "--against", "b", "--out", "d", "--format", "json")
    assert code == 2
    assert "that is a bench of 'tiny', and this one is of 'digits'" in json.loads(out)["error"]["message"]
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--budget", "soon"), "budget is 'soon'"),
        (("--require", "faster"), "no condition"),
        (("--precisions", "fp17"), "fp17"),
        (("--resume",), "resume is given without out"),
        (("--memory-limit", "2GB"), "memory_limit is '2GB'"),
        (("--track", "nowhere"), "nowhere"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(cli, wrong, words):
    code, out, _ = cli("bench", TASK, *wrong, "--format", "json")
    assert code == 2
    assert words in json.loads(out)["error"]["message"]
    assert list(Path().iterdir()) == []


def test_a_task_that_fails_in_every_precision_is_exit_3_and_json(cli):
    code, out, _ = cli("bench", TASK, *FAST, "--task.every", "raise", "--format", "json")
    assert code == 3
    error = json.loads(out)["error"]
    assert "fp32: ValueError: the user's own mistake" in error["message"]
    assert f"ampguard train {TASK} --precision fp32 --steps 10" in error["hint"]


def test_the_self_test_is_a_table_of_four_lines_and_its_exit_code(cli):
    from ampguard.benchmarking import self_test as module

    code, out, err = cli("bench", TASK, "--self-test", *SHORT, "--format", "json")
    values = json.loads(out)
    assert code == (0 if values["status"] == "passed" else 1), err
    assert [check["name"] for check in values["checks"]] == [
        "same speed",
        "planted delay of 20%",
        "same accuracy",
        "planted damage",
    ]
    assert values["expected_false_alarms_pct"] == module.FALSE_ALARMS_PCT
    _, out, _ = cli("bench", TASK, "--self-test", *[t if t != "b" else "c" for t in SHORT])
    assert sum(line.rstrip().endswith(("passed", "failed")) for line in out.splitlines()) == 4
    assert "Expected false alarms: 5 %" in out


def test_help_names_every_option(cli):
    code, out, _ = cli("bench", "--help")
    assert code == 0
    for flag in ("--precisions", "--budget", "--require", "--against", "--memory-limit", "--self-test", "--resume"):
        assert flag in out


RUNNING = SimpleNamespace(
    path=Path("b"),
    budget_s=60.0,
    left_s=lambda: 42.4,
    lineup=SimpleNamespace(
        task=SimpleNamespace(name="tiny"),
        hardware=SimpleNamespace(label="paper"),
        unsupported={"fp16-mixed": "this CPU only emulates it: it does"},
    ),
)
"""As much of a bench as a watch looks at."""


def watched(watch):
    timings = Timings(blocks_s={"fp32": [0.2, 0.2, 0.3], "bf16-mixed": [0.1, 0.1, 0.0], "fp16-mixed": []})
    watch.start(RUNNING)
    watch.stage("memory of fp32")
    watch.stage("memory of fp32")
    watch.speed("speed", timings, 20)
    watch.parity("bf16-mixed", 1, Plan(seeds=5, steps=200))


def test_on_a_terminal_a_table_shows_what_is_known_and_the_time_that_is_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    watch = LiveWatch(console)
    watched(watch)
    with console.capture() as capture:
        console.print(watch._render())
    watch.stop()
    shown = capture.get()
    assert "3/20" in shown
    assert "2.00x" in shown
    assert "accuracy: seed 2 of 5 in bf16-mixed, 200 steps   at most 42 s left" in shown


def test_in_a_pipe_each_stage_is_a_line_said_once():
    console = Console(file=io.StringIO(), width=100)
    watch = PlainWatch(console)
    watched(watch)
    watch.stop()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "tiny on paper, within 60 s; folder b"
    assert lines[1] == "fp16-mixed cannot run here: this CPU only emulates it: it does"
    assert "--on-unsupported emulate" in lines[2]
    assert [line[9:] for line in lines[3:]] == [
        "memory of fp32",
        "speed: 20 blocks of each precision in turn",
        "accuracy: seed 2 of 5 in bf16-mixed, 200 steps",
    ]


def test_quiet_shows_nothing():
    assert type(make_watch(quiet=True)) is SilentWatch
