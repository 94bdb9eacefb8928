import pytest

from ampguard.checkpointing.durable import write_text


def test_text_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "latest"
    for text in ("step-00000001\n", "é\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_text_and_no_litter(tmp_path, monkeypatch, error):
    path = tmp_path / "latest"
    write_text(path, "old")

    def fail(descriptor):
        raise error

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(type(error)):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
