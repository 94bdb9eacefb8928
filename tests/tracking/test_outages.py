import pytest

from ampguard.tracking._outages import HANG_S, TELL_AGAIN_S, Outages, in_a_line


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outages(clock):
    return Outages("service", clock=clock)


def fail(outages, error, during="log"):
    outages.calling(during)
    outages.raised(error)


def deliver(outages, count=1):
    for _ in range(count):
        outages.calling("log")
        outages.returned()


def kinds(outages):
    return [news.kind for news in outages.news()]


def test_an_outage_and_its_end_are_told_once_each(outages):
    for _ in range(5):
        fail(outages, OSError("gone"))
    (news,) = outages.news()
    assert (news.kind, news.tracker, news.cause) == ("tracker_outage", "service", "log raised OSError: gone")
    deliver(outages, 7)
    outages.caught_up()
    outages.caught_up()
    (news,) = outages.news()
    assert (news.kind, news.replayed, news.cause) == ("tracker_recovered", 7, "log raised OSError: gone")
    assert outages.cause == ""


def test_a_cause_that_was_told_is_told_again_only_if_it_lasts(outages, clock):
    for _ in range(10):
        fail(outages, OSError("blip"))
        deliver(outages)
        outages.caught_up()
    assert kinds(outages) == ["tracker_outage", "tracker_recovered"]
    fail(outages, OSError("gone"))
    clock.now += TELL_AGAIN_S
    fail(outages, OSError("gone"))
    assert kinds(outages) == ["tracker_outage"]


def test_another_cause_is_another_outage_but_not_while_one_lasts(outages):
    fail(outages, OSError("gone"))
    fail(outages, ValueError("and wrong"))
    assert kinds(outages) == ["tracker_outage"]
    outages.caught_up()
    fail(outages, ValueError("wrong"))
    assert kinds(outages) == ["tracker_recovered", "tracker_outage"]


def test_a_call_that_does_not_return_is_an_outage_while_it_lasts(outages, clock):
    outages.calling("event")
    clock.now += HANG_S - 0.1
    outages.look()
    assert kinds(outages) == []
    clock.now += 0.2
    outages.look()
    outages.look()
    (news,) = outages.news()
    assert news.cause == "event has not returned for 10 s"
    outages.returned()
    outages.caught_up()
    assert kinds(outages) == ["tracker_recovered"]


def test_finish_may_take_its_time(outages, clock):
    outages.calling("finish")
    clock.now += 10 * HANG_S
    outages.look()
    assert kinds(outages) == []


def test_news_is_pending_until_it_was_written_down(outages):
    assert not outages.pending
    fail(outages, OSError())
    assert outages.pending
    assert outages.news() and outages.pending
    assert outages.news() == [] and not outages.pending


def test_the_event_names_tracker_cause_and_step(outages):
    fail(outages, OSError("gone"))
    (outage,) = outages.news()
    assert outage.event(12).as_dict() == {
        "event": "tracker_outage",
        "step": 12,
        "message": "tracker service: log raised OSError: gone",
        "tracker": "service",
        "cause": "log raised OSError: gone",
    }
    deliver(outages)
    outages.caught_up()
    (end,) = outages.news()
    assert end.event(20).as_dict()["replayed"] == 1


def test_a_cause_is_one_short_line_without_a_password():
    assert in_a_line(KeyError()) == "KeyError"
    assert in_a_line(OSError("first\nsecond")) == "OSError: first"
    assert len(in_a_line(OSError("x" * 1000))) == 300
    assert in_a_line(OSError("to http://me:secret@host/x")) == "OSError: to http://...@host/x"
