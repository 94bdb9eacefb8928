"""All four trackers at once, real and offline, behind the real command: every row and every event, in each, once."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ampguard.tracking import read_rows

NAMES = ("wandb", "tensorboard", "mlflow", "trackio")
COMMAND = ("train", "digits", "--steps", "12", "--log-every", "1", "--batch-size", "8")
FP16 = ("--precision", "fp16", "--on-unsupported", "emulate")
"""Its loss scale is searched for downwards from 2**24: the first steps are skipped, each with two events."""


def sibling(name):
    """Return a test module of this folder, for its reader."""
    spec = importlib.util.spec_from_file_location(f"reader_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def offline(folder):
    """Return the environment of a process whose trackers keep everything below `folder`."""
    theirs = ("WANDB_", "MLFLOW_", "TRACKIO_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    apart = {f"WANDB_{name}_DIR": str(folder / "wandb" / name) for name in ("CONFIG", "CACHE", "DATA")}
    own = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "TRACKIO_DIR": str(folder / "trackio")}
    return {**env, **apart, **own, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The command, its answer and its run folder."""
    folder = tmp_path_factory.mktemp("all")
    out = folder / "läuft <b>1"
    track = [word for name in NAMES for word in ("--track", name)]
    words = [*COMMAND, *FP16, *track, "--track-timeout", "120", "--out", str(out), "--format", "json"]
    found = subprocess.run(
        [sys.executable, "-m", "ampguard", *words], capture_output=True, text=True, cwd=folder, env=offline(folder)
    )
    assert found.returncode == 0, found.stderr
    return found, out


def ids(out, name):
    return json.loads((out / "trackers" / f"{name}.json").read_text())["ids"]


def of_wandb(out):
    return sibling("test_wandb").read(out).points


def of_tensorboard(out):
    return sibling("test_tensorboard").read(out).points


def of_mlflow(out):
    return sibling("test_mlflow").points_of(out.parent / "mlflow.db", ids(out, "mlflow")["run"])


def of_trackio(out):
    found = ids(out, "trackio")
    return sibling("test_trackio").sent_to(found["path"], found["run"]).points


READERS = {"wandb": of_wandb, "tensorboard": of_tensorboard, "mlflow": of_mlflow, "trackio": of_trackio}


def expected(out, name):
    """Count each (metric, step, value) that stands in the run folder, as the tracker can hold it."""
    rows = [(key, row["step"], value) for row in read_rows(out / "metrics.jsonl") for key, value in row.items()]
    events = [(f"event/{row['event']}", row["step"], 1) for row in read_rows(out / "events.jsonl")]
    kept = [(key, step, kept_value(value, name)) for key, step, value in rows + events if key != "step"]
    return Counter(kept)


def kept_value(value, name):
    return struct.unpack("f", struct.pack("f", value))[0] if name == "tensorboard" else float(value)


@pytest.mark.parametrize("name", NAMES)
def test_each_of_four_trackers_holds_every_row_and_event_once(done, name):
    _, out = done
    points = READERS[name](out)
    found = Counter((key, step, float(v)) for key, values in points.items() for step, v in values if key != "amp/step")
    assert found == expected(out, name)


def test_there_was_something_to_deliver(done):
    """Otherwise the tests above would hold of nothing."""
    _, out = done
    kinds = Counter(row["event"] for row in read_rows(out / "events.jsonl"))
    assert [row["step"] for row in read_rows(out / "metrics.jsonl")] == list(range(1, 13))
    assert kinds["skip"] == kinds["scale_backoff"] > 3
    assert not kinds["tracker_outage"]


def test_stdout_is_one_json_object_with_four_trackers_on(done):
    found, out = done
    assert json.loads(found.stdout)["run_dir"] == str(out)
