import pytest

from ampguard.benchmarking.budget import MIN_STEPS, plan_parity

ASKED = {"step_s": 0.1, "evaluation_s": 0.5, "runs_per_seed": 2, "seeds": 5, "steps": 200, "fixed": False}


def plan(**changes):
    return plan_parity(**{**ASKED, **changes})


def test_with_time_everything_asked_for_is_planned():
    found = plan(seconds=600.0)
    assert (found.seeds, found.steps, found.reason) == (5, 200, "")


@pytest.mark.parametrize("seconds", [20.0, 40.0, 80.0, 120.0])
def test_what_is_planned_fits_into_the_time(seconds):
    found = plan(seconds=seconds)
    assert found.seeds
    assert found.seeds * (found.steps * 0.1 + 2 * (0.5 + 0.5)) <= seconds


def test_steps_give_way_before_seeds_and_not_below_what_says_anything():
    assert plan(seconds=60.0).seeds == 5
    assert plan(seconds=60.0).steps < 200
    fewer = plan(seconds=20.0)
    assert fewer.seeds < 5
    assert fewer.steps >= MIN_STEPS
    assert "of 5 seeds" in fewer.reason


def test_steps_that_were_asked_for_never_give_way():
    found = plan(seconds=100.0, fixed=True)
    assert (found.seeds, found.steps) == (3, 200)
    assert plan(seconds=50.0, fixed=True).seeds == 0


def test_no_time_is_no_parity_with_the_reason():
    found = plan(seconds=-3.0)
    assert found.seeds == 0
    assert "the 0 s left do not hold 3 runs" in found.reason


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_than_a_verdict_needs_are_bound_by_the_budget_too(seeds):
    assert plan(seconds=600.0, seeds=seeds).seeds == seeds
    assert plan(seconds=5.0, seeds=seeds, fixed=True).seeds == 0


def test_a_step_without_time_does_not_divide():
    assert plan(seconds=60.0, step_s=0.0).steps == 200


def test_seeds_that_are_trained_already_cost_nothing():
    assert plan(seconds=0.0, fixed=True, finished=5).seeds == 5
    assert plan(seconds=0.0, fixed=True, finished=2).seeds == 2
    assert plan(seconds=60.0, fixed=True, finished=3).seeds == 5
