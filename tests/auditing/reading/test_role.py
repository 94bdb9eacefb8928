"""What a file is for, by its path and by what it holds."""

import pytest

EVALUATION = """
import torch

def perform_test(test_loader, model, meter):
    model.eval()
    for inputs, labels in test_loader:
        predictions = model(inputs)
        meter.update(predictions.detach().cpu(), labels)
"""
TESTS = EVALUATION + "\n\ndef test_perform_test():\n    assert perform_test\n"


@pytest.mark.parametrize("text, told", [(EVALUATION, ["AMP031"]), (TESTS, []), ("import pytest\n" + EVALUATION, [])])
def test_a_script_named_test_that_holds_no_tests_evaluates(findings, text, told):
    assert [f.code for f in findings({"tools/test_net.py": text}, select=["AMP031"])] == told


def test_what_lies_in_a_folder_of_tests_is_a_test(findings):
    assert findings({"tests/test_net.py": EVALUATION}, select=["AMP031"]) == []
