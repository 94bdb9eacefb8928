import json

import pytest

from ampguard.tracking import HighWater, RunLog, lower_marks


@pytest.fixture
def log(tmp_path):
    """Rows and events of steps 1 to 5, two events a step."""
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.log({"step": step, "a": 1.0})
        for message in ("first", "second"):
            log.event({"event": "skip", "step": step, "message": message})
    return log


def test_a_mark_is_kept_and_found_again(tmp_path):
    mark = HighWater.of(tmp_path, "service")
    assert (mark.step, mark.events, mark.ids) == (-1, 0, {})
    mark.step, mark.events, mark.ids, mark.again = 7, 3, {"run": "é"}, ["abc"]
    mark.save()
    assert HighWater.of(tmp_path, "service") == mark
    assert HighWater.of(tmp_path, "other").step == -1


def test_a_mark_is_whole_whether_it_grows_shrinks_or_needs_more_than_a_page(tmp_path):
    mark = HighWater.of(tmp_path, "service")
    for again in ([], ["abc"] * 10, [], ["abc"] * 2000, ["abc"], []):
        mark.again = again
        mark.save()
        assert HighWater.of(tmp_path, "service").again == again
    assert [file.name for file in (tmp_path / "trackers").iterdir()] == ["service.json"]


def test_what_is_due_is_what_stands_past_the_mark(tmp_path, log):
    mark = HighWater.of(tmp_path, "service")
    assert mark.due(tmp_path) == (5, 10)
    mark.step, mark.events = 3, 9
    assert mark.due(tmp_path) == (2, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": "x"}', '{"step": 3}', "\0"])
def test_a_damaged_mark_is_told_and_means_that_nothing_was_sent(tmp_path, caplog, text):
    mark = HighWater.of(tmp_path, "service")
    mark.save()
    mark.path.write_text(text)
    assert HighWater.of(tmp_path, "service").step == -1
    assert "is damaged" in caplog.text


def test_a_mark_on_a_disk_that_fails_stays_in_memory(tmp_path):
    mark = HighWater.of(tmp_path / "gone", "service")
    mark.step = 3
    mark.save()
    assert mark.step == 3 and not (tmp_path / "gone").exists()


def test_a_cut_log_leaves_rows_sent_and_the_cut_events_known(tmp_path, log):
    mark = HighWater.of(tmp_path, "service")
    mark.step, mark.events = 5, 9
    mark.save()
    lower_marks(tmp_path, last_step=3)
    log.truncate_after(3)
    mark = HighWater.of(tmp_path, "service")
    assert (mark.step, mark.events, len(mark.again)) == (5, 6, 3)
    sent = {"event": "skip", "step": 4, "message": "first"}
    assert mark.was_sent(sent) and not mark.was_sent(sent)
    assert not mark.was_sent({**sent, "message": "third"})


def test_every_tracker_has_a_mark_of_its_own(tmp_path, log):
    for name, events in (("one", 10), ("two", 1)):
        mark = HighWater.of(tmp_path, name)
        mark.events = events
        mark.save()
    lower_marks(tmp_path, last_step=0)
    assert [json.loads((tmp_path / "trackers" / f"{name}.json").read_text())["events"] for name in ("one", "two")] == [
        0,
        0,
    ]


def test_a_mark_knows_the_summary_that_it_was_finished_with(tmp_path):
    mark = HighWater.of(tmp_path, "service")
    assert not mark.is_finished({})
