"""Steps whose gradients another file clears, or nobody that is seen."""

import pytest

SCALER = """
class NativeScaler:
    def __call__(self, loss, optimizer):
        self._scaler.scale(loss).backward()
        self._scaler.step(optimizer)
        self._scaler.update()
"""
PACKAGE = "from scaling import NativeScaler\n"
INIT = "def init(weight):\n    weight.zero_()\n"
TRAIN = """
from scaling import NativeScaler


def train(loader, model, optimizer):
    scaler = NativeScaler()
    for batch in loader:
        {clear}
        scaler(model(batch).mean(), optimizer)
"""


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (None, []),  # a library's scaler: who uses it, and clears, is not seen
        (TRAIN.format(clear="pass"), [5]),
        (TRAIN.format(clear="optimizer.zero_grad()"), []),
    ],
)
def test_a_step_is_told_where_a_user_is_seen_that_clears_nothing(findings, train, expected):
    files = {"scaling.py": SCALER, "__init__.py": PACKAGE, "init.py": INIT} | ({"train.py": train} if train else {})
    found = [f for f in findings(files, select=["AMP010"]) if f.path == "scaling.py"]
    assert [f.line for f in found] == expected
