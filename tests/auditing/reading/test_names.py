"""What names stand for: aliases, scopes, fallbacks, re-exports; and which function of the project a call runs."""

import ast

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source


def project(files):
    return Project({name: Source(name, text) for name, text in files.items()}, AuditConfig())


def module(text, name="m.py"):
    return project({name: text}).module(name)


def last_call(mod):
    """Return the call in the last statement of a file."""
    return next(node for node in ast.walk(mod.root.body[-1]) if isinstance(node, ast.Call))


@pytest.mark.parametrize(
    ("text", "dotted"),
    [
        ("import torch\ntorch.cuda.amp.GradScaler()", ("torch.cuda.amp.GradScaler",)),
        ("import torch.cuda.amp as A\nA.GradScaler()", ("torch.cuda.amp.GradScaler",)),
        ("from torch.cuda import amp\namp.GradScaler()", ("torch.cuda.amp.GradScaler",)),
        ("from torch.amp import GradScaler as S\nS()", ("torch.amp.GradScaler",)),
        ("import torch\nS = torch.amp.GradScaler\nS()", ("torch.amp.GradScaler",)),
        (
            "from functools import partial\nfrom torch import autocast\nA = partial(autocast, 'cuda')\nA()",
            ("torch.autocast",),
        ),
        (
            "try:\n  from torch.amp import S\nexcept ImportError:\n  from torch.cuda.amp import S\nS()",
            ("torch.amp.S", "torch.cuda.amp.S"),
        ),
        ("from a import x\nfrom b import y\nz = x if c else y\nz()", ("a.x", "b.y")),
        ("print(1)", ("print",)),
        ("def g(): pass\ng()", ("g",)),
        ("x = x\nx()", ()),
        ("import a\ndef f(a):\n  a.b()", ()),
        ("import a\nclass C:\n  a = 1\n  def f(self):\n    a.b()", ("a.b",)),
    ],
)
def test_a_name_stands_for_what_it_was_bound_to(text, dotted):
    mod = module(text)
    call = mod.tree.all(ast.Call)[-1]
    assert mod.names.dotted(call.func) == dotted


@pytest.mark.parametrize(
    ("name", "line", "dotted"),
    [
        ("pkg/sub/m.py", "from . import x", "pkg.sub.x"),
        ("pkg/sub/m.py", "from ..other import x", "pkg.other.x"),
        ("pkg/sub/__init__.py", "from .m import x", "pkg.sub.m.x"),
    ],
)
def test_relative_imports_start_from_the_package(name, line, dotted):
    files = {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", name: f"{line}\nx()"}
    mod = project(files).module(name)
    assert mod.names.dotted(last_call(mod).func) == (dotted,)


CLASSES = """
class Base:
    def run(self): pass

class Own(Base):
    def __init__(self): self.tool = Tool()
    def go(self): pass

class Tool:
    def __call__(self, x): pass
    def cut(self): pass
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("def f(): pass\nf()", "f"),
        ("Own()", "Own.__init__"),
        ("own = Own()\nown.go()", "Own.go"),
        ("own = Own()\nown.run()", "Base.run"),
        ("tool = Tool()\ntool(1)", "Tool.__call__"),
        ("unknown.go()", None),
        ("def f(own):\n  own.go()", None),
    ],
)
def test_a_call_leads_to_the_function_that_it_runs(line, found):
    mod = module(CLASSES + line)
    place = target(mod, mod.tree.all(ast.Call)[-1])
    assert (place and mod.tree.qualname(place[1])) == found


def test_a_call_on_self_and_its_attributes_is_followed():
    mod = module(CLASSES + "class Sub(Own):\n  def more(self):\n    self.run()\n    super().go()\n")
    calls = [c for c in mod.tree.all(ast.Call) if isinstance(c.func, ast.Attribute)]
    assert [mod.tree.qualname(target(mod, c)[1]) for c in calls] == ["Base.run", "Own.go"]


FILES = {
    "app/train.py": "from utils import step\nfrom lib import clip\nfrom lib.core import Box as B\n"
    "step()\nclip()\nbox = B()\nbox.cut()",
    "app/utils.py": "def step(): pass",
    "src/lib/__init__.py": "from .core import clip",
    "src/lib/core.py": "from .deep import clip\nclass Box:\n  def cut(self): pass",
    "src/lib/deep.py": "def clip(): pass",
}


def test_imports_are_followed_to_neighbours_packages_and_through_re_exports():
    mod = project(FILES).module("app/train.py")
    step, clip, cut = (c for c in mod.tree.all(ast.Call) if not isinstance(c.func, ast.Name) or c.func.id != "B")
    found = [target(mod, call) for call in (step, clip, cut)]
    assert [(p[0].path, p[1].name) for p in found[:2]] == [("app/utils.py", "step"), ("src/lib/deep.py", "clip")]


def test_a_file_without_the_words_is_not_parsed():
    asked = project(FILES)
    mod = asked.module("app/train.py")
    assert target(mod, mod.calls["step"][0], ("backward(",)) is None
    assert "app/utils.py" not in asked._kept
    assert target(mod, mod.calls["step"][0]) is not None


def test_a_circle_of_imports_ends():
    files = {"a.py": "from b import f\nf()", "b.py": "from a import f"}
    mod = project(files).module("a.py")
    assert target(mod, mod.calls["f"][0]) is None


def test_a_package_at_the_root_has_a_name():
    assert project({"__init__.py": "", "m.py": "", "sub/__init__.py": ""}).dotted("m.py") == "m"


def test_bindings_know_their_scope_and_order():
    mod = module("x = 1\ndef f(x, *rest, k=2):\n  with a as x: pass\n  for y, (z, *w) in b: x += y\n  (v := 3)\n")
    bound = mod.names.bindings_in(mod.functions[0])
    assert {name: [b.kind for b in found] for name, found in bound.items()} == {
        "x": ["parameter", "with", "other"],
        "k": ["parameter"],
        "rest": ["parameter"],
        "y": ["loop"],
        "z": ["loop"],
        "w": ["other"],
        "v": ["assign"],
    }
    assert list(mod.names.bindings_in(mod.root)) == ["x", "f"]
