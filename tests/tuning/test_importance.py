import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from ampguard.tuning.importance import importance

UNIT = FloatDistribution(0, 1)


def study_of(*trials):
    """A study with complete trials of (value, parameters)."""
    study = optuna.create_study()
    for value, params in trials:
        study.add_trial(create_trial(value=value, params=params, distributions=dict.fromkeys(params, UNIT)))
    return study


@pytest.fixture(autouse=True)
def silent():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_the_parameter_that_decides_the_value_has_the_most():
    grid = [(x / 5, y / 5) for x in range(6) for y in range(6)]
    found = importance(study_of(*((x, {"x": x, "y": y}) for x, y in grid)), ["x", "y"], seed=0)
    assert found.method == "fANOVA"
    assert found.values["x"] > 0.9
    assert found.reason == ""


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([], "complete trials with every parameter: 0; it takes 2"),
        ([(1.0, {"x": 0.1})], "complete trials with every parameter: 1; it takes 2"),
        ([(1.0, {"x": 0.1}), (1.0, {"x": 0.2})], "all complete trials have the same value"),
        ([(1.0, {"x": 0.1}), (2.0, {"x": 0.1})], "no parameter has more than one value among the complete trials"),
    ],
)
def test_what_cannot_be_computed_says_why(trials, reason):
    found = importance(study_of(*trials), ["x"], seed=0)
    assert (found.values, found.reason) == (None, reason)


def test_a_constant_parameter_is_named():
    trials = [(value, {"x": value, "y": 0.5}) for value in (0.1, 0.4, 0.9)]
    found = importance(study_of(*trials), ["x", "y"], seed=0)
    assert set(found.values) == {"x"}
    assert found.reason == "constant among the complete trials, and so without one: y"


def test_a_default_that_lacks_a_parameter_does_not_hide_it():
    trials = [(0.3, {"y": 0.1}), *((x, {"x": x, "y": y}) for x, y in [(0.1, 0.9), (0.5, 0.2), (0.9, 0.4)])]
    assert set(importance(study_of(*trials), ["x", "y"], seed=0).values) == {"x", "y"}


def test_another_method_is_used_where_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setattr("ampguard.tuning.importance.find_spec", lambda name: None)
    trials = [(x, {"x": x, "y": y}) for x, y in [(0.1, 0.9), (0.5, 0.2), (0.9, 0.4), (0.3, 0.3)]]
    found = importance(study_of(*trials), ["x", "y"], seed=0)
    assert found.method == "PED-ANOVA"
    assert found.values is not None
