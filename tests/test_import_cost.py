"""`import ampguard` and the command line load no torch; the import loads nothing that is not Python's own.

How long it takes is a figure, not a test: benchmarks/import_cost.py.
"""

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a statement adds to those of a bare interpreter start."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def third_party(names: set[str]) -> set[str]:
    return names - sys.stdlib_module_names - {"ampguard"}


def test_import_loads_no_third_party_module():
    loaded = loaded_by("import ampguard")
    assert "ampguard" in loaded
    assert third_party(loaded) == set()


def test_listing_the_public_names_loads_no_third_party_module():
    assert third_party(loaded_by("import ampguard; dir(ampguard); ampguard.__version__")) == set()


@pytest.mark.parametrize("name", ["AmpguardError", "LossSum", "Task"])
def test_names_that_need_no_torch_load_none(name):
    assert third_party(loaded_by(f"from ampguard import {name}")) == set()


def test_command_line_loads_no_torch():
    loaded = loaded_by("import ampguard.cli.main")
    assert "ampguard" in loaded
    assert not loaded & {"torch", "numpy", "matplotlib", "sklearn"}


def test_the_check_sees_a_third_party_module():
    assert third_party(loaded_by("import pytest")) >= {"pytest"}
