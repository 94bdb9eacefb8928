"""The house stands: imports point down only. The list of rooms below is the only one.

Every import statement counts, also under TYPE_CHECKING and inside a function, and so does `import_module` of a
literal name. Only the package's own `__init__.py` may name every room: it is lazy. What is not seen: an import
whose name is computed.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "ampguard"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

LAYERS = (
    ("errors",),
    ("records",),
    ("run_folder",),
    ("task",),
    ("hardware",),
    ("precision", "auditing", "tracking", "reporting"),
    ("engine", "dist"),
    ("health", "checkpointing"),
    ("tasks", "training"),
    ("benchmarking", "tuning", "integrations", "loading", "replaying", "testing"),
    ("cli",),
    ("__main__",),
)
"""Bottom to top. Rooms on one line never import each other; a module belongs to the room it lies in."""

TORCH_FREE = (
    "errors",
    "records",
    "run_folder",
    "task",
    "hardware",
    "auditing",
    "tracking",
    "reporting",
    "testing",
    "cli",
)
"""Rooms that can be imported where torch is not installed."""

TORCH = ("torch.", "torchao.", "torchvision.", "safetensors.torch.")

HEIGHT = {room: height for height, line in enumerate(LAYERS) for room in line}


def rooms_in(source: Path) -> dict[str, list[Path]]:
    """Return the modules of each room under `source`: {"errors": [errors.py], "engine": [engine/guard.py, ...]}."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.py")):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        if room != "__init__":
            rooms.setdefault(room, []).append(path)
    return rooms


def package_of(path: Path, source: Path) -> str:
    """Return the package that relative imports of the file start from: engine/guard.py -> "ampguard.engine"."""
    return ".".join((PACKAGE, *path.relative_to(source).parts[:-1]))


def imported(node: ast.AST, package: str) -> list[str]:
    """Return the dotted names that one node imports; `from a import b` gives "a.b"."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return literal_import(node)


def literal_import(node: ast.AST) -> list[str]:
    """Return the name in `import_module("name")`, `importlib.import_module("name")` or `__import__("name")`."""
    match node:
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def layer_fault(room: str, name: str) -> str | None:
    """Return why `room` may not import the dotted `name`, or None."""
    parts = name.split(".")
    if parts[0] != PACKAGE or parts[1:] == ["__version__"]:
        return None
    other = parts[1] if len(parts) > 1 else ""
    if other not in HEIGHT:
        return f"imports {name!r} through the package root; import it from the room it lives in"
    if other != room and HEIGHT[other] > HEIGHT[room]:
        return f"imports {other}, which stands above {room}"
    if other != room and HEIGHT[other] == HEIGHT[room]:
        return f"imports {other}, which stands on the same line as {room}: they meet as arguments, above"
    return None


def layer_faults(text: str, room: str, package: str) -> list[str]:
    """Return every import in the source that the layers forbid, each with its line."""
    nodes = [(node, name) for node in ast.walk(ast.parse(text)) for name in imported(node, package)]
    faults = ((node, layer_fault(room, name)) for node, name in nodes)
    return [f"line {node.lineno}: {fault}" for node, fault in faults if fault]


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when the module is imported: not function bodies, not `if TYPE_CHECKING`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children: Iterator[ast.AST] = iter(node.orelse)
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from run_at_import(child)


def torch_faults(text: str, package: str) -> list[str]:
    """Return every import of torch, or of what needs it, that runs when the module is imported."""
    found = [(node, name) for node in run_at_import(ast.parse(text)) for name in imported(node, package)]
    return [f"line {n.lineno}: imports {name} at module level" for n, name in found if f"{name}.".startswith(TORCH)]


def test_every_room_is_on_the_list():
    unlisted = sorted(set(rooms_in(SOURCE)) - set(HEIGHT))
    assert not unlisted, f"{unlisted}: decide where they stand and add them to LAYERS"


def test_a_room_stands_on_one_line_only():
    assert len(HEIGHT) == sum(len(line) for line in LAYERS)


@pytest.mark.parametrize("room", sorted(set(rooms_in(SOURCE)) & set(HEIGHT)))
def test_imports_point_down(room):
    faults = [
        f"{path.relative_to(SOURCE)} {fault}"
        for path in rooms_in(SOURCE)[room]
        for fault in layer_faults(path.read_text(encoding="utf-8"), room, package_of(path, SOURCE))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("room", sorted(set(rooms_in(SOURCE)) & set(TORCH_FREE)))
def test_torch_free_rooms_name_no_torch_at_module_level(room):
    faults = [
        f"{path.relative_to(SOURCE)} {fault}"
        for path in rooms_in(SOURCE)[room]
        for fault in torch_faults(path.read_text(encoding="utf-8"), package_of(path, SOURCE))
    ]
    assert not faults, "\n".join(faults)


def test_torch_free_rooms_import_where_torch_is_not_installed():
    paths = [path for room in TORCH_FREE for path in rooms_in(SOURCE).get(room, [])]
    dotted = (".".join((PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts)) for path in paths)
    modules = sorted(name.removesuffix(".__init__") for name in dotted)
    script = (
        f"import sys; sys.modules['torch'] = None\nfrom importlib import import_module\n"
        f"for name in {modules!r}: import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from ampguard.training import train", "imports training, which stands above engine"),
        ("import ampguard.training.loop as loop", "imports training, which stands above engine"),
        ("from ..training import loop", "imports training, which stands above engine"),
        ("from .. import cli", "imports cli, which stands above engine"),
        ("from ampguard import health", "imports health, which stands above engine"),
        ("def f():\n    import ampguard.cli.main", "imports cli, which stands above engine"),
        ("if TYPE_CHECKING:\n    from ampguard.training import Loop", "imports training, which stands above engine"),
        ("import_module('ampguard.cli')", "imports cli, which stands above engine"),
        ("importlib.import_module('ampguard.cli')", "imports cli, which stands above engine"),
        ("from ampguard.dist import agree", "imports dist, which stands on the same line as engine"),
        ("from ampguard import Guard", "imports 'ampguard.Guard' through the package root"),
        ("import ampguard", "imports 'ampguard' through the package root"),
        ("from ampguard.helpers import x", "imports 'ampguard.helpers.x' through the package root"),
    ],
)
def test_checker_sees_a_planted_import(source, fault):
    (found,) = layer_faults(source, "engine", "ampguard.engine")
    assert fault in found


@pytest.mark.parametrize(
    "source",
    [
        "from ampguard.errors import ConfigError",
        "from ampguard.precision import Policy",
        "from ampguard.engine.scale import Scale",
        "from .scale import Scale",
        "from ..records import Event",
        "from ampguard import __version__",
        "import torch, ampguards",
    ],
)
def test_checker_lets_a_good_import_pass(source):
    assert layer_faults(source, "engine", "ampguard.engine") == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch import Tensor",
        "from torch.nn import functional",
        "from safetensors.torch import save_file",
        "try:\n    import torch\nexcept ImportError:\n    torch = None",
        "class A:\n    import torch",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import torch",
    ],
)
def test_checker_sees_a_planted_torch(source):
    assert len(torch_faults(source, "ampguard.cli")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import torch",
        "if TYPE_CHECKING:\n    from torch import Tensor",
        "import torchlight",
        "from safetensors import safe_open",
    ],
)
def test_checker_lets_a_late_torch_pass(source):
    assert torch_faults(source, "ampguard.cli") == []


def test_checker_finds_an_unlisted_room(tmp_path):
    (tmp_path / "helpers").mkdir()
    for name in ("__init__.py", "doctor.py", "helpers/__init__.py"):
        (tmp_path / name).touch()
    assert set(rooms_in(tmp_path)) - set(HEIGHT) == {"doctor", "helpers"}
