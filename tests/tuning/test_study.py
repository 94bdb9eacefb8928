"""The study without training: what is sampled, and what becomes of trials."""

import math

import pytest

from ampguard.errors import ConfigError
from ampguard.tuning import study as book
from ampguard.tuning.config import make_config
from ampguard.tuning.objective import Result
from ampguard.tuning.outcome import lost_in, records_of
from ampguard.tuning.plan import make_plan


@pytest.fixture
def plan(tiny):
    def call(**options):
        usual = {"space": ("lr=log:0.001:1", "batch_size=4:16"), "threads": 1, "pruner": "none"}
        return make_plan(tiny, {}, make_config({**usual, **options}))

    return call


def opened(plan, folder):
    folder.mkdir(exist_ok=True)
    study = book.open_study(plan, folder)
    book.enqueue_default(study, plan)
    return study


def run(study, plan, trials, *, fails_above=math.inf):
    """Run trials whose value is their distance from lr 0.03; return their parameters."""
    found = []
    for _ in range(trials):
        trial, params = book.begin(study, plan)
        value = abs(math.log(params["lr"] / 0.03))
        for validation in (1, 2):
            book.judge(trial, validation, value / validation)
        failed = params["lr"] > fails_above
        result = Result(state="failed", reason="planted") if failed else Result(state="complete", value=value)
        book.finish(study, trial, result)
        found.append(params)
    return found


def test_the_same_seed_gives_the_same_trials(plan, tmp_path):
    first, second = (run(opened(plan(), tmp_path / name), plan(), 25) for name in ("one", "two"))
    assert first == second
    assert len({str(params) for params in first}) == 25


def test_hyperband_does_not_depend_on_the_folders_name(plan, tmp_path):
    chosen = plan(pruner="hyperband", steps=30)
    first, second = (run(opened(chosen, tmp_path / name), chosen, 60) for name in ("one", "two"))
    assert first == second


def test_a_resumed_search_does_not_draw_again_what_it_drew(plan, tmp_path):
    run(opened(plan(), tmp_path / "study"), plan(), 4)
    again = opened(plan(resume=True), tmp_path / "study")
    run(again, plan(), 4)
    assert len({str(trial.params) for trial in again.trials}) == 8


def test_the_sampler_keeps_away_from_where_trials_fail(plan, tmp_path):
    """Most of the space fails; where it does not, the value does not tell the way."""
    chosen = plan(space=("lr=log:0.001:1",))
    study = opened(chosen, tmp_path / "study")
    early, late = ([params["lr"] > 0.05 for params in run(study, chosen, 20, fails_above=0.05)] for _ in range(2))
    assert sum(early) >= 5
    # Told nothing of failures (Optuna's failed state) it fails 20 times of 20.
    assert sum(late) <= 10


def test_a_lost_trial_is_run_again_with_its_parameters(plan, tmp_path):
    study, chosen = opened(plan(), tmp_path / "study"), plan()
    run(study, chosen, 1)
    trial, params = book.begin(study, chosen)
    assert book.try_again(study, trial.number, "its process ended", died=True)
    again, same = book.begin(study, chosen)
    assert (again.number, same) == (2, params)
    book.finish(study, again, Result(state="complete", value=1.0))
    assert [record.number for record in records_of(study)] == [0, 2]
    (lost,) = lost_in(study)
    assert (lost.number, lost.again_as, lost.reason) == (1, 2, "its process ended")


def test_the_default_stays_the_default_at_its_third_attempt(plan, tmp_path):
    chosen = plan(space=("lr=log:0.1:1", "batch_size=4:16"))
    study = opened(chosen, tmp_path / "study")
    for _ in range(2):
        trial, params = book.begin(study, chosen)
        assert params == {"batch_size": 8}
        book.try_again(study, trial.number, "gone", died=True)
    trial, params = book.begin(study, chosen)
    assert params == {"batch_size": 8}
    book.finish(study, trial, Result(state="complete", value=1.0))
    assert [record.is_default for record in records_of(study)] == [True]


def test_a_trial_that_kills_its_process_each_time_has_failed(plan, tmp_path):
    study, chosen = opened(plan(), tmp_path / "study"), plan()
    fates = []
    for _ in range(book.RETRIES + 1):
        trial, _ = book.begin(study, chosen)
        fates.append(book.try_again(study, trial.number, "it died", died=True))
    assert fates == [True, True, False]
    (record,) = records_of(study)
    assert (record.state, record.value, record.reason) == ("failed", None, "it died, and so 2 times more")
    assert record.is_default


def test_the_default_is_never_pruned(plan, tmp_path):
    chosen = plan(pruner="median", steps=10)
    study = opened(chosen, tmp_path / "study")
    default, _ = book.begin(study, chosen)
    run(study, chosen, 6)
    another, _ = book.begin(study, chosen)
    assert book.judge(another, 2, 1e9)
    assert not book.judge(default, 2, 1e9)


def test_an_interrupt_is_no_death(plan, tmp_path):
    study, chosen = opened(plan(), tmp_path / "study"), plan()
    for _ in range(5):
        trial, params = book.begin(study, chosen)
        assert params == chosen.default
        assert book.try_again(study, trial.number, "it was interrupted", died=False)


def test_a_result_that_was_written_before_the_process_died_counts_once(plan, tmp_path):
    study, chosen = opened(plan(), tmp_path / "study"), plan()
    trial, _ = book.begin(study, chosen)
    trial.set_user_attr(book.RESULT, Result(state="complete", value=0.5).as_dict())
    book.settle(study, "killed", died=True)
    (record,) = records_of(study)
    assert (record.number, record.state, record.value) == (0, "complete", 0.5)
    assert lost_in(study) == ()
    assert len(study.trials) == 1


def test_another_space_in_the_same_study_is_refused(plan, tmp_path):
    opened(plan(), tmp_path / "study")
    with pytest.raises(ConfigError, match="with another space"):
        book.open_study(plan(space=("lr=log:0.001:2",), resume=True), tmp_path / "study")
