"""What autocast regions say, through every way of saying it."""

import ast

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.precision import dtypes_of, region_around, regions_in, truth
from ampguard.auditing.reading.project import Project


@pytest.fixture
def module(tmp_path):
    """Return the module of a text."""

    def read(text):
        (tmp_path / "m.py").write_text("import torch\nfrom contextlib import nullcontext\n" + text, encoding="utf-8")
        return Project({"m.py": tmp_path / "m.py"}, AuditConfig()).module("m.py")

    return read


def last_value(module):
    """Return the right side of the last assignment."""
    return [n for n in module.root.body if isinstance(n, ast.Assign)][-1].value


@pytest.mark.parametrize(
    ("text", "dtypes"),
    [
        ("d = torch.float16", {"float16"}),
        ("d = torch.half", {"float16"}),
        ("d = 'bf16'", {"bfloat16"}),
        ("a = torch.bfloat16\nd = a", {"bfloat16"}),
        ("d = torch.float16 if x else torch.bfloat16", {"float16", "bfloat16"}),
        ("d = getattr(torch, 'float16')", {"float16"}),
        ("n = 'bfloat16'\nd = getattr(torch, n)", {"bfloat16"}),
        ("d = {'a': torch.float16, 'b': torch.float32}[x]", {"float16", "float32"}),
        ("t = {'a': torch.float16, 'b': torch.bfloat16}\nd = t[x]", {"float16", "bfloat16"}),
        ("d = dict(a=torch.half, b=torch.bfloat16)[x]", {"float16", "bfloat16"}),
        ("d = {'a': torch.half}.get(x, torch.float32)", {"float16", "float32"}),
        ("d = chosen()", {"unknown"}),
        ("d = config.dtype", {"unknown"}),
        ("d = None", {"float32"}),
    ],
)
def test_an_expression_leads_to_its_dtypes(module, text, dtypes):
    m = module(text)
    assert dtypes_of(m, last_value(m)) == dtypes


def test_a_parameter_is_unknown_whatever_its_default(module):
    m = module("def f(dtype=torch.float16):\n    return torch.autocast('cuda', dtype=dtype)\n")
    assert [r.certain for r in regions_in(m)] == ["unknown"]


@pytest.mark.parametrize(
    ("text", "device", "dtype", "enabled"),
    [
        ("r = torch.cuda.amp.autocast()", "cuda", "float16", True),
        ("r = torch.cuda.amp.autocast(False)", "cuda", "float16", False),
        ("r = torch.cuda.amp.autocast(True, torch.bfloat16)", "cuda", "bfloat16", True),
        ("r = torch.autocast('cuda')", "cuda", "float16", True),
        ("r = torch.autocast('cpu')", "cpu", "bfloat16", True),
        ("r = torch.autocast('cuda:1', torch.bfloat16)", "cuda", "bfloat16", True),
        ("r = torch.autocast('cuda', torch.float16, False)", "cuda", "float16", False),
        ("r = torch.autocast('cuda', dtype=None)", "cuda", "float16", True),
        ("r = torch.autocast(device.type)", "unknown", "unknown", True),
        ("r = torch.autocast('cuda', enabled=use_amp)", "cuda", "float16", None),
        ("on = True\nr = torch.autocast('cuda', enabled=on)", "cuda", "float16", True),
        ("from torch import autocast as ac\nr = ac('cuda', dtype=torch.half)", "cuda", "float16", True),
    ],
)
def test_a_region_is_read(module, text, device, dtype, enabled):
    (region,) = regions_in(module(text))
    assert (region.device, region.certain, region.enabled) == (device, dtype, enabled)


@pytest.mark.parametrize(
    ("context", "dtype", "enabled"),
    [
        ("torch.autocast('cuda') if amp else nullcontext()", "float16", None),
        ("nullcontext() if cpu else torch.autocast('cuda', dtype=torch.bfloat16)", "bfloat16", None),
        ("functools.partial(torch.autocast, 'cuda', dtype=torch.bfloat16)()", "bfloat16", True),
    ],
)
def test_a_context_that_a_name_stands_for_is_found(module, context, dtype, enabled):
    m = module(f"import functools\nctx = {context}\nwith ctx:\n    y = net(x)\n")
    region = region_around(m, m.root.body[-1].body[0].value)
    assert region is not None
    assert (region.certain, region.enabled) == (dtype, enabled)


def test_a_partial_keeps_its_arguments(module):
    text = "import functools\nac = functools.partial(torch.autocast, device_type='cuda', dtype=torch.bfloat16)\n"
    m = module(text + "with ac(enabled=True):\n    y = net(x)\n")
    region = region_around(m, m.root.body[-1].body[0].value)
    assert region is not None
    assert (region.device, region.certain) == ("cuda", "bfloat16")


def test_a_function_of_the_project_that_returns_an_autocast_is_seen_through(module):
    m = module("def ctx(on):\n    return torch.autocast('cuda', enabled=on)\n\nwith ctx(True):\n    y = net(x)\n")
    region = region_around(m, m.root.body[-1].body[0].value)
    assert region is not None
    assert (region.certain, region.enabled) == ("float16", None)


def test_a_flag_with_two_answers_has_none(module):
    m = module("on = True\nif x:\n    on = False\nflag = on\n")
    assert truth(m, last_value(m)) is None
