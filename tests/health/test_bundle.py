import io
import json
import pickle

import pytest
import torch

from ampguard.health.batch_tree import TreeError, same
from ampguard.health.bundle import BATCH, BUNDLE, BundleError, keep_files, read_bundle, write_bundle

FACTS = {"step": 120, "event": {"event": "nonfinite"}}
BATCHED = [torch.randn(4, 3), torch.tensor([1, 0, 1, 1])]
MIB = 2**20


def nothing(folder, room_bytes):
    return {"kept": False}


@pytest.fixture
def write(tmp_path):
    def write(batch=BATCHED, *, facts=FACTS, state=nothing, limit_bytes=MIB):
        return write_bundle(tmp_path / "replay", facts, lambda: batch, state=state, limit_bytes=limit_bytes)

    return write


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_bundle_holds_its_facts_and_its_batch(write, tmp_path):
    path = write()
    found = read_bundle(path)
    assert path == tmp_path / "replay" / "step-00000120" and sorted(f.name for f in path.iterdir()) == [BATCH, BUNDLE]
    assert found.step == 120 and found.fact("event", dict) == {"event": "nonfinite"} and not found.absent
    assert same(found.batch(), BATCHED)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_are_kept(write):
    base = torch.arange(6.0)
    assert same(read_bundle(write([base, base[2:4], base])).batch(), [base, base[2:4], base])


def test_a_batch_without_a_tensor_is_kept(write):
    assert read_bundle(write({"text": ["a", "b"]})).batch() == {"text": ["a", "b"]}


def test_a_batch_over_the_limit_is_left_out_with_the_reason(write):
    found = read_bundle(write(limit_bytes=40))
    assert "over the limit" in found.absent and not (found.path / BATCH).exists()
    with pytest.raises(TreeError, match="over the limit"):
        found.batch()


def test_a_batch_with_a_leaf_that_cannot_be_kept_says_which(write, tmp_path):
    found = read_bundle(write({"x": BATCHED[0], "meta": tmp_path}))
    assert "['meta']: a PosixPath" in found.absent
    assert found.facts["batch"]["tree"]["items"][0][1]["kind"] == "tensor"


def test_a_batch_that_cannot_be_read_costs_the_batch_only(tmp_path):
    def broken():
        raise ZeroDivisionError("the user's own")

    path = write_bundle(tmp_path, FACTS, broken, state=nothing, limit_bytes=MIB)
    assert "ZeroDivisionError: the user's own" in read_bundle(path).absent


def test_a_failing_disk_leaves_nothing_behind(write, tmp_path):
    def full(folder, room_bytes):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(state=full)
    assert list((tmp_path / "replay").iterdir()) == []


def test_what_json_has_not_is_an_error_and_leaves_nothing_behind(write, tmp_path):
    with pytest.raises(ValueError):
        write(facts={**FACTS, "lr": float("nan")})
    assert list((tmp_path / "replay").iterdir()) == []


def test_the_room_for_the_state_is_what_the_batch_leaves(write):
    rooms = []
    write(state=lambda folder, room: rooms.append(room) or {}, limit_bytes=1000)
    assert rooms == [1000 - 4 * 3 * 4 - 4 * 8]


def test_a_checkpoint_is_kept_by_links_where_it_fits(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"x" * 100)
    assert not keep_files(checkpoint, tmp_path / "small", 99)
    assert keep_files(checkpoint, tmp_path / "kept", 100)
    (checkpoint / "state.pt").unlink()
    assert (tmp_path / "kept" / "step-00000007" / "state.pt").read_bytes() == b"x" * 100


def test_a_folder_that_is_no_bundle_names_the_bundles_under_it(write, tmp_path):
    path = write()
    for given in (tmp_path, path.parent):
        with pytest.raises(BundleError, match="no replay bundle") as error:
            read_bundle(given)
        assert error.value.allowed == (str(path),)
    with pytest.raises(BundleError, match="no replay bundle"):
        read_bundle(path / BUNDLE)


def damage(path, change):
    facts = json.loads((path / BUNDLE).read_text())
    change(facts)
    (path / BUNDLE).write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.update(schema=2), "schema 2; this ampguard reads schema 1"),
        (lambda facts: facts.pop("schema"), "schema None"),
        (lambda facts: facts.update(step=0), "which step"),
        (lambda facts: facts.update(step=True), "which step"),
        (lambda facts: facts.update(step="../../x"), "which step"),
        (lambda facts: facts.update(batch=[]), "which step"),
        (lambda facts: facts["batch"].pop("tensors"), "missing, or not the file"),
        (lambda facts: facts["batch"]["tensors"].update(sha256="0" * 64), "not the file"),
    ],
)
def test_a_damaged_bundle_is_one_clear_error(write, change, message):
    path = write()
    damage(path, change)
    with pytest.raises(BundleError, match=message):
        read_bundle(path)


@pytest.mark.parametrize("text", ["", '{"schema": 1, "st', "[]", "nul", "\ud800".encode("utf-16-le", "surrogatepass")])
def test_a_torn_json_is_one_clear_error(write, text):
    path = write()
    (path / BUNDLE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=r"cannot be used: bundle\.json is no JSON"):
        read_bundle(path)


@pytest.mark.parametrize("save", [pickle.dump, lambda bomb, file: torch.save({"0": bomb}, file)])
def test_a_pickle_in_place_of_the_tensors_runs_no_code(write, tmp_path, save):
    path, trap = write(), tmp_path / "trap"
    buffer = io.BytesIO()
    save(Bomb(trap), buffer)
    (path / BATCH).write_bytes(buffer.getvalue())
    # As a forger would: with a checksum that fits.
    from ampguard.health.bundle import _seal

    damage(path, lambda facts: facts["batch"].update(tensors=_seal(path / BATCH)))
    with pytest.raises(BundleError, match="no safetensors file"):
        read_bundle(path)
    assert not trap.exists()


def test_a_fact_of_another_type_is_an_error(write):
    found = read_bundle(write())
    with pytest.raises(BundleError, match="no usable 'event'"):
        found.fact("event", str)
    with pytest.raises(BundleError, match="no usable 'config'"):
        found.fact("config", dict)
