import json
import logging

import pytest

from ampguard.tracking import read_rows
from ampguard.tracking._rows import cut_torn_line, keep_rows


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_complete_rows_come_back_in_order(path):
    rows = [{"step": 1, "train/loss": 0.1 + 0.2}, {"step": 2, "train/loss": 1e-320}]
    path.write_bytes(lines(*rows))
    assert read_rows(path) == rows


def test_every_torn_last_line_is_left_out_and_said(path, caplog):
    whole, last = lines({"step": 1}), lines({"step": 2, "a": 1.5})
    for cut in range(1, len(last)):
        caplog.clear()
        path.write_bytes(whole + last[:cut])
        assert read_rows(path) == [{"step": 1}]
        assert caplog.messages == [f"{path}: 1 torn or damaged line(s) left out: line 2."]


@pytest.mark.parametrize("damage", [b"\0\0\0\n", b"[1]\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_in_the_middle_costs_only_itself(path, damage, caplog):
    path.write_bytes(lines({"step": 1}) + damage + lines({"step": 3}))
    assert read_rows(path) == [{"step": 1}, {"step": 3}]
    assert "line 2" in caplog.text


def test_later_steps_are_dropped_and_the_rest_stays_byte_for_byte(path):
    kept = lines({"step": 1, "x": 0.1}, {"step": 2}, {"event": "of no step"}, {"step": "odd"})
    path.write_bytes(kept + lines({"step": 3}, {"step": 4}) + b'{"step": 2, "torn')
    keep_rows(path, last_step=2)
    assert path.read_bytes() == kept
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_with_nothing_to_drop_is_not_rewritten(path):
    path.write_bytes(lines({"step": 1}))
    before = path.stat()
    keep_rows(path, last_step=1)
    assert path.stat() == before


def test_a_missing_file_stays_missing(path):
    keep_rows(path, last_step=1)
    assert not path.exists()


def test_a_rewrite_that_fails_leaves_the_file_and_no_litter(path, monkeypatch):
    path.write_bytes(lines({"step": 1}, {"step": 2}))
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        keep_rows(path, last_step=1)
    assert path.read_bytes() == lines({"step": 1}, {"step": 2})
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"step": 2}'])
def test_cutting_leaves_exactly_the_complete_lines(path, torn):
    path.write_bytes(lines({"step": 1}) + torn)
    cut_torn_line(path)
    assert path.read_bytes() == lines({"step": 1})


def test_reading_says_nothing_about_a_sound_file(path, caplog):
    path.write_bytes(lines({"step": 1}))
    with caplog.at_level(logging.DEBUG):
        read_rows(path)
    assert caplog.messages == []
