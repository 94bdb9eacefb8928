import shlex

from ampguard.run_folder import train_command


def test_a_command_has_the_options_of_the_task_as_a_shell_takes_them():
    command = train_command({"target": "my tasks.py:build", "options": {"hidden_size": 4, "wide": True, "deep": False}})
    assert command == "ampguard train 'my tasks.py:build' --task.hidden-size 4 --task.wide --task.no-deep"
    assert shlex.split(command)[2] == "my tasks.py:build"


def test_a_task_that_was_given_in_python_leaves_a_place_for_its_name():
    assert train_command({"name": "points"}) == "ampguard train PATH:build"
