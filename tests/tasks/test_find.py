"""Claims about finding Tasks: by name, module or file, with errors that say what to do."""

import inspect
import pickle
import subprocess
import sys
import traceback
from typing import Literal

import pytest

from ampguard.errors import MissingExtraError, TaskError
from ampguard.task import Task
from ampguard.tasks import builtin_names, find_task

GOOD = """
import torch
from typing import Literal
from ampguard import Task
{imports}
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

def build(width: int = 3, kind: Literal["a", "b"] = "a") -> Task:
    {inside}
    return Task(model=Net, loss=max, train_data=[width], name="mine")

def other(needed: float):
    return Task(model=Net, loss=max, train_data=[needed], name="other")

def any_option(**options):
    return Task(model=Net, loss=max, train_data=[options], name="any")

def forgetful():
    Net()

def broken():
    return {{}}["absent"]

not_a_function = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a Task file in a folder of its own, makes that the current one, and returns its path."""
    monkeypatch.chdir(tmp_path)
    before = sys.path.copy()

    def write(name: str = "my_task.py", *, text: str = GOOD, imports: str = "", inside: str = "pass"):
        path = tmp_path / name
        path.write_text(text.format(imports=imports, inside=inside) if text is GOOD else text)
        return path

    yield write
    assert sys.path == before


def test_the_built_in_tasks_are_found_by_place():
    assert builtin_names() == ("digits", "text")


def test_listing_names_imports_no_torch():
    code = "import sys, ampguard.tasks as t; t.builtin_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_are_builds_parameters_with_their_annotations():
    options = find_task("text").options
    assert list(options) == ["size", "context", "dropout"]
    assert options["size"].annotation == Literal["tiny", "small", "base"]
    assert options["context"].annotation == int | None
    assert [option.default for option in options.values()] == ["tiny", None, 0.0]
    assert not find_task("digits").options


@pytest.mark.parametrize("target", ["{path}", "{path}:build", "my_task.py", "my_task:build", "./my_task.py:build"])
def test_a_file_or_module_of_the_current_folder_builds_its_task(mine, target, monkeypatch):
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    builder = find_task(target.format(path=mine()))
    assert (builder.options["width"].annotation, builder.options["width"].default) == (int, 3)
    assert builder.options["kind"].annotation == Literal["a", "b"]
    task = builder(width=5)
    assert isinstance(task, Task)
    assert task.train_data == [5]
    sys.modules.pop("my_task", None)


@pytest.mark.parametrize("statement", ["import near; value = near.VALUE", "from .near import VALUE as value"])
@pytest.mark.parametrize("place", ["imports", "inside"])
def test_a_file_imports_its_neighbours(mine, statement, place, monkeypatch):
    monkeypatch.delitem(sys.modules, "near", raising=False)
    mine("near.py", text="VALUE = 7")
    assert find_task(str(mine(**{place: statement})))().name == "mine"
    sys.modules.pop("near", None)


def test_a_model_from_a_file_can_be_pickled(mine):
    path = mine()
    model = find_task(str(path))().model()
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    assert type(find_task(f"{path}:build")().model()) is type(model)


def test_a_changed_file_is_read_anew(mine):
    path = mine()
    assert find_task(str(path))().name == "mine"
    path.write_text(path.read_text().replace('name="mine"', 'name="changed"'))
    assert find_task(str(path))().name == "changed"


def test_an_unknown_task_gets_a_suggestion_and_the_list():
    with pytest.raises(TaskError, match=r"no Task 'txt'\. Allowed: digits, text\. Did you mean 'text'\?"):
        find_task("txt")
    with pytest.raises(TaskError, match="give PATH:build"):
        find_task("something.else.entirely")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("my_tsak.py", r"'my_tsak.py' does not exist\. Did you mean 'my_task.py'\?"),
        ("my_task.py:biuld", r"no function 'biuld' .*Allowed: any_option, .*Did you mean 'build'\?"),
        ("my_task.py:not_a_function", "no function 'not_a_function'"),
        ("no_such_module:build", "no module 'no_such_module'"),
        ("email.no_such:build", "no module 'email.no_such'"),
        (":build", "no Task ':build'"),
        ("some/place:build", "no Task 'some/place:build'"),
    ],
)
def test_what_does_not_exist_is_named(mine, target, said):
    mine()
    with pytest.raises(TaskError, match=said):
        find_task(target)


def test_an_unknown_option_gets_a_suggestion(mine):
    path = mine()
    with pytest.raises(TaskError, match=r"no option 'widht'\. Allowed: width, kind\. Did you mean 'width'\?"):
        find_task(str(path))(widht=3)
    with pytest.raises(TaskError, match="It takes no options"):
        find_task(f"{path}:forgetful")(width=3)
    with pytest.raises(TaskError, match=r"needs the option 'needed'\. Give it: --task\.needed VALUE"):
        find_task(f"{path}:other")()
    assert find_task(f"{path}:any_option")(whatever=1).train_data == [{"whatever": 1}]


def test_what_is_no_task_is_named_by_type(mine):
    with pytest.raises(TaskError, match=r"returned NoneType, not an ampguard\.Task"):
        find_task(f"{mine()}:forgetful")()


def files_of(error: BaseException) -> list[str]:
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize(
    ("imports", "function", "kind"),
    [("", "broken", KeyError), ("{}['absent']", "build", KeyError), ("raise SystemExit(2)", "build", SystemExit)],
)
def test_the_cause_shows_the_users_frames_and_not_ours(mine, imports, function, kind):
    path = mine(imports=imports)
    with pytest.raises(TaskError, match=f"raised {kind.__name__}") as caught:
        find_task(f"{path}:{function}")()
    assert type(caught.value.__cause__) is kind
    assert files_of(caught.value.__cause__) == [str(path)]


def test_a_module_that_raises_shows_the_users_frames_and_not_ours(mine):
    path = mine("raising_module.py", text="def deep():\n    import not_installed_at_all\ndeep()\n")
    with pytest.raises(TaskError, match="'raising_module' raised ModuleNotFoundError") as caught:
        find_task("raising_module:build")
    assert files_of(caught.value.__cause__) == [str(path)] * 2


def test_a_file_that_failed_can_be_repaired_and_leaves_no_module(mine):
    before = set(sys.modules)
    path = mine(text="def build(:\n")
    with pytest.raises(TaskError, match="raised SyntaxError"):
        find_task(str(path))
    assert not {name for name in set(sys.modules) - before if name.startswith("ampguard_task_")}


def test_an_input_error_from_build_is_passed_on_as_it_is(mine):
    text = "from ampguard.errors import MissingExtraError\ndef build():\n    raise MissingExtraError('x', 'y', 'z')\n"
    with pytest.raises(MissingExtraError):
        find_task(str(mine(text=text)))()


def test_annotations_that_cannot_be_resolved_stay_text(mine):
    text = "def build(x: 'Absent' = 1) -> 'Nowhere': ...\n"
    option = find_task(str(mine(text=text))).options["x"]
    assert (option.annotation, option.default) == ("Absent", 1)
    assert isinstance(option, inspect.Parameter)
