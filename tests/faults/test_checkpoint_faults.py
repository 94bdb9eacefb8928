"""Checkpoints that are damaged, malicious or interrupted: what must survive is the one before, and the live model."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from ampguard.checkpointing import CheckpointStore, collect, restore
from ampguard.checkpointing.manifest import MANIFEST, DamagedError, write_manifest
from ampguard.checkpointing.parts import MODEL, STATE
from ampguard.errors import CheckpointError

FILES = (MODEL, STATE, MANIFEST)


class Counter:
    def state_dict(self):
        return {"applied": torch.tensor(3)}

    def load_state_dict(self, state):
        assert state["applied"] == 3


def make_parts(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizers": [optimizer], "guard": Counter()}


def state_of(seed):
    return collect(**make_parts(seed), progress={"step": seed})


@pytest.fixture
def store(tmp_path):
    """Two generations, steps 1 and 2."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        store.save(step, state_of(step))
    return store


@pytest.fixture
def newest(store):
    return store.folder / "step-00000002"


def assert_rejected(store, reason):
    """The newest is refused without touching the live model, and the one before is taken."""
    live = make_parts(seed=77)
    before = {key: value.clone() for key, value in live["model"].state_dict().items()}
    with pytest.raises(CheckpointError, match=reason) as caught:
        restore(store.load(2), **live)
    assert "step-00000002" in caught.value.message
    assert caught.value.hint
    after = live["model"].state_dict()
    assert all(value.equal(after[key]) for key, value in before.items())
    loaded = store.newest_valid()
    assert loaded.step == 1
    assert [rejected.path.name for rejected in loaded.rejected] == ["step-00000002"]
    assert restore(loaded.state, **live) == {"step": 1}


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_seen_at_every_percent(store, newest, name):
    raw = (newest / name).read_bytes()
    for percent in range(100):
        os.truncate(newest / name, 0)
        (newest / name).write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(DamagedError, match=name):
            store.load(2)
    assert_rejected(store, name)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_seen_wherever_it_is(store, newest, name):
    raw, draw = (newest / name).read_bytes(), random.Random(name)
    for _ in range(100):
        flipped = bytearray(raw)
        flipped[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        (newest / name).write_bytes(flipped)
        with pytest.raises(DamagedError, match=name):
            store.load(2)
    assert_rejected(store, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_zero_length_is_seen(store, newest, name):
    (newest / name).write_bytes(b"")
    assert_rejected(store, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_seen(store, newest, name):
    (newest / name).unlink()
    assert_rejected(store, f"{name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_grew_or_became_a_folder_is_seen(store, newest, name):
    with (newest / name).open("ab") as file:
        file.write(b"\0")
    assert_rejected(store, name)
    (newest / name).unlink()
    (newest / name).mkdir()
    assert_rejected(store, name)


def test_parts_of_two_checkpoints_do_not_mix(store, newest):
    shutil.copy(store.folder / "step-00000001" / MODEL, newest / MODEL)
    assert_rejected(store, f"{MODEL} does not match its SHA-256")


def test_an_empty_folder_and_a_file_of_that_name_are_seen(store, newest):
    shutil.rmtree(newest)
    newest.mkdir()
    assert_rejected(store, MANIFEST)
    newest.rmdir()
    newest.write_bytes(b"")
    assert_rejected(store, MANIFEST)


# Malice: the attacker can write every file, the manifest too.


class Weapon:
    """Creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


class Evaluates(Weapon):
    def __reduce__(self):
        return (eval, (f"__import__('os').mkdir({str(self.canary)!r})",))


def in_an_archive(path, weapon):
    torch.save({"model": {}, "progress": weapon}, path)


def in_a_tensor_subclass(path, weapon):
    tensor = torch.ones(2)
    tensor.weapon = weapon
    torch.save({"model": {}, "progress": tensor}, path)


def in_a_bare_pickle(path, weapon):
    path.write_bytes(pickle.dumps({"model": {}, "progress": weapon}, protocol=2))


def in_a_legacy_file(path, weapon):
    torch.save({"model": {}, "progress": weapon}, path, _use_new_zipfile_serialization=False)


def in_a_tar(path, weapon):
    pickled = path.with_name("pickle")
    pickled.write_bytes(pickle.dumps(weapon, protocol=2))
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add(pickled, name)
    pickled.unlink()


@pytest.mark.parametrize("force_unsafe", [False, True])
@pytest.mark.parametrize("weapon", [Weapon, Evaluates])
@pytest.mark.parametrize("hide", [in_an_archive, in_a_tensor_subclass, in_a_bare_pickle, in_a_legacy_file, in_a_tar])
def test_a_malicious_state_with_a_correct_manifest_never_runs(
    store, newest, tmp_path, monkeypatch, hide, weapon, force_unsafe
):
    canary = tmp_path / "canary"
    hide(newest / STATE, weapon(canary))
    with (newest / STATE).open("rb") as file:
        if hide is in_a_bare_pickle:
            pickle.load(file)
        elif hide is not in_a_tar:
            torch.load(file, weights_only=False)
    if hide is not in_a_tar:
        canary.rmdir()  # fails if the weapon is blunt
    write_manifest(newest, step=2, names=(MODEL, STATE))
    if force_unsafe:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert_rejected(store, STATE)
    assert not canary.exists()


def test_a_pickle_in_the_place_of_the_weights_never_runs(store, newest, tmp_path):
    in_an_archive(newest / MODEL, Weapon(tmp_path / "canary"))
    write_manifest(newest, step=2, names=(MODEL, STATE))
    assert_rejected(store, MODEL)
    assert not (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript archive")
def test_a_torchscript_archive_is_refused(store, newest):
    with zipfile.ZipFile(newest / STATE, "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version", "byteorder"):
            archive.writestr(f"archive/{name}", b"3\n")
    write_manifest(newest, step=2, names=(MODEL, STATE))
    assert_rejected(store, STATE)


@pytest.mark.parametrize("name", [MODEL, STATE])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_content_damaged_before_its_checksum_is_refused_or_read_and_nothing_else(store, newest, name):
    """As a bad memory module does it; a flipped weight cannot be told, a broken structure must be."""
    raw, draw, refused = (newest / name).read_bytes(), random.Random(f"sealed {name}"), 0
    for _ in range(200):
        broken = bytearray(raw)
        for _ in range(draw.choice((1, 8, 64))):
            broken[draw.randrange(len(raw))] = draw.randrange(256)
        (newest / name).write_bytes(broken)
        write_manifest(newest, step=2, names=(MODEL, STATE))
        try:
            store.load(2)
        except DamagedError as error:
            refused += 1
            assert error.reason
    assert refused > 20


# Interruption: at every system call, by a kill, by a full disk.

CALLS = 12
"""fsync, rename and replace calls of a save of a new best checkpoint, before the old ones are removed."""


def interrupt(monkeypatch, number, act):
    """Let `act` run in the place of the system call that is `number` in order; return the list of calls seen."""
    seen = []
    for name in ("fsync", "rename", "replace"):
        real = getattr(os, name)

        def wrapped(*args, real=real, name=name):
            seen.append(name)
            if len(seen) == number + 1:
                act(args)
            return real(*args)

        monkeypatch.setattr(os, name, wrapped)
    return seen


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", range(CALLS))
def test_a_save_that_fails_anywhere_leaves_the_old_and_no_litter(store, monkeypatch, number, error, step):
    def fail(args):
        raise error

    interrupt(monkeypatch, number, fail)
    with pytest.raises(type(error)):
        store.save(step, state_of(9), best=True)
    monkeypatch.undo()
    assert store.newest_valid().state["progress"]["step"] in (2, 9)
    assert not list(store.folder.glob(".writing-*"))
    store.save(4, state_of(4))
    assert store.newest_valid().step == 4
    assert not list(store.folder.glob("*.replaced"))


@pytest.mark.parametrize("step", [2, 3])
def test_a_power_cut_at_any_system_call_leaves_a_valid_checkpoint(store, tmp_path, monkeypatch, step):
    """Model of the cut: every name is there, but a file whose data was not synced is empty."""
    synced = {path.stat().st_ino for path in store.folder.rglob("*")}
    cuts = []

    def cut(args):
        copy = shutil.copytree(store.folder, tmp_path / f"cut-{len(cuts)}")
        for path in store.folder.rglob("*"):
            if path.is_file() and path.stat().st_ino not in synced:
                (copy / path.relative_to(store.folder)).write_bytes(b"")
        cuts.append(copy)

    for name in ("fsync", "rename", "replace"):
        real = getattr(os, name)

        def wrapped(*args, real=real, name=name):
            cut(args)
            real(*args)
            if name == "fsync":
                synced.add(os.fstat(args[0]).st_ino)
            cut(args)

        monkeypatch.setattr(os, name, wrapped)
    store.save(step, state_of(9), best=True)
    monkeypatch.undo()
    values = [CheckpointStore(copy).newest_valid().state["progress"]["step"] for copy in cuts]
    assert values == sorted(values)
    assert {*values} == {2, 9}


SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from ampguard.checkpointing import CheckpointStore
torch.set_num_threads(1)

def state(step, turn):
    return {"model": {f"w{i}": torch.full((200,), float(step)) for i in range(20)}, "step": step, "turn": turn}

def save_forever(folder, step, done):
    store = CheckpointStore(folder)
    while True:
        for turn in (0, 1):
            store.save(step, state(step, turn), best=step % 7 == 0)
            os.write(done, b"%d %d\\n" % (step, turn))
        step += 1

folder, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
reached = (0, 0)
for _ in range(kills):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        save_forever(folder, reached[0] + 1, write)
    os.close(write)
    head = os.read(read, 64)
    time.sleep(draw.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(read, "rb") as pipe:
        lines = (head + pipe.read()).decode().split("\\n")
    promised = tuple(map(int, [line for line in lines if line][-1].split()))
    loaded = CheckpointStore(folder).newest_valid()
    reached = (loaded.step, loaded.state["turn"])
    assert reached >= promised, (reached, promised)
    assert loaded.rejected == (), loaded.rejected
    assert all((w == loaded.step).all() and w.numel() == 200 for w in loaded.state["model"].values())
    assert len(loaded.state["model"]) == 20
print(reached)
"""


def run(code, *args):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_at_any_instant_loses_nothing_that_was_saved(tmp_path):
    """30 processes, each killed with SIGKILL between two of their saves or within one, go on one after the other."""
    run(SAVER, tmp_path / "checkpoints", 30, "seed")


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from ampguard.checkpointing import CheckpointStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CheckpointStore(Path(sys.argv[1]))

def state(value, weights=3000, rest=5000):
    return {"model": {"w": torch.full((weights,), float(value))}, "value": value, "rest": torch.zeros(rest)}

def names():
    return sorted(path.name for path in store.folder.iterdir())

store.save(1, state(1), best=True)
before = names()
for size in (0, 1, 100, 1000, 11_000, 12_050, 12_200, 15_000, 20_000):
    for step in (1, 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            store.save(step, state(9))
        except OSError as error:
            assert error.errno == 27, error
        else:
            raise AssertionError(size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert names() == before, names()
        assert store.newest_valid().state["value"] == 1
store.save(2, state(2))
assert store.newest_valid().state["value"] == 2
"""


def test_a_file_that_may_not_grow_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    """The limit stands for a full disk: it stops every writer, in the weights and in the rest, at its own byte."""
    run(FULL, tmp_path / "checkpoints")


TMPFS = """
import os, subprocess, sys
from pathlib import Path
import torch
from ampguard.checkpointing import CheckpointStore

store = CheckpointStore(Path(sys.argv[1]) / "checkpoints")

def state(value, rest):
    return {"model": {"w": torch.full((1000,), float(value))}, "value": value, "rest": torch.zeros(rest)}

def refused(step, rest, code):
    try:
        store.save(step, state(9, rest))
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError("saved")
    assert sorted(path.name for path in store.folder.iterdir()) == ["latest", "step-00000001"]
    assert store.newest_valid().state["value"] == 1

store.save(1, state(1, 1000))
for rest in (200_000, 120_000):
    refused(1, rest, 28)
    refused(2, rest, 28)
filler = Path(sys.argv[1]) / "filler"
free = os.statvfs(filler.parent)
filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize))
refused(2, 10, 28)
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
refused(2, 10, 30)
subprocess.run(["mount", "-o", "remount,rw", sys.argv[1]], check=True)
filler.unlink()
store.save(2, state(2, 10))
assert store.newest_valid().state["value"] == 2
"""


def test_a_full_and_then_read_only_disk_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    """A file system of 400 KiB of its own, in a namespace of its own."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=400k none {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*alone, mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no user mount a file system of their own")
    done = subprocess.run(
        [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-W", "error", "-c", TMPFS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        CheckpointStore(Path(tmp_path / "file" / "checkpoints")).save(1, state_of(1))


def test_a_folder_that_was_deleted_is_made_again(store):
    shutil.rmtree(store.folder)
    store.save(3, state_of(3))
    assert store.newest_valid().step == 3
