import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from ampguard import train
from ampguard.tasks import find_task
from ampguard.tracking import read_rows

TOY = Path(__file__).parents[1] / "training" / "toy_task.py"
BAD = Path(__file__).parents[1] / "faults" / "bad_trackers.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "läuft"
    train(find_task(f"{TOY}:build")(), out=out, steps=8, precision="fp32", log_every=1)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def received(run, kind):
    lines = map(json.loads, (run / "received.jsonl").read_text().splitlines())
    return [content for name, content in lines if name == kind]


def test_a_whole_run_is_sent_once_however_often_it_is_asked_for(cli, run):
    code, out, err = cli("track", run, "--to", f"{BAD}:Fine")
    assert code == 0, err
    assert f"Fine: 8 rows, {len(received(run, 'event'))} events, path {run / 'received.jsonl'}" in out
    assert received(run, "row") == read_rows(run / "metrics.jsonl")
    assert received(run, "event") == read_rows(run / "events.jsonl")
    assert received(run, "end") == [{"status": "finished"}]
    before = (run / "received.jsonl").read_bytes()
    code, out, _ = cli("track", run, "--to", f"{BAD}:Fine")
    assert code == 0 and "nothing new to deliver" in out
    assert (run / "received.jsonl").read_bytes() == before


def test_several_trackers_are_sent_it_and_json_says_what_and_where(cli, run):
    code, out, _ = cli("track", run, "--to", f"{BAD}:Fine", "--to", "tensorboard", "--format", "json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["schema"], answer["status"], answer["run_dir"]) == (1, "delivered", str(run))
    assert [(one["tracker"], one["rows"]) for one in answer["trackers"]] == [(f"{BAD}:Fine", 8), ("tensorboard", 8)]
    assert answer["trackers"][1]["where"] == {"path": str(run / "tensorboard")}


def test_a_tracker_that_fails_is_exit_3_with_the_cause_and_the_next_call_goes_on(cli, run):
    code, out, err = cli("track", run, "--to", f"{BAD}:LogRaises", "--timeout", "0.2", "--format", "json")
    assert code == 3
    error = json.loads(out)["error"]
    assert error["kind"] == "run" and "log raised ConnectionError: the service is down" in error["message"]
    assert err.count("warning: ") == 1 and "Traceback" not in err
    (run / "healed").touch()
    code, out, _ = cli("track", run, "--to", f"{BAD}:LogRaises")
    assert code == 0 and received(run, "row") == read_rows(run / "metrics.jsonl")


def test_a_tracker_that_hangs_is_given_up(cli, run):
    code, _, err = cli("track", run, "--to", f"{BAD}:StartHangs", "--timeout", "0.2")
    (run / "healed").touch()
    assert code == 3 and "Nothing was delivered for 0.2 s" in err


def test_a_tracker_that_cannot_be_made_is_exit_3(cli, run):
    code, _, err = cli("track", run, "--to", f"{BAD}:InitRaises")
    assert code == 3 and "RuntimeError: no credentials" in err


def test_a_run_that_is_being_written_is_refused(cli, run):
    with FileLock(run / ".lock"):
        code, _, err = cli("track", run, "--to", f"{BAD}:Fine")
    assert code == 2 and "in use by another process" in err and not (run / "received.jsonl").exists()


def test_a_run_that_was_killed_is_sent_up_to_its_last_whole_row(cli, run):
    (run / "run.json").unlink()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "train/lo')
    code, out, err = cli("track", run, "--to", f"{BAD}:Fine")
    assert code == 0 and "8 rows" in out
    assert "metrics.jsonl ends within a line, torn by a kill" in err and "events.jsonl ends" not in err
    assert received(run, "end") == [{"status": None}]


@pytest.mark.parametrize(
    ("change", "tokens", "words"),
    [
        (None, ("nowhere", "--to", "wandb"), "is no run folder"),
        (None, ("{run}", "--to", "wandbb"), "Did you mean 'wandb'"),
        (None, ("{run}",), "Give --to NAME"),
        (None, ("{run}", "--to", "tensorboard", "--timeout", "-1"), "timeout is -1.0"),
        ("schema = 2\n", ("{run}", "--to", "tensorboard"), "has schema 2; this version reads 1"),
        ("[[[", ("{run}", "--to", "tensorboard"), "is damaged"),
        ("schema = 1\n", ("{run}", "--to", "tensorboard"), "is damaged: it lacks 'task'"),
        (None, ("{run}", "--to", "tensorboard", "--timeout", "nan"), "timeout is nan"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(cli, run, change, tokens, words):
    if change is not None:
        (run / "run.toml").write_text(change)
    code, _, err = cli("track", *(token.format(run=run) for token in tokens))
    assert code == 2 and words in err and "Traceback" not in err


def test_a_missing_package_is_told_with_the_line_that_installs_it(cli, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    code, _, err = cli("track", run, "--to", "trackio")
    assert code == 2 and 'pip install "ampguard[trackio]"' in err
    assert err.startswith("error: ") and len(err.splitlines()) == 1
