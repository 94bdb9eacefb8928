"""The public surface is frozen: a name comes or goes by a change of this file, and a verb stays a function.

A submodule that bears a verb's name would overwrite the function as soon as anything imports it.
"""

import ast
import subprocess
import sys
from pathlib import Path

import ampguard

SURFACE = (
    "AmpguardError",
    "Callback",
    "GradScaler",
    "Guard",
    "LossSum",
    "Sum",
    "Task",
    "__version__",
    "audit",
    "bench",
    "doctor",
    "load_model",
    "train",
    "tune",
)
"""Every public name, sorted. Exactly `ampguard.__all__`."""

VERBS = ("audit", "bench", "doctor", "train", "tune")
"""The verbs that exist today: functions in SURFACE."""

ALL_VERBS = ("audit", "bench", "doctor", "train", "tune")
"""The verbs of the design; no submodule may take one of these names."""


def modules() -> list[str]:
    """Return every module of the package by its dotted name, `__main__` apart, which runs when imported."""
    root = Path(ampguard.__file__).parent
    dotted = (".".join(path.relative_to(root.parent).with_suffix("").parts) for path in sorted(root.rglob("*.py")))
    return [name.removesuffix(".__init__") for name in dotted if not name.endswith(".__main__")]


def in_fresh_python(code: str) -> str:
    """Run code in a new interpreter, where no test has loaded a name yet; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_exactly_the_surface():
    assert tuple(sorted(ampguard.__all__)) == SURFACE
    assert len(ampguard.__all__) == len(SURFACE)


def test_dir_shows_the_surface_and_nothing_else():
    assert tuple(dir(ampguard)) == SURFACE


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(ampguard.__file__).read_text(encoding="utf-8"))
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    reexported = {alias.name for alias in aliases if alias.asname == alias.name}
    assert reexported == set(SURFACE) - {"__version__"}


def test_every_public_name_loads():
    for name in SURFACE:
        assert getattr(ampguard, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(ampguard, "no_such_name")


def test_no_submodule_takes_the_name_of_a_verb():
    children = {name.split(".")[1] for name in modules() if name != "ampguard"}
    assert not children & set(ALL_VERBS)


def test_names_survive_the_import_of_every_module():
    out = in_fresh_python(
        "import types; from importlib import import_module\n"
        f"for name in {modules()!r}: import_module(name)\n"
        "import ampguard\n"
        f"for name in {SURFACE!r}:\n"
        "    value = getattr(ampguard, name)\n"
        "    print(name, isinstance(value, types.ModuleType), isinstance(value, types.FunctionType))"
    )
    rows = {name: (module, function) for name, module, function in map(str.split, out.splitlines())}
    assert set(rows) == set(SURFACE)
    assert all(module == "False" for module, _ in rows.values()), rows
    assert {name for name, (_, function) in rows.items() if function == "True"} == {*VERBS, "load_model"}


def test_every_verb_that_exists_is_listed():
    assert set(VERBS) == set(ALL_VERBS) & set(ampguard.__all__)
