"""What NON001 tells by a reading in order, in its own words, and where it asks: everywhere, or where something runs."""

import pytest

RUN = """
import torch


class Run:
    def __init__(self, log=None):
        self.log = log.file if log is not None else None

    def fit(self, loader, quick, hook=None, epochs=3):
        best = None
        if quick:
            best = loader.first()
        for epoch in range(epochs):
            for x in loader:
                x.backward()
            if hook is not None and epoch:
                hook.begin()
            hook.end()
        if self.log is not None:
            self.log.write("done")
        self.log.close()
        ids = loader.get("ids")
        if ids is not None:
            print(ids)
        print(ids.shape)
        return best.item()
"""

LAYER = """
import torch


class Layer(torch.nn.Module):
    def forward(self, x, mask=None):
        return x * mask.float()
"""


def test_each_says_what_leaves_it_none(findings):
    assert {f.line: f.message for f in findings(RUN, select=["NON001"])} == {
        18: "hook.end needs `hook`, a parameter that may be None (line 9), on a way on which nothing has asked",
        21: "self.log.close needs `self.log`, which may be None as __init__ ends (line 7)",
        25: "ids.shape needs `ids`, and what line 22 looks up may not be there",
        26: "best.item needs `best`, which line 10 leaves None on some way here",
    }


@pytest.mark.parametrize(("many", "told"), [(1000, ["layer.py", "run.py"]), (1, ["run.py"])])
def test_a_large_library_is_asked_where_it_runs(findings, monkeypatch, many, told):
    monkeypatch.setattr("ampguard.auditing.rules.optional.optional_used_unguarded.MANY_FILES", many)
    files = {"layer.py": LAYER, "run.py": RUN}
    assert sorted({f.path for f in findings(files, select=["NON001"])}) == told
