"""Answers, items and biases that are None by the word of another file."""

import pytest

FOUND = """
class Assembler:
    def assemble_frames(self, detections):
        joints = [d for d in detections if d.score > 0.5]
        if not joints:
            return None, None
        return joints, len(joints)
"""
USED = """
def predict(predictor, detections, limit=None):
    frames, number = predictor.assembler.assemble_frames(detections)
    {before}
    return [frame.score for frame in frames]  # once an epoch
"""
LOADER = """
def get_batch(samples):
    data = {{}}
    data["masks"] = samples.masks
    if {test}:
        data["masks"] = {given}
    return data
"""
READ = """
def evaluate(loader, model, limit=None):
    data = loader.get_batch("val")
    {before}
    return model(data["masks"][:4])  # once an epoch
"""
LAYERS = """
import torch.nn as nn

class Similarity(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.project = nn.Linear(size, 1{bias})
"""
BEGUN = """
import torch.nn as nn
from similarity import Similarity

class Network(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.similarity = Similarity(size)
        self.apply(begin)

def begin(layer):
    if isinstance(layer, nn.Linear){asked}:
        layer.bias.data.zero_()
"""


@pytest.fixture
def lines(findings):
    """Return what finds the lines of NON001 by file in a project of files."""
    return lambda files: [(f.path, f.line) for f in findings(files, select=["NON001"])]


def test_the_only_method_of_a_name_answers_none(lines):
    assert lines({"core.py": FOUND, "use.py": USED.format(before="pass")}) == [("use.py", 5)]
    assert lines({"core.py": FOUND, "use.py": USED.format(before="if frames is None:\n        return []")}) == []
    assert lines({"core.py": FOUND, "use.py": USED.format(before="if not number:\n        return []")}) == []


def test_of_two_methods_of_a_name_none_is_taken(lines):
    other = "class Other:\n    def assemble_frames(self, detections):\n        return [], 0\n"
    assert lines({"core.py": FOUND, "other.py": other, "use.py": USED.format(before="pass")}) == []


def test_an_item_that_another_file_sets_to_none(lines):
    loader = LOADER.format(test="samples.full", given="None")
    assert lines({"loader.py": loader, "use.py": READ.format(before="pass")}) == [("use.py", 5)]
    asked = 'if data["masks"] is None:\n        return model(None)'
    assert lines({"loader.py": loader, "use.py": READ.format(before=asked)}) == []
    always = LOADER.format(test="samples.full", given="samples.all")
    assert lines({"loader.py": always, "use.py": READ.format(before="pass")}) == []


def test_layers_of_an_imported_file_without_a_bias(lines):
    without, plain = LAYERS.format(bias=", bias=False"), LAYERS.format(bias="")
    assert lines({"similarity.py": without, "net.py": BEGUN.format(asked="")}) == [("net.py", 13)]
    assert lines({"similarity.py": plain, "net.py": BEGUN.format(asked="")}) == []
    asked = BEGUN.format(asked=" and layer.bias is not None")
    assert lines({"similarity.py": without, "net.py": asked}) == []


SEARCH = """
def model_from_file(path, known):
    for name in known:
        if name in path:
            return known[name](path)
    {end}
"""
CALLER = """
from models import model_from_file

def {name}(path, known):
    model = model_from_file(path, known)
    {before}
    model.to("cpu")
    return None
# once an epoch
"""


@pytest.mark.parametrize(
    ("end", "before", "expected"),
    [
        ("return None", "pass", [("models.py", 6)]),
        ('raise ValueError("unknown")', "pass", []),
        ("return None", "assert model is not None", []),
    ],
)
def test_a_search_that_two_files_take_to_find(findings, end, before, expected):
    callers = {f"{name}.py": CALLER.format(name=name, before=before) for name in ("train", "predict")}
    files = {"models.py": SEARCH.format(end=end), **callers}
    assert [(f.path, f.line) for f in findings(files, select=["ERR008"])] == expected


def test_a_search_of_one_caller_is_told_there_alone(findings):
    files = {"models.py": SEARCH.format(end="return None"), "train.py": CALLER.format(name="train", before="pass")}
    assert [f.path for f in findings(files, select=["ERR008"])] == []
    assert [f.path for f in findings(files, select=["NON001"])] == ["train.py"]
