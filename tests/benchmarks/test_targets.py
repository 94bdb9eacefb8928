"""What the issue promises is judged where it was measured, at the right end of the interval."""

import pytest

from loops import LOOPS, OURS, PEERS
from overhead import pairs
from paired import Ratio
from targets import TARGETS, judge, label


def judged(upper, lower, **ends):
    pair = ((upper, "fp32"), (lower, "fp32"))
    return judge("mlp", {pair: Ratio(blocks=9, **ends)})


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "ignite"])
def test_below_a_peer_is_the_upper_end(ours, peer):
    (fine,) = judged(ours, peer, low=0.8, median=0.9, high=0.99)
    (bad,) = judged(ours, peer, low=0.8, median=0.9, high=1.01)
    assert (fine["met"], bad["met"], bad["statistic"]) == (True, False, "high")


def test_level_with_ignite_is_an_interval_not_wholly_above_one():
    assert judged("ours", "ignite", low=0.99, median=1.01, high=1.02)[0]["met"]
    assert not judged("ours", "ignite", low=1.01, median=1.02, high=1.03)[0]["met"]


def test_only_what_was_measured_is_judged():
    assert judge("mlp", {}) == []


def test_every_target_of_the_mlp_has_its_ratio_among_those_taken():
    assert {target.pair for target in TARGETS if target.subject == "mlp"} <= set(pairs(LOOPS))


def test_each_ratio_is_taken_once_and_none_of_a_row_with_itself():
    taken = pairs(LOOPS)
    assert len(taken) == len(set(taken)) == len({label(pair) for pair in taken})
    assert all(upper != lower for upper, lower in taken)
