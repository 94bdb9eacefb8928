import pytest

from ampguard.errors import ConfigError
from ampguard.tracking import NullTracker, Tracker, find_tracker, make_tracker, tracker_names
from ampguard.tracking._find import label

SOURCE = """
from ampguard.tracking import NullTracker, Tracker

class Mine(NullTracker):
    pass

class _Base(NullTracker):
    pass

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_tracker.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", tracker_names())
def test_a_member_is_found_by_its_place_and_imports_nothing_yet(name):
    tracker = find_tracker(name)
    assert issubclass(tracker, Tracker) and tracker.__module__ == f"ampguard.tracking.{name}"


def test_the_members_are_the_public_modules():
    assert tracker_names() == ("mlflow", "tensorboard", "trackio", "wandb")


def test_an_unknown_tracker_lists_the_names_and_the_close_one():
    with pytest.raises(ConfigError, match="Did you mean 'wandb'") as caught:
        find_tracker("wandbb")
    assert caught.value.allowed == tracker_names()


def test_a_class_of_the_users_own_is_found_by_file(file, tmp_path):
    tracker = make_tracker(f"{file}:Mine", tmp_path)
    assert isinstance(tracker, NullTracker) and type(tracker).__name__ == "Mine"
    assert find_tracker(f"{file}:Mine") is type(tracker)


def test_a_class_of_the_users_own_is_found_by_module(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert find_tracker("my_tracker:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.py:Mine", "No such file"),
        ("nowhere:Mine", "No module named"),
        ("{file}:Mime", "Allowed: Mine"),
        ("{file}:number", "Allowed: Mine"),
        (":", "cannot be imported"),
    ],
)
def test_a_class_that_is_not_there_is_told_with_what_is(file, name, words):
    with pytest.raises(ConfigError) as caught:
        find_tracker(name.format(file=file))
    assert words in str(caught.value)


def test_a_file_that_raises_is_told_with_its_cause(file):
    file.write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError: division by zero"):
        find_tracker(f"{file}:Mine")


def test_a_label_is_a_file_name_wherever_the_tracker_was_named_from():
    assert label("wandb") == "wandb"
    assert label("/a/b/mine.py:Mine") == label("mine.py:Mine") == "mine.Mine"
    assert label("package.module:Mine") == "package.module.Mine"
