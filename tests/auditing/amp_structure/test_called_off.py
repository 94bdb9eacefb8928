"""Forward passes whose calls stand in other files, where gradients are off or on (AMP031)."""

import pytest

GATHER = """
import torch
from data import load_pages


def gather_pages(model, loader=None):
    kept = []
    for page in loader or load_pages():
        hidden = model(page)
        kept.append(hidden.cpu())
    return kept
"""

RUN = """
import torch
from reading import gather_pages


{above}
def report(model):
    {around}:
        return gather_pages(model)
"""

ON = "if model is not None"


def recorded(findings, files, path="reading.py"):
    return [f.line for f in findings(files, select=["AMP031"]) if f.path == path]


@pytest.mark.parametrize(
    "above, around, found",
    [
        ("", ON, [9]),
        ("", "with torch.no_grad()", []),
        ("", "with torch.inference_mode()", []),
        ("@torch.no_grad()", ON, []),
        ("@torch.no_grad()\n@logged", ON, []),
        ("@logged", ON, [9]),
        ("with torch.no_grad(): pass", ON, [9]),
        ("# torch.no_grad()", ON, [9]),
    ],
)
def test_a_call_of_another_file_says_whether_gradients_are_off(findings, above, around, found):
    assert recorded(findings, {"reading.py": GATHER, "run.py": RUN.format(above=above, around=around)}) == found


def test_a_line_above_the_call_switches_gradients_off(findings):
    run = "import torch\nfrom reading import gather_pages\n\n\ndef report(model):\n    {}\n    return "
    run += "gather_pages(model)\n"
    files = {"reading.py": GATHER, "run.py": run.format("torch.set_grad_enabled(False)")}
    assert recorded(findings, files) == []
    files["run.py"] = run.format("# torch.set_grad_enabled(False)")
    assert recorded(findings, files) == [9]


@pytest.mark.parametrize(
    "text, found",
    [
        ("def report(model):\n    with torch.no_grad(): gather_pages(model)\n", []),
        ("@torch.no_grad()\ndef report(\n    model,\n) -> list:\n    return gather_pages(model)\n", []),
        ("from torch import no_grad\n\nfor model in models:\n    gather_pages(model)\n", [9]),
    ],
)
def test_the_blocks_around_a_call_are_read_by_their_indentation(findings, text, found):
    run = "import torch\nfrom reading import gather_pages\n" + text
    assert recorded(findings, {"reading.py": GATHER, "run.py": run}) == found


def test_a_package_is_named_by_nobody_and_its_functions_by_all(findings):
    files = {"reading/__init__.py": GATHER, "run.py": RUN.format(above="", around="with torch.no_grad()")}
    assert recorded(findings, files, "reading/__init__.py") == []


def test_functions_that_call_each_other_are_followed_for_a_while_only(findings):
    each = "from reading import gather_pages\n\n\ndef {}(model):\n    gather_pages(model)\n    return {}(model)\n"
    files = {"reading.py": GATHER, "odd.py": each.format("odd", "even") + "\n\n" + each.format("even", "odd")}
    assert recorded(findings, files) == [9]


def test_a_comment_or_an_import_is_no_call(findings):
    run = "import torch\nfrom reading import gather_pages\n\nwith torch.no_grad():\n    pass  # gather_pages(model)\n"
    assert recorded(findings, {"reading.py": GATHER, "run.py": run}) == [9]


ABOVE = """
import torch
from run import report


def main(model):
    {around}:
        print(report(model))
"""


@pytest.mark.parametrize("around, found", [(ON, [9]), ("with torch.no_grad()", [])])
def test_the_callers_of_a_caller_are_asked_in_turn(findings, around, found):
    files = {"reading.py": GATHER, "run.py": RUN.format(above="", around=ON), "main.py": ABOVE.format(around=around)}
    assert recorded(findings, files) == found


def test_a_file_that_never_names_the_module_calls_another_function_of_that_name(findings):
    run = RUN.format(above="", around="with torch.no_grad()").replace("from reading import", "from books import")
    assert recorded(findings, {"reading.py": GATHER, "run.py": run}) == [9]


FORWARD = """
import torch
from reading import gather_pages


class Reader({base}):
    def forward(self, model):
        return gather_pages(model)
"""


@pytest.mark.parametrize("base, found", [("torch.nn.Module", []), ("object", [9])])
def test_what_a_network_calls_in_its_forward_is_run_where_nobody_can_see(findings, base, found):
    assert recorded(findings, {"reading.py": GATHER, "run.py": FORWARD.format(base=base)}) == found


def test_a_name_that_says_too_little_is_looked_for_in_its_own_file(findings):
    files = {"reading.py": GATHER.replace("gather_pages", "process")}
    files["run.py"] = RUN.format(above="", around="with torch.no_grad()").replace("gather_pages", "process")
    assert recorded(findings, files) == [9]


METHOD = """
import torch
from data import load_pages


class PageReader:
    def gather(self, model):
        kept = []
        for page in load_pages():
            hidden = model(page)
            kept.append(hidden.cpu())
        return kept
"""

ASK = """
import torch
from reading import PageReader


def report(model, {owner}, {other}):
    with torch.no_grad():
        {other}.gather(model)
    return {owner}.gather(model)
"""


@pytest.mark.parametrize(
    "owner, other, found",
    [
        ("reader", "books", [10]),  # `books.gather` is another class's
        ("books", "reader", []),
        ("page_reader", "reader", []),  # half of its own calls are where gradients are off
        ("books", "shelf", []),  # nobody can tell whose they are
        ("page_reader", "books", [10]),
        ("r", "shelf", []),  # one letter tells nothing
    ],
)
def test_a_call_is_one_of_the_class_that_its_object_is_named_after(findings, owner, other, found):
    assert recorded(findings, {"reading.py": METHOD, "run.py": ASK.format(owner=owner, other=other)}) == found


def test_a_method_that_nobody_calls_where_gradients_are_off_records(findings):
    ask = ASK.format(owner="books", other="shelf").replace("with torch.no_grad()", "if model")
    assert recorded(findings, {"reading.py": METHOD, "run.py": ask}) == [10]


REFRESH = """
    def refresh(self, model):
        return self.gather(model)
"""


@pytest.mark.parametrize("around, found", [("with torch.no_grad()", []), ("if model", [10])])
def test_the_calls_of_its_own_object_count_beside_those_of_others(findings, around, found):
    run = (
        f"import torch\n\n\ndef show(page_reader, reader, model):\n    {around}:\n        page_reader.refresh(model)\n"
    )
    run += "    reader.gather(model)\n"
    assert recorded(findings, {"reading.py": METHOD + REFRESH, "run.py": run}) == found


BOOKS = """

class Books:
    def gather_pages(self, model):
        return model.pages


def show(model):
    books = Books()
    with torch.no_grad():
        return {call}(model)
"""


@pytest.mark.parametrize("call, found", [("books.gather_pages", [9]), ("gather_pages", [])])
def test_a_method_of_that_name_in_the_file_of_a_function_is_another(findings, call, found):
    assert recorded(findings, {"reading.py": GATHER + BOOKS.format(call=call)}) == found
