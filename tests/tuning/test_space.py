from inspect import Parameter as Argument

import pytest

from ampguard.errors import ConfigError
from ampguard.tuning.space import Choice, Range, ends_of, is_within, parse_space, split_params

OPTIONS = {
    "width": Argument("width", Argument.KEYWORD_ONLY, default=8, annotation=int),
    "size": Argument("size", Argument.KEYWORD_ONLY, default="1"),
}


def parsed(*texts):
    return parse_space(texts, OPTIONS)


def test_each_spelling_is_what_it_says():
    assert parsed("lr=log:1e-5:1e-2", "weight_decay=0:0.3", "batch-size=log-int:16:256", "schedule=cosine,linear") == (
        Range(name="lr", low=1e-5, high=1e-2, log=True),
        Range(name="weight_decay", low=0.0, high=0.3),
        Range(name="batch_size", low=16.0, high=256.0, log=True, whole=True),
        Choice(name="schedule", values=("cosine", "linear")),
    )


def test_a_range_of_an_option_that_is_whole_is_whole_without_saying_so():
    assert [parameter.whole for parameter in parsed("warmup_steps=0:9", "task.width=4:8", "lr=1:2")] == [
        True,
        True,
        False,
    ]


def test_values_that_are_texts_stay_texts():
    (size,) = parsed("task.size=1,2")
    assert size.values == ("1", "2")
    (precision,) = parsed("precision=16,32")
    assert precision.values == ("16", "32")


def test_what_is_printed_is_read_back_as_the_same():
    texts = ("lr=log:1.2345678901234e-5:0.01", "task.width=int:4:8", "ema=0.9,0.99", "schedule=cosine,linear")
    assert parsed(*map(str, parsed(*texts))) == parsed(*texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr=log:1e-2:1e-5", "low 0.01 is above high 1e-05"),
        ("lr=log:0:1", "a log scale cannot reach 0"),
        ("lr=log:-1:1", "a log scale cannot reach -1"),
        ("lr=0:inf", "no finite range"),
        ("lr=0:1:2", "is no range"),
        ("lr=logg:1:2", "is no range"),
        ("lr=a:b", "'a' is no number"),
        ("lr=", "is not NAME=RANGE"),
        ("lr", "is not NAME=RANGE"),
        ("lr=,", "must hold different values"),
        ("schedule=cosine,cosine", "must hold different values"),
        ("batch_size=int:1:2.5", "no range of integers"),
        ("seed=0:9", "where or how long a run runs"),
        ("task.nothing=1,2", "unknown"),
    ],
)
def test_a_space_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parsed(text)


def test_an_unknown_name_says_which_one_was_meant():
    with pytest.raises(ConfigError) as caught:
        parsed("wieght_decay=0:1")
    assert caught.value.hint == "Did you mean 'weight_decay'?"
    assert "task.width" in caught.value.allowed


def test_a_name_given_twice_is_refused():
    with pytest.raises(ConfigError, match="lr twice"):
        parsed("lr=0.1:1", "lr=1,2")


def test_both_ends_are_within():
    (width,) = parsed("task.width=4:8")
    assert ends_of(width) == (4, 8)
    assert [is_within(value, width) for value in (3, 4, 8, 9, "4", True)] == [False, True, True, False, False, False]


def test_options_of_the_task_are_told_from_those_of_train():
    assert split_params({"lr": 1, "task.width": 2}) == ({"lr": 1}, {"width": 2})
