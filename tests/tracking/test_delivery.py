import logging
import random
import threading
import time
from contextlib import contextmanager

import pytest

from ampguard.errors import ConfigError, MissingExtraError
from ampguard.tracking import Deliveries, HighWater, RunLog, Tracker, _deliveries, _delivery, lower_marks, stuck

FACTS = {"name": "run", "tags": ["text"]}
SOON_S = 20.0
"""Long enough for any machine; nothing waits that long when the code is right."""


class Kept(Tracker):
    """Keeps what it is handed, in the class: a service that outlives its trackers."""

    def __init__(self, run_dir):
        super().__init__(run_dir)
        self.thread = None

    def start(self, facts, previous):
        type(self).started.append((dict(facts), dict(previous)))
        return {"run": "7"}

    def _log(self, row):
        self.rows.append(dict(row))

    def event(self, row):
        self.events.append(dict(row))

    def finish(self, summary):
        type(self).finished.append(dict(summary))


@pytest.fixture
def service():
    """Return a fresh tracker class."""

    class Service(Kept):
        started, rows, events, finished = [], [], [], []

    return Service


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(_delivery, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(_delivery, "LAST_RETRY_S", 0.01)


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path)


@pytest.fixture
def deliver(monkeypatch, tmp_path):
    """Start the deliveries to a tracker class, or several."""
    opened = []

    def open_(*classes):
        named = {f"t{number}": one for number, one in enumerate(classes)}
        monkeypatch.setattr(_deliveries, "find_tracker", named.__getitem__)
        deliveries = Deliveries(tuple(named), tmp_path)
        deliveries.start(FACTS)
        opened.append(deliveries)
        return deliveries

    yield open_
    for deliveries in opened:
        deliveries.close()


def write(log, steps):
    for step in steps:
        log.log({"step": step, "a": step / 3})


def close(deliveries, log, timeout_s=SOON_S):
    deliveries.finish(
        {"status": "finished"}, step=99, timeout_s=timeout_s, tell=lambda event: log.event(event.as_dict())
    )


def steps(service):
    return [row["step"] for row in service.rows]


def eventually(claim):
    until = time.monotonic() + SOON_S
    while not claim() and time.monotonic() < until:
        time.sleep(0.002)
    assert claim()


def fails(service, name, when):
    """Make a method of the service raise whenever `when(n)` holds at its n-th call, from 1."""
    original, calls = getattr(service, name), []

    def method(self, *values):
        calls.append(values)
        if when(len(calls)):
            raise ConnectionError("gone")
        return original(self, *values)

    setattr(service, name, method)
    return calls


@contextmanager
def hanging(service, name):
    """Make a method of the service hang inside the block."""
    original, free = getattr(service, name), threading.Event()

    def method(self, *values):
        free.wait(SOON_S)
        return original(self, *values)

    setattr(service, name, method)
    try:
        yield
    finally:
        free.set()


def test_rows_events_facts_and_summary_arrive_as_they_were(log, service, deliver):
    deliveries = deliver(service)
    write(log, range(1, 4))
    log.event({"event": "skip", "step": 2, "message": "m"})
    assert deliveries.wake(3) == []
    close(deliveries, log)
    assert service.rows == [{"step": step, "a": step / 3} for step in (1, 2, 3)]
    assert service.events == [{"event": "skip", "step": 2, "message": "m"}]
    assert service.started == [(FACTS, {})] and service.finished == [{"status": "finished"}]
    assert not stuck()


def test_rows_arrive_and_are_noted_down_while_the_run_goes_on(log, service, deliver, tmp_path):
    deliveries = deliver(service)
    for step in (1, 2, 3):
        write(log, [step])
        deliveries.wake(step)
        eventually(lambda step=step: steps(service)[-1:] == [step])
        eventually(lambda step=step: HighWater.of(tmp_path, "t0").step == step)
    assert service.finished == []


def test_without_trackers_no_thread_starts(log, deliver):
    before = threading.active_count()
    deliveries = deliver()
    assert deliveries.wake(1) == [] and threading.active_count() == before
    close(deliveries, log, timeout_s=0)


def test_the_global_random_numbers_are_left_alone(log, service, deliver):
    fails(service, "_log", lambda n: n < 5)
    random.seed(3)
    before = random.getstate()
    deliveries = deliver(service)
    write(log, [1])
    close(deliveries, log)
    assert random.getstate() == before and steps(service) == [1]


@pytest.mark.parametrize("name", ["start", "held", "_log", "event", "finish"])
def test_every_call_is_repeated_until_it_returns(log, service, deliver, caplog, name):
    calls = fails(service, name, lambda n: n <= 3)
    deliveries = deliver(service)
    write(log, [1, 2])
    log.event({"event": "skip", "step": 2, "message": "m"})
    close(deliveries, log)
    assert len(calls) > 3
    assert steps(service) == [1, 2] and len(service.finished) == 1
    assert caplog.text.count("WARNING") == 1 and "ConnectionError: gone" in caplog.text


@pytest.mark.parametrize("every", [2, 3])
def test_a_tracker_that_fails_again_and_again_holds_every_row_once_after_one_warning(
    log, service, deliver, caplog, every
):
    fails(service, "_log", lambda n: n % every == 0)
    deliveries = deliver(service)
    write(log, range(1, 51))
    close(deliveries, log)
    assert steps(service) == list(range(1, 51))
    assert caplog.text.count("WARNING") == 1
    assert [row["event"] for row in service.events] == ["tracker_outage", "tracker_recovered"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()])
def test_no_exception_of_a_tracker_ends_the_thread(log, service, deliver, error):
    original = service._log
    left = [error]

    def raising(self, row):
        if left:
            raise left.pop()
        original(self, row)

    service._log = raising
    deliveries = deliver(service)
    write(log, [1, 2])
    close(deliveries, log)
    assert steps(service) == [1, 2]


def test_an_outage_becomes_two_events_that_the_tracker_gets_too(log, service, deliver, tmp_path):
    down = threading.Event()
    fails(service, "_log", lambda n: down.is_set())
    deliveries = deliver(service)
    down.set()
    write(log, range(1, 11))
    told = []
    eventually(lambda: told.extend(deliveries.wake(10)) or told)
    (outage,) = told
    assert (outage.kind, outage.step) == ("tracker_outage", 10)
    assert outage.data == {"tracker": "t0", "cause": "log raised ConnectionError: gone"}
    log.event(outage.as_dict())
    down.clear()
    close(deliveries, log)
    assert steps(service) == list(range(1, 11))
    assert [row["event"] for row in service.events] == ["tracker_outage", "tracker_recovered"]
    assert service.events[1]["replayed"] == 11


def test_a_call_that_hangs_holds_up_nobody_and_is_told(log, service, deliver, monkeypatch, caplog):
    monkeypatch.setattr("ampguard.tracking._outages.HANG_S", 0.05)
    with hanging(service, "_log"):
        deliveries = deliver(service)
        write(log, range(1, 6))
        told = []
        eventually(lambda: told.extend(deliveries.wake(5)) or told)
        assert told[0].data["cause"].startswith("log has not returned")
        assert caplog.text.count("WARNING") == 1
    close(deliveries, log)
    assert steps(service) == [1, 2, 3, 4, 5]
    assert [row["event"] for row in service.events] == ["tracker_recovered"]


def test_new_rows_do_not_cut_the_wait_for_the_next_try_short_and_the_end_does(log, service, deliver, monkeypatch):
    monkeypatch.setattr(_delivery, "FIRST_RETRY_S", 2 * SOON_S)
    monkeypatch.setattr(_delivery, "LAST_RETRY_S", 2 * SOON_S)
    calls = fails(service, "_log", lambda n: n == 1)
    deliveries = deliver(service)
    for step in range(1, 21):
        write(log, [step])
        deliveries.wake(step)
        time.sleep(0.005)
    eventually(lambda: calls)
    assert len(calls) == 1
    close(deliveries, log)
    assert steps(service) == list(range(1, 21))


def test_one_trackers_outage_is_not_anothers(log, service, deliver):
    class Other(Kept):
        started, rows, events, finished = [], [], [], []

    with hanging(service, "start"):
        deliveries = deliver(service, Other)
        write(log, [1, 2])
        deliveries.wake(2)
        eventually(lambda: steps(Other) == [1, 2])
    close(deliveries, log)
    assert steps(service) == [1, 2]


@pytest.mark.parametrize("name", ["start", "_log", "finish"])
def test_the_wait_at_the_end_is_bounded_and_says_what_is_missing(log, service, deliver, caplog, name, tmp_path):
    with hanging(service, name):
        deliveries = deliver(service)
        write(log, range(1, 5))
        began = time.monotonic()
        close(deliveries, log, timeout_s=0.2)
        assert time.monotonic() - began < SOON_S / 2
        missing = "only its end" if name == "finish" else "4 rows, 0 events"
        assert f" s: t0 ({missing}). Later: ampguard track {tmp_path} --to t0" in caplog.text
        assert stuck()
    eventually(lambda: not stuck())


def test_who_waits_is_told_once_for_what_and_how_long(log, service, deliver, caplog, monkeypatch):
    monkeypatch.setattr(_deliveries, "TELL_WAIT_S", 0.0)
    with hanging(service, "start"), caplog.at_level(logging.INFO, "ampguard.tracking.wait"):
        deliveries = deliver(service)
        write(log, range(1, 5))
        close(deliveries, log, timeout_s=0.5)
    said = [message for message in caplog.messages if message.startswith("waiting")]
    assert said == ["waiting for t0 (in start; 4 rows, 0 events to go); at most 0.5 s, Ctrl-C ends it"]


def test_who_does_not_want_to_wait_does_not(log, service, deliver, caplog):
    with hanging(service, "_log"):
        deliveries = deliver(service)
        write(log, [1])
        deliveries.finish({}, step=1, timeout_s=10 * SOON_S, tell=lambda event: None, hurried=lambda: True)
    assert "1 row, 0 events" in caplog.text


def test_what_a_call_delivers_after_the_end_is_not_noted_down(log, service, deliver, tmp_path):
    """Another process may have delivered it meanwhile, and stands further."""
    with hanging(service, "_log"):
        deliveries = deliver(service)
        write(log, [1])
        close(deliveries, log, timeout_s=0.1)
        other = HighWater.of(tmp_path, "t0")
        other.step, other.events = 3, 5
        other.save()
    eventually(lambda: not stuck())
    mark = HighWater.of(tmp_path, "t0")
    assert (mark.step, mark.events) == (3, 5) and steps(service) == [1]


def test_a_second_process_goes_on_where_the_first_stood(log, service, deliver):
    first = deliver(service)
    write(log, [1, 2])
    log.event({"event": "checkpoint", "step": 2, "message": "m"})
    close(first, log)
    write(log, [3])
    log.event({"event": "checkpoint", "step": 3, "message": "m"})
    second = deliver(service)
    close(second, log)
    assert steps(service) == [1, 2, 3] and [row["step"] for row in service.events] == [2, 3]
    assert [previous for _, previous in service.started] == [{}, {"run": "7"}]


def test_a_resumed_run_sends_nothing_twice(log, service, deliver, tmp_path):
    first = deliver(service)
    for step in range(1, 6):
        write(log, [step])
        log.event({"event": "skip", "step": step, "message": "overflow"})
    close(first, log)
    lower_marks(tmp_path, last_step=3)
    log.truncate_after(3)
    log.event({"event": "resumed", "step": 3, "message": "m"})
    for step in range(4, 8):
        write(log, [step])
        log.event({"event": "skip", "step": step, "message": "overflow"})
    second = deliver(service)
    close(second, log)
    assert steps(service) == [1, 2, 3, 4, 5, 6, 7]
    assert [(row["event"], row["step"]) for row in service.events] == [
        *(("skip", step) for step in range(1, 6)), ("resumed", 3), ("skip", 6), ("skip", 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("held", "sent"), [(None, [3, 4, 5]), (4, [5]), (5, []), (1, [2, 3, 4, 5]), (0, [1, 2, 3, 4, 5])]
)
def test_what_the_service_says_it_holds_goes_before_the_mark(log, service, deliver, tmp_path, held, sent):
    mark = HighWater.of(tmp_path, "t0")
    mark.step = 2
    mark.save()
    service.held = lambda self: held
    write(log, range(1, 6))
    close(deliver(service), log)
    assert steps(service) == sent


def test_a_row_whose_answer_was_lost_is_not_sent_twice(log, service, deliver):
    original = service._log

    def lost(self, row):
        original(self, row)
        if row["step"] == 2 and steps(service).count(2) == 1:
            raise TimeoutError("no answer")

    service._log = lost
    service.held = lambda self: max(steps(service), default=0)
    deliveries = deliver(service)
    write(log, range(1, 5))
    close(deliveries, log)
    assert steps(service) == [1, 2, 3, 4]


def test_a_row_that_no_tracker_can_take_holds_up_nothing(log, service, deliver, tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "A B": 1}\n{"step": 2, "a": "x"}\n{"step": 3, "a": 1.0}\n')
    close(deliver(service), log)
    assert steps(service) == [3] and "characters outside" in caplog.text


def test_rows_that_waited_for_a_disk_come_through_in_order(tmp_path, service, deliver):
    log = RunLog(tmp_path)
    deliveries = deliver(service)
    write(log, [1])
    deliveries.wake(1)
    eventually(lambda: steps(service) == [1])
    (tmp_path / "metrics.jsonl").rename(tmp_path / "aside")
    (tmp_path / "metrics.jsonl").mkdir()
    write(log, [2, 3])
    deliveries.wake(3)
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "aside").rename(tmp_path / "metrics.jsonl")
    write(log, [4])
    close(deliveries, log)
    assert steps(service) == [1, 2, 3, 4]


def test_a_missing_package_is_refused_and_a_broken_one_is_told_once(log, service, tmp_path, monkeypatch, caplog):
    def missing(run_dir):
        raise MissingExtraError("service", "service", "the tracker")

    def broken(run_dir):
        raise AttributeError("partially initialized module")

    monkeypatch.setattr(_deliveries, "find_tracker", {"missing": missing, "broken": broken, "fine": service}.get)
    with pytest.raises(MissingExtraError, match="pip install"):
        Deliveries(("fine", "missing"), tmp_path)
    deliveries = Deliveries(("broken", "fine"), tmp_path)
    deliveries.start(FACTS)
    write(log, [1])
    (event,) = deliveries.wake(1)
    assert event.data["cause"] == "it cannot be made: AttributeError: partially initialized module"
    assert deliveries.wake(2) == [] and caplog.text.count("WARNING") == 1
    close(deliveries, log)
    assert steps(service) == [1]
    assert f"ampguard track {tmp_path} --to broken" in caplog.text


def test_a_constructor_lets_keyboard_interrupt_pass(tmp_path, monkeypatch):
    def interrupted(run_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr(_deliveries, "find_tracker", lambda name: interrupted)
    with pytest.raises(KeyboardInterrupt):
        Deliveries(("service",), tmp_path)


def test_two_trackers_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_deliveries, "find_tracker", lambda name: Kept)
    with pytest.raises(ConfigError, match="two trackers have one name"):
        Deliveries(("a/mine.py:T", "b/mine.py:T"), tmp_path)


def test_a_replay_leaves_the_interpreter_to_the_loop(log, service, deliver):
    """Thousands of rows that wait are sent at 1 % of a core while the run goes on, and at once when it is over."""
    write(log, range(1, 3001))
    deliveries = deliver(service)
    eventually(lambda: service.rows)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25
    assert len(service.rows) < 3000
    close(deliveries, log)
    assert steps(service) == list(range(1, 3001))
