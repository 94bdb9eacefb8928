import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ampguard import train
from ampguard.errors import ConfigError
from ampguard.tasks.load import import_file

TOY = import_file(Path(__file__).with_name("toy_task.py"))


def run(out, **options):
    options = {"precision": "fp32", "device": "cpu", "log_every": 1, "steps": 7, **options}
    train(TOY.build(), out=out, **options)
    return out


def rows(folder):
    timed = ("time/", "throughput/")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(timed)} for line in lines]


def test_every_nth_step_is_measured_and_the_run_is_bitwise_the_same(tmp_path):
    bare, measured = run(tmp_path / "bare"), run(tmp_path / "measured", ranges_every=3)
    record = json.loads((measured / "ranges.json").read_text())
    assert record["steps"] == [3, 6] and record["task"] == "toy" and record["precision"] == "fp32"
    assert {row["kind"] for row in record["rows"]} == {"weight", "activation", "gradient", "weight_gradient"}
    assert rows(bare) == rows(measured)
    plain, watched = (load_file(folder / "checkpoints/step-00000007/model.safetensors") for folder in (bare, measured))
    assert plain and all(torch.equal(plain[name], watched[name]) for name in plain)
    assert not (bare / "ranges.json").exists()


def test_gradients_are_unscaled_and_those_of_every_micro_batch(tmp_path):
    options = {"ranges_every": 1, "steps": 1, "max_grad_norm": 1e-6, "batch_size": 16}
    plain = run(tmp_path / "fp32", **options)
    scaled = run(
        tmp_path / "fp16", **options, precision="fp16", on_unsupported="emulate", init_scale=2.0**10,
    )  # fmt: skip
    split = run(tmp_path / "split", **options, micro_batch_size=4)

    def found(folder, key):
        listed = json.loads((folder / "ranges.json").read_text())["rows"]
        return next(row[key] for row in listed if (row["fqn"], row["kind"]) == ("4", "gradient"))

    assert found(scaled, "max_abs") == pytest.approx(found(plain, "max_abs"), rel=2e-2)
    assert found(split, "count") == found(plain, "count") == 32


def test_a_disk_that_fails_costs_a_warning(tmp_path, caplog):
    (tmp_path / "run" / "ranges.json").mkdir(parents=True)
    train(TOY.build(), out=tmp_path / "run", resume="auto", steps=2, ranges_every=1, precision="fp32", device="cpu")
    warned = [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "ranges.json" in r.getMessage()
    ]
    assert warned and "could not be written" in warned[0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_a_step_that_raises_leaves_no_hook_behind(tmp_path):
    task = TOY.build(raise_at=2)
    seen = []
    loss = task.loss

    def watched(model, batch):
        seen.append(model)
        return loss(model, batch)

    object.__setattr__(task, "loss", watched)
    with pytest.raises(Exception, match="the user's own mistake"):
        train(task, out=tmp_path / "run", steps=3, ranges_every=1, precision="fp32", device="cpu")
    assert all(not module._forward_hooks for module in seen[0].modules())
    assert json.loads((tmp_path / "run" / "ranges.json").read_text())["steps"] == [1]


def test_zero_steps_between_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="ranges_every is 0"):
        run(tmp_path / "run", ranges_every=0)


def test_a_compiled_run_is_measured_eagerly(tmp_path, monkeypatch):
    # The eager backend needs no C++ compiler; what matters is that compiled code knows no hooks.
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend="eager"))
    out = run(tmp_path / "run", compile=True, ranges_every=2, steps=4)
    record = json.loads((out / "ranges.json").read_text())
    assert (
        record["steps"] == [2, 4] and next(r for r in record["rows"] if r["kind"] == "activation")["count"] == 2 * 160
    )
