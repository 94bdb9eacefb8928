import subprocess
import sys

import pytest

TRACKERS = ("wandb", "tensorboard", "mlflow", "trackio")

MAKE = (
    "import sys; from pathlib import Path; from ampguard.errors import MissingExtraError\n"
    "from ampguard.tracking import make_tracker\n"
    "name = sys.argv[1]; {prepare}\n"
    "try: make_tracker(name, Path())\n"
    "except MissingExtraError as error: print(error)\n"
    "except ImportError as error: print('half installed:', error)"
)

NOT_INSTALLED = (
    "\nclass Absent:\n"
    "    def find_spec(self, fullname, path=None, target=None):\n"
    "        if fullname.partition('.')[0] == name: raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Absent())\n"
)


def made(name, prepare):
    command = [sys.executable, "-c", MAKE.format(prepare=prepare), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_installed_is_told_with_its_install_line(name):
    assert made(name, NOT_INSTALLED) == (
        f"The tracker '{name}' needs the package '{name}', which is not installed. "
        f'Install it: pip install "ampguard[{name}]"\n'
    )


def test_a_package_that_lacks_a_part_of_its_own_is_not_called_missing(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text("import wandb.core_that_is_not_there")
    assert made("wandb", f"sys.path.insert(0, {str(tmp_path)!r})").startswith("half installed: No module named")


def test_a_folder_that_runs_left_is_not_the_package(tmp_path):
    """W&B leaves `wandb/` where a script ran, and Python imports any folder as an empty package."""
    (tmp_path / "wandb").mkdir()
    prepare = f"sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if 'site-packages' not in p)]"
    assert 'pip install "ampguard[wandb]"' in made("wandb", prepare)


def test_a_tracker_is_imported_without_its_package():
    code = (
        "import sys, ampguard.tracking.wandb, ampguard.tracking.tensorboard, ampguard.tracking.mlflow\n"
        f"import ampguard.tracking.trackio; print({{*{TRACKERS!r}, 'torch'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
