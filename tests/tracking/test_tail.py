import json
import shutil

from ampguard.tracking._tail import Tail


def line(step):
    return json.dumps({"step": step, "a": 1.0}).encode() + b"\n"


def steps(tail):
    return [row["step"] for row in tail.rows()]


def test_rows_are_yielded_once_as_the_file_grows(tmp_path):
    path = tmp_path / "m.jsonl"
    tail = Tail(path)
    assert steps(tail) == []
    path.write_bytes(line(1) + line(2))
    assert steps(tail) == [1, 2]
    assert steps(tail) == []
    with path.open("ab") as file:
        file.write(line(3))
    assert steps(tail) == [3] and tail.position == 3


def test_a_line_that_is_still_being_written_is_waited_for(tmp_path):
    path = tmp_path / "m.jsonl"
    tail, torn = Tail(path), line(2)
    path.write_bytes(line(1) + torn[:9])
    assert steps(tail) == [1]
    with path.open("ab") as file:
        file.write(torn[9:])
    assert steps(tail) == [2]


def test_a_torn_line_that_is_cut_and_followed_by_another_costs_nothing(tmp_path):
    path = tmp_path / "m.jsonl"
    tail = Tail(path)
    path.write_bytes(line(1) + line(2)[:9])
    assert steps(tail) == [1]
    path.write_bytes(line(1) + line(3))
    assert steps(tail) == [3]


def test_a_torn_line_that_is_cut_in_the_middle_of_reading_is_not_mixed_with_what_follows(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(line(1) + line(2)[:9])
    rows = Tail(path).rows()
    assert next(rows)["step"] == 1
    path.write_bytes(line(1) + line(3) + line(4))
    assert [row["step"] for row in rows] == [3, 4]


def test_a_line_longer_than_a_chunk_is_one_row(tmp_path):
    path = tmp_path / "m.jsonl"
    long = json.dumps({"step": 2, "message": "x" * 300_000}).encode() + b"\n"
    path.write_bytes(line(1) + long + line(3) + long[:-1])
    assert steps(Tail(path)) == [1, 2, 3]


def test_a_big_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join(map(line, range(1, 20_001))))
    assert steps(Tail(path)) == list(range(1, 20_001))


def test_damaged_lines_are_left_out_and_not_counted(tmp_path):
    path = tmp_path / "m.jsonl"
    tail = Tail(path)
    path.write_bytes(line(1) + b"\0\0\n[1]\n" + line(2))
    assert steps(tail) == [1, 2] and tail.position == 2


def test_skip_goes_past_rows_and_not_past_the_end(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(line(1) + line(2) + line(3))
    for count, left in ((0, [1, 2, 3]), (2, [3]), (9, [])):
        tail = Tail(path)
        tail.skip(count)
        assert steps(tail) == left


def test_a_file_that_was_made_anew_is_read_from_its_start(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    tail = Tail(folder / "m.jsonl")
    (folder / "m.jsonl").write_bytes(line(1) + line(2))
    assert steps(tail) == [1, 2]
    shutil.rmtree(folder)
    assert steps(tail) == []
    folder.mkdir()
    (folder / "m.jsonl").write_bytes(line(3))
    assert steps(tail) == [3] and tail.position == 1
