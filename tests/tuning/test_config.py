import pytest

from ampguard.errors import ConfigError
from ampguard.tuning.config import TuneConfig, make_config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"trials": True}, "trials is True"),
        ({"workers": 1.5}, "workers is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"timeout": "soon"}, "timeout is 'soon'"),
        ({"direction": "up"}, "direction 'up' is unknown"),
        ({"pruner": "medain"}, "pruner 'medain' is unknown"),
        ({"trails": 3}, "tune has no option 'trails'"),
    ],
)
def test_a_value_that_no_search_could_mean_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(options)


def test_a_name_that_is_nearly_right_is_told():
    with pytest.raises(ConfigError) as caught:
        make_config({"trails": 3})
    assert caught.value.hint == "Did you mean 'trials'?"


def test_a_space_may_be_a_text_texts_or_a_mapping():
    texts = ("lr=log:1e-3:1", "schedule=cosine,linear", "task.wide=true,false")
    mapping = {"lr": "log:1e-3:1", "schedule": ["cosine", "linear"], "task.wide": [True, False]}
    assert make_config({"space": mapping}).space == texts
    assert make_config({"space": list(texts)}).space == texts
    assert make_config({"space": texts[0]}).space == texts[:1]


def test_none_is_not_given():
    assert make_config({"space": None, "track": None, "steps": None, "out": None}) == TuneConfig()


def test_what_is_written_is_read_back_as_the_same():
    config = make_config({"space": "lr=0.1:1", "out": "study", "timeout": "1m", "track": ["wandb"]})
    assert make_config(config.as_dict()) == config
