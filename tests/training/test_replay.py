import json
import random
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ampguard import Callback, train
from ampguard.checkpointing import capture_rng
from ampguard.checkpointing.manifest import write_manifest
from ampguard.errors import CheckpointError, CollapseError, ConfigError, InputError, TaskError
from ampguard.health.batch_tree import same
from ampguard.health.bundle import BUNDLE, BundleError, read_bundle
from ampguard.replaying import replay
from ampguard.tasks import find_task
from ampguard.training.data import open_train_data

TASK = Path(__file__).with_name("replay_task.py")
FP16 = {"precision": "fp16-mixed", "on_unsupported": "emulate"}


@pytest.fixture
def run(tmp_path):
    """Train; return the run's folder and its bundles by step."""

    def run(task_options, name="run", *, error=None, **options):
        origin = {"target": f"{TASK}:build", "options": task_options}
        out, task = tmp_path / name, find_task(f"{TASK}:build")(**task_options)
        with nullcontext() if error is None else pytest.raises(error, match=r"Look again: ampguard doctor replay /"):
            train(task, origin=origin, out=out, device="cpu", **options)
        return out, {int(path.name[5:]): path for path in sorted((out / "replay").glob("step-*"))}

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a bad sample, trained once."""
    out = tmp_path_factory.mktemp("trained") / "run"
    origin = {"target": f"{TASK}:build", "options": {"bad": 7}}
    train(find_task(f"{TASK}:build")(bad=7), origin=origin, out=out, device="cpu", log_every=1, steps=6)
    return out


@pytest.fixture
def bundle(trained, tmp_path):
    """Its bundle, in a copy of its folder."""
    shutil.copytree(trained, tmp_path / "copy")
    return next((tmp_path / "copy" / "replay").iterdir())


def events(out, *kinds):
    lines = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] in kinds]


def weights(out):
    last = (out / "checkpoints" / "latest").read_text().strip()
    return load_file(out / "checkpoints" / last / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def place_of(sample, seed=0, epoch=0):
    data = open_train_data(find_task(f"{TASK}:build")(), batch_size=16, seed=seed)
    return next(at for at in range(6) if sample in data.indices(epoch, at))


def test_a_healthy_run_leaves_no_bundle_and_is_bitwise_the_run_without_the_ring(run, monkeypatch):
    out, bundles = run({}, steps=8)
    assert not bundles and not (out / "replay").exists()
    monkeypatch.setattr("ampguard.training.replay_ring.ReplayRing.note", lambda self, step, epoch, position: None)
    bare, _ = run({}, "bare", steps=8)
    assert equal(weights(out), weights(bare))


def test_a_bad_sample_leaves_its_batch_bit_by_bit_and_the_replay_names_it(run, tmp_path):
    out, bundles = run({"bad": 7})
    step = place_of(7) + 1
    assert list(bundles) == [step, step_in_second_epoch(7)]
    data = open_train_data(find_task(f"{TASK}:build")(bad=7), batch_size=16, seed=0)
    assert same(read_bundle(bundles[step]).batch(), data.again(0, step - 1))
    found = replay(bundles[step])
    assert found.reproduced and found.exact and found.run.finding.phase == "data"
    assert found.samples.indices == (7,) and "number 7 of the dataset" in found.advice
    assert found.run is found.fp32
    assert [event["bundle"] for event in events(out, "replay")] == [f"replay/{path.name}" for path in bundles.values()]


def step_in_second_epoch(sample):
    return 6 + place_of(sample, epoch=1) + 1


def test_the_step_is_run_again_bit_by_bit(run):
    """The loss is finite and the gradient is not, so that the row tells what the loss was."""
    out, bundles = run({"zero": 7}, log_every=1)
    rows = {row["step"]: row for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())}
    for step, path in bundles.items():
        found = replay(path)
        assert found.reproduced and found.exact and found.event == "skip"
        assert found.run.loss == rows[step]["train/loss"]
        assert found.run.finding.phase == "backward" and found.run.finding.fqn == "loss"


def test_steps_between_are_run_again_from_the_checkpoint_or_the_seed(run):
    _, bundles = run({"zero": 7}, log_every=13, checkpoint_every="4", seed=1, steps=13)
    steps = list(bundles)
    assert steps == [place_of(7, seed=1) + 1, 6 + place_of(7, seed=1, epoch=1) + 1]
    rows, _ = run({"zero": 7}, "rows", log_every=1, seed=1, steps=13)
    losses = {
        row["step"]: row["train/loss"] for row in map(json.loads, (rows / "metrics.jsonl").read_text().splitlines())
    }
    for step, path in bundles.items():
        found = replay(path)
        assert found.exact and found.run.loss == losses[step], found.remarks
    state = json.loads((bundles[steps[1]] / BUNDLE).read_text())["state"]
    assert state["steps_between"] == steps[1] - 1 - state["step"] and not state["exact"]
    # The weights matter: further off than may be run again, the loss is another, and the replay says so.
    far = replay(bundles[steps[1]], rerun=0)
    assert not far.exact and far.run.loss != losses[steps[1]] and "steps before" in far.remarks[0]


def test_an_fp16_overflow_is_not_finite_again_in_fp16_and_finite_in_fp32(run):
    _, bundles = run({"large": 7}, **FP16, init_scale=1.0)
    found = replay(next(iter(bundles.values())))
    assert found.reproduced and found.exact and found.run.precision == "fp16-mixed"
    assert found.run.finding.fqn == "product" and found.run.finding.dtype == "float16"
    assert found.fp32.finite and found.fp32.loss is not None and found.fp32.grad_norm is not None
    assert found.command.endswith("--precision fp16-mixed --override product=fp32")
    assert "--task.large 7" in found.command and found.samples is None


def test_an_overflow_by_the_loss_scale_alone_is_no_matter_of_a_module(run):
    """The streak that looks for the scale from 2**24 on, taken for a collapse."""
    _, bundles = run({}, **FP16, init_scale=2.0**24, max_skip_streak=1, on_collapse="continue")
    found = replay(next(iter(bundles.values())))
    assert found.event == "collapse" and found.reproduced and found.fp32.finite
    assert (found.run.finding.phase, found.command) == ("backward", "") and "loss scale of 8.38861e+06" in found.advice


@pytest.mark.parametrize(("name", "options"), [("digits", {}), ("text", {"size": "tiny"})])
def test_a_built_in_task_is_replayed_wherever_its_bundle_lies(tmp_path, name, options):
    pytest.importorskip("sklearn")
    wild = {"lr": 1e4, "schedule": "constant", "warmup_steps": 0, "max_grad_norm": 0, "steps": 30, "batch_size": 8}
    origin = {"target": name, "options": options}
    train(find_task(name)(**options), origin=origin, out=tmp_path / "run", device="cpu", precision="fp16-mixed",
          on_unsupported="emulate", init_scale=1.0, replay_bundles=1, on_collapse="continue", **wild)  # fmt: skip
    (path,) = (tmp_path / "run" / "replay").iterdir()
    shutil.copytree(path, tmp_path / "moved")
    found = replay(tmp_path / "moved")
    assert found.reproduced and found.exact and found.run.precision == "fp16-mixed"
    assert found.run.finding is not None and found.run.finding.dtype == "float16"


def test_an_ordinary_backoff_leaves_no_bundle(run):
    out, bundles = run({}, **FP16, init_scale=2.0**24, steps=14)
    assert events(out, "scale_backoff") and not bundles


def test_a_collapse_leaves_an_exact_bundle_of_the_weights_before_the_streak(run):
    options = {"lr": 1e38, "schedule": "constant", "warmup_steps": 0, "max_grad_norm": 0}
    out, bundles = run({}, error=CollapseError, max_skip_streak=2, on_collapse="raise", steps=100, **options)
    step = events(out, "collapse")[0]["step"]
    found = replay(bundles[step])
    assert found.reproduced and found.exact and found.event == "collapse"
    (kept,) = (bundles[step] / "state").glob("step-*")
    assert found.remarks == (f"the weights are those of the step, from the checkpoint of step {int(kept.name[5:])}",)
    assert int(kept.name[5:]) >= step and equal(load_file(kept / "model.safetensors"), weights(out))


def test_a_collapse_that_ended_in_a_fallback_is_replayed_in_the_precision_before_it(run):
    out, bundles = run({"large": 96}, **FP16, init_scale=8.0, log_every=1, steps=20, max_skip_streak=1)
    assert events(out, "fallback") and events(out, "collapse")
    for event in events(out, "collapse")[:1]:
        found = replay(bundles[event["step"]])
        assert found.run.precision == "fp16-mixed" and found.reproduced and found.exact and found.fp32.finite


def test_a_run_keeps_as_many_bundles_as_it_may(run):
    _, bundles = run({"bad": 7}, steps=60, replay_bundles=2)
    assert len(bundles) == 2
    _, none = run({"bad": 7}, "none", replay_bundles=0)
    assert not none


def test_over_the_limit_the_bundle_refers_to_what_it_does_not_keep(run):
    _, bundles = run({"bad": 7}, replay_limit_mib=0, checkpoint_every="1")
    for path in bundles.values():
        assert [file.name for file in path.iterdir()] == [BUNDLE]
        assert "over the limit" in read_bundle(path).absent
    found = replay(bundles[max(bundles)])
    assert found.reproduced and found.exact and found.samples.indices == (7,)
    assert "read from the Task's data" in " ".join(found.remarks)


@pytest.mark.parametrize("kind", ["list", "stream", "stateful"])
@pytest.mark.parametrize("checkpoint_every", ["1d", "3"])
def test_data_of_every_kind_is_replayed(run, kind, checkpoint_every):
    _, bundles = run({"bad": 40, "kind": kind}, checkpoint_every=checkpoint_every, log_every=6)
    assert list(bundles) == [3, 9]
    for path in bundles.values():
        assert bool(read_bundle(path).absent) is (kind != "list")
        found = replay(path)
        assert found.reproduced and found.exact and found.samples.rows == (8,), found.remarks


def test_a_replay_leaves_generators_modes_and_the_run_as_they_were(bundle):
    out = bundle.parents[1]
    before, files = capture_rng(), sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    random.random(), np.random.rand(), torch.rand(1)
    drawn = capture_rng()
    replay(bundle)
    after = capture_rng()
    assert torch.equal(drawn["torch"], after["torch"]) and not torch.equal(before["torch"], after["torch"])
    assert torch.equal(drawn["numpy"]["words"], after["numpy"]["words"])
    assert torch.equal(drawn["python"]["words"], after["python"]["words"])
    assert files == sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))


def test_a_resumed_run_leaves_the_bundles_of_the_whole_run(run, tmp_path):
    class Stop(Callback):
        def on_step_end(self, state):
            if state.step == 5:
                state.stop("half of it")

    options = {"bad": 7}
    _, bundles = run(options)
    task = find_task(f"{TASK}:build")
    train(task(**options), out=tmp_path / "two", device="cpu", callbacks=[Stop()])
    train(task(**options), resume=tmp_path / "two")
    again = sorted((tmp_path / "two" / "replay").iterdir())
    assert [path.name for path in again] == [path.name for path in bundles.values()]
    for one, other in zip(again, bundles.values(), strict=True):
        assert same(read_bundle(one).batch(), read_bundle(other).batch())
        assert read_bundle(one).facts["rng"] == read_bundle(other).facts["rng"]


def test_a_disk_that_fails_costs_an_event_and_no_step(run, tmp_path):
    class Block(Callback):
        """Put a file where the bundles are to stand."""

        def on_step_end(self, state):
            (tmp_path / "run" / "replay").touch()

    origin = {"target": f"{TASK}:build", "options": {"bad": 7}}
    task = find_task(f"{TASK}:build")(bad=7)
    train(task, origin=origin, out=tmp_path / "run", device="cpu", callbacks=[Block()])
    assert [event["event"] for event in events(tmp_path / "run", "replay", "replay_failed")] == ["replay_failed"] * 2
    fine, _ = run({"bad": 7}, "fine")
    assert equal(weights(tmp_path / "run"), weights(fine))


def test_a_checkpoint_that_is_gone_is_replaced_by_an_older_one_or_the_seed(run):
    out, bundles = run({"zero": 7}, checkpoint_every="4", replay_limit_mib=0, log_every=13, steps=13)
    last = bundles[max(bundles)]
    assert not read_bundle(last).facts["state"]["kept"]
    shutil.rmtree(out / "checkpoints")
    assert replay(last).exact
    with pytest.raises(CheckpointError, match=r"is gone, and step .* --rerun"):
        replay(last, rerun=2)


def test_a_bundle_that_was_moved_needs_its_task_named(bundle, tmp_path):
    moved = tmp_path / "elsewhere" / "deep" / "bundle"
    shutil.copytree(bundle, moved)
    with pytest.raises(ConfigError, match=r"names the Task .* which is code"):
        replay(moved)
    assert replay(moved, target=f"{TASK}:build").reproduced
    assert replay(moved, task=find_task(f"{TASK}:build")(bad=7)).reproduced


def forge(path, change):
    facts = json.loads((path / BUNDLE).read_text())
    change(facts)
    (path / BUNDLE).write_text(json.dumps(facts))
    return path


def test_a_task_that_the_run_folder_does_not_name_is_not_run(bundle, tmp_path):
    trap = tmp_path / "trap"
    path = forge(
        bundle,
        lambda facts: facts.update(task={"target": "pathlib:Path.touch", "options": {"self": str(trap)}}),
    )
    with pytest.raises(ConfigError, match="which is code"):
        replay(path)
    forge(
        path, lambda facts: facts.update(task={"target": "subprocess:call", "options": {"args": ["touch", str(trap)]}})
    )
    with pytest.raises(ConfigError, match="which is code"):
        replay(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda facts: facts.update(rng={}), "damaged"),
        (lambda facts: facts.update(rng=3), "no usable 'rng'"),
        (lambda facts: facts.update(rng={**facts["rng"], "device": 3}), "damaged|no usable"),
        (lambda facts: facts.update(config={"lr": "x"}), "lr is 'x'"),
        (lambda facts: facts.update(config={"nonsense": 1}), "no option 'nonsense'"),
        (lambda facts: facts.update(precision={"granted": "fp64"}), "'fp64' is not available"),
        (lambda facts: facts.update(state={"step": "../../x", "checkpoint": "../../x", "kept": True}), None),
        (lambda facts: facts.update(task={"target": 3}), "cannot name it"),
        (lambda facts: facts.pop("task"), "no usable 'task'"),
        (lambda facts: facts.pop("epoch"), "no usable 'epoch'"),
        (lambda facts: facts.update(epoch=-1), None),
        (lambda facts: facts.update(fallbacks=[3]), None),
    ],
)
def test_a_forged_bundle_is_one_clear_error_or_harmless(bundle, change, error):
    path = forge(bundle, change)
    if error is None:
        with suppress(BundleError, TaskError, ConfigError, CheckpointError):
            replay(path)
    else:
        with pytest.raises(InputError, match=error):
            replay(path)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda facts: facts["versions"].update(torch="2.0.0"), "made with torch 2.0.0"),
        (lambda facts: facts.update(device="a Cray"), "the run was on a Cray"),
        (lambda facts: facts["rng"].update(device={"kind": "cuda", "state": "00" * 16}), "of cuda"),
    ],
)
def test_another_machine_is_remarked_and_not_exact(bundle, change, remark):
    assert replay(bundle).exact
    found = replay(forge(bundle, change))
    assert found.reproduced and not found.exact and remark in " ".join(found.remarks)


def test_a_replay_uses_as_many_threads_as_the_run_and_puts_them_back(bundle, monkeypatch):
    before, seen, set_threads = torch.get_num_threads(), [], torch.set_num_threads
    monkeypatch.setattr("torch.set_num_threads", lambda number: [seen.append(number), set_threads(number)])
    replay(forge(bundle, lambda facts: facts.update(threads=before + 1)))
    assert seen == [before + 1, before] and torch.get_num_threads() == before
    with pytest.raises(BundleError, match="1000000 threads"):
        replay(forge(bundle, lambda facts: facts.update(threads=10**6)))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_the_kept_checkpoint_runs_no_code(run, tmp_path):
    _, bundles = run({"bad": 7}, log_every=1, steps=6)
    (kept,) = next(iter(bundles.values())).glob("state/step-*")
    torch.save({"guard": Bomb(tmp_path / "trap")}, kept / "state.pt")
    with pytest.raises(CheckpointError, match=r"SHA-256|bytes instead of"):
        replay(next(iter(bundles.values())))
    # As a forger would: with checksums that fit.
    write_manifest(kept, step=int(kept.name[5:]), names=("model.safetensors", "state.pt"))
    with pytest.raises(CheckpointError, match="a safe load refuses"):
        replay(next(iter(bundles.values())))
    assert not (tmp_path / "trap").exists()
