import json
from hashlib import sha256

import pytest

from ampguard.checkpointing.manifest import MANIFEST, DamagedError, NewerSchemaError, check_manifest, write_manifest
from ampguard.errors import CheckpointError

NAMES = ("a", "b")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "step-00000007"
    folder.mkdir()
    (folder / "a").write_bytes(b"weights")
    (folder / "b").write_bytes(b"")
    write_manifest(folder, step=7, names=NAMES)
    return folder


def reseal(folder, **changes):
    """Write another content with a checksum that fits, as another program or an attacker could."""
    content = json.loads((folder / MANIFEST).read_bytes()) | changes
    content = {key: value for key, value in content.items() if value is not None and key != "manifest_sha256"}
    content["manifest_sha256"] = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")


def test_a_sound_folder_gives_its_step(folder):
    assert check_manifest(folder, names=NAMES) == 7


def test_a_sound_folder_may_lie_anywhere(folder):
    assert check_manifest(folder.rename(folder.with_name("copy")), names=NAMES) == 7


def test_it_tells_length_and_content_in_the_open(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["schema"] == 1
    assert manifest["files"]["a"] == {"length": 7, "sha256": sha256(b"weights").hexdigest()}


def test_a_flipped_bit_in_every_byte_of_the_manifest_is_seen(folder):
    raw = (folder / MANIFEST).read_bytes()
    for index in range(len(raw)):
        flipped = bytearray(raw)
        flipped[index] ^= 1 << index % 8
        (folder / MANIFEST).write_bytes(flipped)
        with pytest.raises(DamagedError, match=MANIFEST):
            check_manifest(folder, names=NAMES)


def test_every_truncation_of_the_manifest_is_seen(folder):
    raw = (folder / MANIFEST).read_bytes()
    for length in range(len(raw)):
        (folder / MANIFEST).write_bytes(raw[:length])
        with pytest.raises(DamagedError, match=MANIFEST):
            check_manifest(folder, names=NAMES)


def test_length_content_and_absence_are_told_apart(folder):
    (folder / "a").write_bytes(b"weight")
    with pytest.raises(DamagedError, match="a has 6 bytes instead of 7"):
        check_manifest(folder, names=NAMES)
    (folder / "a").write_bytes(b"Weights")
    with pytest.raises(DamagedError, match="a does not match its SHA-256"):
        check_manifest(folder, names=NAMES)
    (folder / "a").unlink()
    with pytest.raises(DamagedError, match="a is missing"):
        check_manifest(folder, names=NAMES)
    (folder / "a").mkdir()
    with pytest.raises(DamagedError):
        check_manifest(folder, names=NAMES)


def test_a_folder_without_a_manifest_is_no_checkpoint(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json is missing.*Nothing of it was loaded"):
        check_manifest(folder, names=NAMES)


def test_a_folder_under_another_steps_name_is_refused(folder):
    with pytest.raises(DamagedError, match="speaks of step 7"):
        check_manifest(folder.rename(folder.with_name("step-00000008")), names=NAMES)


@pytest.mark.parametrize(
    "changes", [{"files": None}, {"files": []}, {"files": {"a": 1}}, {"step": None}, {"step": "x"}, {"step": [7]}]
)
def test_a_sealed_manifest_of_another_shape_is_refused(folder, changes):
    reseal(folder, **changes)
    with pytest.raises(DamagedError, match="does not list"):
        check_manifest(folder, names=NAMES)


@pytest.mark.parametrize("text", ["null", "[]", "{}", "7", '"x"', "[" * 100_000, '{"manifest_sha256": 1}', "NaN"])
def test_any_other_json_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(DamagedError, match=MANIFEST):
        check_manifest(folder, names=NAMES)


def test_a_newer_schema_says_upgrade(folder):
    reseal(folder, schema=2, files=None)
    with pytest.raises(NewerSchemaError, match=r"schema 2; this ampguard reads schema 1.*upgrade"):
        check_manifest(folder, names=NAMES)


def test_both_refusals_are_checkpoint_errors():
    assert issubclass(DamagedError, CheckpointError)
    assert issubclass(NewerSchemaError, CheckpointError)
