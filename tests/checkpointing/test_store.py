import os
import shutil
from pathlib import Path

import pytest
import torch

from ampguard.checkpointing import CheckpointStore
from ampguard.errors import CheckpointError, ConfigError


def state(value):
    return {"model": {"w": torch.full((3,), float(value))}, "progress": {"value": value}}


def value_of(loaded):
    assert loaded["model"]["w"].tolist() == [float(loaded["progress"]["value"])] * 3
    return loaded["progress"]["value"]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "run" / "checkpoints")


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def damage(path):
    (path / "state.pt").write_bytes(b"")


def test_a_checkpoint_has_the_layout_that_others_read(store):
    path = store.save(120, state(1), best=True)
    assert path == store.folder / "step-00000120"
    assert sorted(part.name for part in path.iterdir()) == ["manifest.json", "model.safetensors", "state.pt"]
    assert (store.folder / "latest").read_text() == (store.folder / "best").read_text() == "step-00000120\n"
    assert names(store) == ["best", "latest", "step-00000120"]


def test_every_file_can_be_read_by_whoever_may_read_the_folder(store):
    mask = os.umask(0o022)
    try:
        path = store.save(1, state(1))
    finally:
        os.umask(mask)
    assert {oct(part.stat().st_mode & 0o777) for part in path.iterdir()} == {"0o644"}


def test_what_was_saved_is_loaded_by_step_and_by_path(store):
    path = store.save(1, state(5))
    assert value_of(store.load(1)) == value_of(store.load(path)) == 5
    assert value_of(CheckpointStore(store.folder).load(shutil.copytree(path, store.folder.parent / "copy"))) == 5


def test_an_empty_store_has_nothing(store):
    assert store.steps() == []
    assert store.newest_valid() is None
    assert store.pointed("latest") is None
    with pytest.raises(CheckpointError, match="no checkpoint of step 3"):
        store.load(3)


def test_a_step_that_is_not_there_lists_those_that_are(store):
    store.save(1, state(1))
    store.save(12, state(2))
    with pytest.raises(CheckpointError, match="no checkpoint of step 3") as caught:
        store.load(3)
    assert caught.value.allowed == ("1", "12")


def test_a_path_that_is_no_checkpoint_is_refused(store, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path, __file__):
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            store.load(Path(path))


def test_the_last_two_and_the_best_stay(store):
    for step in range(1, 7):
        store.save(step, state(step), best=step == 2)
    assert store.steps() == [2, 5, 6]
    assert store.pointed("best") == store.folder / "step-00000002"
    assert store.pointed("latest") == store.folder / "step-00000006"


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_stay_as_were_asked_for(tmp_path, keep):
    store = CheckpointStore(tmp_path, keep=keep)
    for step in range(1, 7):
        store.save(step, state(step))
    assert store.steps() == list(range(7 - keep, 7))


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(tmp_path, keep):
    with pytest.raises(ConfigError, match=f"keep is {keep}"):
        CheckpointStore(tmp_path, keep=keep)


def test_a_negative_step_is_refused(store):
    with pytest.raises(CheckpointError, match="step -1"):
        store.save(-1, state(1))
    assert not store.folder.exists()


def test_steps_past_eight_digits_are_in_order(store):
    for step in (99_999_999, 100_000_000):
        store.save(step, state(step))
    assert store.steps() == [99_999_999, 100_000_000]
    assert store.newest_valid().step == 100_000_000


def test_the_newest_is_taken_by_step_whatever_the_pointer_says(store):
    store.save(1, state(1))
    store.save(2, state(2))
    (store.folder / "latest").write_text("step-00000001\n")
    assert store.newest_valid().step == 2


@pytest.mark.parametrize("text", ["", "../step-00000001", "/etc", "step-00000009", "latest", "\0", "\xff"])
def test_a_pointer_to_elsewhere_points_to_nothing(store, text):
    store.save(1, state(1))
    (store.folder / "best").write_bytes(text.encode("latin-1"))
    assert store.pointed("best") is None


def test_a_damaged_one_is_passed_over_and_told(store, caplog):
    for step in (1, 2):
        store.save(step, state(step))
    damage(store.folder / "step-00000002")
    loaded = store.newest_valid()
    assert (loaded.step, value_of(loaded.state)) == (1, 1)
    (rejected,) = loaded.rejected
    assert rejected.path == store.folder / "step-00000002"
    assert rejected.reason.startswith("state.pt has 0 bytes instead of ")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(rejected.path) in record.getMessage()
    assert rejected.reason in record.getMessage()


def test_when_all_are_damaged_the_reasons_remain(store):
    for step in (1, 2):
        damage(store.save(step, state(step)))
    assert store.newest_valid() is None
    assert [rejected.path.name for rejected in store.rejected] == ["step-00000002", "step-00000001"]


def test_a_rejected_one_is_not_counted_among_the_kept(store):
    for step in (1, 2):
        store.save(step, state(step))
    damage(store.folder / "step-00000002")
    store.newest_valid()
    store.save(3, state(3))
    assert store.steps() == [1, 3]


def test_saving_after_going_back_removes_what_lies_ahead(store):
    """Else the next resume would take a checkpoint of a history whose rows have been dropped."""
    for step in (10, 20, 30):
        store.save(step, state(step), best=step == 30)
    store.save(15, state(15))
    assert store.steps() == [15]
    assert store.pointed("best") is None
    assert names(store) == ["latest", "step-00000015"]


def test_a_damaged_best_does_not_stay_for_its_name(store):
    store.save(1, state(1), best=True)
    damage(store.folder / "step-00000001")
    store.newest_valid()
    store.save(2, state(2))
    assert names(store) == ["latest", "step-00000002"]


def test_a_newer_schema_stops_the_search_instead_of_losing_work(store, monkeypatch):
    store.save(1, state(1))
    monkeypatch.setattr("ampguard.checkpointing.manifest.SCHEMA", 2)
    store.save(2, state(2))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="upgrade"):
        store.newest_valid()
    assert store.steps() == [1, 2]


def test_the_same_step_is_replaced(store):
    store.save(1, state(1))
    store.save(1, state(2))
    assert value_of(store.load(1)) == 2
    assert names(store) == ["latest", "step-00000001"]


def test_a_replacement_that_stopped_half_way_is_still_that_checkpoint(store):
    """A kill between the two renames leaves the old one standing aside."""
    path = store.save(1, state(1))
    path.rename(path.with_suffix(".replaced"))
    assert store.steps() == [1]
    assert value_of(store.load(1)) == 1
    assert value_of(store.newest_valid().state) == 1
    store.save(2, state(2))
    assert names(store) == ["latest", "step-00000001", "step-00000002"]


@pytest.mark.parametrize("damaged", [False, True])
def test_there_is_no_moment_without_a_valid_checkpoint(store, monkeypatch, damaged):
    """Damaged: the one that replaced was lost after a kill, and the one that stood aside for it is all there is."""
    path = store.save(1, state(1))
    if damaged:
        shutil.copytree(path, path.with_suffix(".replaced"))
        damage(path)
        assert store.newest_valid().path == path.with_suffix(".replaced")
    seen, rename = [], os.rename

    def watch(*args):
        rename(*args)
        seen.append(value_of(CheckpointStore(store.folder).newest_valid().state))

    monkeypatch.setattr(os, "rename", watch)
    store.save(1, state(2))
    assert seen == [1, 2, 2]
    assert names(store) == ["latest", "step-00000001"]


def test_litter_of_a_killed_process_goes_and_strange_files_stay(store):
    store.save(1, state(1))
    (store.folder / ".writing-step-00000002").mkdir()
    (store.folder / ".writing-step-00000002" / "state.pt").write_bytes(b"half")
    (store.folder / ".writing-latest").write_text("half")
    for strange in ("step-1", "step-00000001.bak", "notes.txt", ".hidden"):
        (store.folder / strange).mkdir()
    store.save(2, state(2))
    assert names(store) == [
        ".hidden", "latest", "notes.txt", "step-00000001", "step-00000001.bak", "step-00000002", "step-1",
    ]  # fmt: skip


def test_old_ones_that_cannot_be_removed_do_not_fail_the_save(store, monkeypatch, caplog):
    for step in (1, 2):
        store.save(step, state(step))

    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ampguard.checkpointing.store._remove", fail)
    store.save(3, state(3))
    assert store.newest_valid().step == 3
    assert "could not be removed" in caplog.text


def test_data_is_durable_before_its_name_and_the_name_before_the_pointer(store, monkeypatch):
    """Power may fail between any two of these calls; this order alone is safe at each."""
    store.save(1, state(1))
    calls = []

    def watch(name, describe):
        real = getattr(os, name)

        def wrapped(*args, **options):
            calls.append((name, *describe(*args)))
            return real(*args, **options)

        monkeypatch.setattr(os, name, wrapped)

    base = str(store.folder)
    watch("fsync", lambda fd: [os.path.relpath(Path(f"/proc/self/fd/{fd}").readlink(), base)])
    watch("rename", lambda *paths: [os.path.relpath(path, base) for path in paths])
    watch("replace", lambda *paths: [os.path.relpath(path, base) for path in paths])
    store.save(2, state(2))
    temporary = ".writing-step-00000002"
    assert calls == [
        ("fsync", f"{temporary}/model.safetensors"),
        ("fsync", f"{temporary}/state.pt"),
        ("fsync", f"{temporary}/manifest.json"),
        ("fsync", temporary),
        ("rename", temporary, "step-00000002"),
        ("fsync", "."),
        ("fsync", ".writing-latest"),
        ("replace", ".writing-latest", "latest"),
        ("fsync", "."),
    ]


def test_the_folders_own_name_is_durable(store, monkeypatch):
    synced, real = [], os.fsync

    def watch(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    store.save(1, state(1))
    assert synced[0] == store.folder.parent
