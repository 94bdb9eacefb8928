import json

from ampguard.reporting import as_dict
from ampguard.reporting.lanes import make_lanes, outages, span_of
from ampguard.reporting.run import read_runs


def events_of(make_run, *events):
    (run,) = read_runs([make_run(events=list(events))])
    return run


def outage(step, tracker="mlflow"):
    return {"event": "tracker_outage", "step": step, "message": "x", "tracker": tracker}


def recovery(step, tracker="mlflow"):
    return {"event": "tracker_recovered", "step": step, "message": "x", "tracker": tracker}


def test_what_went_wrong_stands_first_and_is_told_by_its_steps(make_run):
    (run,) = read_runs([make_run()])
    lanes = make_lanes(run, span_of([run]))
    assert [(lane.kind, lane.count, lane.tone) for lane in lanes] == [
        ("tracker_outage", 1, "bad"),
        ("skip", 7, "odd"),
        ("fallback", 1, "news"),
        ("checkpoint", 1, "good"),
        ("tracker_recovered", 1, "good"),
    ]
    assert "skip: 7 events, at step 1, 2, 3, 4, 5, 6, 7</title>" in lanes[1].figure


def test_a_kind_that_this_version_does_not_know_has_a_lane_too(make_run):
    run = events_of(make_run, {"event": "eclipse", "step": 5, "message": "dark"})
    (lane,) = make_lanes(run, (0, 10))
    assert (lane.kind, lane.tone) == ("eclipse", "news")


def test_an_outage_lasts_until_its_own_trackers_recovery(make_run):
    run = events_of(make_run, outage(10), outage(20, "wandb"), recovery(30, "wandb"), recovery(40), outage(50))
    assert outages(run.events, 60) == [(10, 40), (20, 30), (50, 60)]
    (lane, _) = make_lanes(run, (0, 60))
    assert lane.figure.count('class="span"') == 3


def test_the_timeline_reaches_from_zero_over_every_row_and_event(make_run):
    run = events_of(make_run, {"event": "early_stop", "step": 75, "message": "x"})
    assert span_of([run]) == (0, 75)
    empty = read_runs([make_run("empty", rows=[], events=[])])
    assert span_of(empty) == (0, 1)


def test_an_event_with_a_number_that_json_lacks_is_told_as_text(make_run):
    run = events_of(make_run, {**outage(3), "odd": float("inf")})
    (told,) = json.loads(json.dumps(as_dict([run]), allow_nan=False))["runs"][0]["events"]["listed"]
    assert told == {"event": "tracker_outage", "step": 3, "message": "x", "tracker": "mlflow", "odd": "inf"}
