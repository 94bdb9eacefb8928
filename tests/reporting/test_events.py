import json

from ampguard.reporting.events import read_events


def write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def skips(count):
    return [{"event": "skip", "step": step, "message": "a gradient was not finite"} for step in range(1, count + 1)]


def test_ten_thousand_skips_are_counted_exactly_and_marked_in_few_places(tmp_path):
    timeline = read_events(write(tmp_path / "events.jsonl", skips(10_000)))
    marks = timeline.marks_of("skip")
    assert timeline.counts["skip"] == 10_000
    assert sum(mark.count for mark in marks) == 10_000
    assert len(marks) <= 400
    assert marks[0].first == 1 and marks[-1].last == 10_000
    assert all(mark.count == mark.last - mark.first + 1 for mark in marks)


def test_the_first_and_last_of_each_kind_are_listed_and_the_rest_is_counted(tmp_path):
    rows = [*skips(1000), {"event": "fallback", "step": 500, "message": "lm_head to fp32", "module": "lm_head"}]
    timeline = read_events(write(tmp_path / "events.jsonl", rows))
    steps = [told.step for told in timeline.listed if told.kind == "skip"]
    assert steps == [*range(1, 21), *range(981, 1001)]
    assert timeline.unlisted == {"skip": 960}
    (fallback,) = (told for told in timeline.listed if told.kind == "fallback")
    assert fallback.data == {"module": "lm_head"}
    assert [told.step for told in timeline.listed] == sorted(told.step for told in timeline.listed)


def test_a_torn_line_and_rows_without_kind_or_step_are_told(tmp_path):
    rows = [*skips(2), {"step": 3}, {"event": "skip", "step": "x"}]
    timeline = read_events(write(tmp_path / "events.jsonl", rows, tail='nonsense\n{"event": "sk'))
    assert timeline.counts == {"skip": 2}
    assert timeline.torn and timeline.damaged == 3
    assert len(timeline.notes()) == 2


def test_no_file_is_told_and_an_empty_one_is_not(tmp_path):
    assert "no events.jsonl" in read_events(tmp_path / "events.jsonl").notes()[0]
    (tmp_path / "events.jsonl").touch()
    assert read_events(tmp_path / "events.jsonl").notes() == []
