import ast
import random
from pathlib import Path

import pytest

from ampguard import auditing
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.source import Source
from ampguard.auditing.reading.words import Words
from ampguard.auditing.rules import all_rules

WORDS = sorted({word for one in (*all_rules(), *all_practices()) for word in one.words})


def texts():
    """Return files of Python's own and of the rules, which name the words, cut at random."""
    draw = random.Random(1)
    own = sorted(Path(auditing.__file__).parent.rglob("*.py"))
    for path in [*sorted(Path(ast.__file__).parent.glob("*.py"))[::4], *own]:
        text = path.read_text(encoding="utf-8")
        begin = draw.randrange(len(text) + 1)
        yield text[begin : begin + 3000]


def test_every_rule_gets_the_answer_that_the_text_itself_gives():
    held = 0
    for text in texts():
        known = Words(text)
        found = {word for word in WORDS if known.hold_any([word])}
        assert found == {word for word in WORDS if word in text}
        held += len(found)
    assert held > 500


@pytest.mark.parametrize(
    ("word", "text", "held"),
    [
        ("caler", "grad_scaler_2", True),
        ("caler", "sca ler", False),
        ("torch.load", "x=torch.load(p)", True),
        ("torch.load", "torch; load", False),
        ("torch.load", "mytorch.loader", True),
        ("except :", "except :", True),
        ("/", "a/b", True),
        ("%", "a/b", False),
        ("größe", "die_größe_x", True),
        ("größe", "gr\udcf6ße", False),
        ("key", "", False),
    ],
)
def test_words(word, text, held):
    assert Words(text).hold_any([word]) is held
    assert Words(text).hold_any(["absent", word]) is held


def test_a_file_remembers_its_answers():
    module = Project({"a.py": Source("a.py", "scaler = 1\nother = 2\n")}, AuditConfig()).module("a.py")
    for _ in range(2):
        assert module.mentions(["loss", "other"])
        assert not module.mentions(["loss", "absent"])
        assert not module.mentions([])


def test_the_lines_about_something():
    text = "Scaler = 1\nx = 2\nself.GRAD = scaler\nß = grad"
    module = Project({"a.py": Source("a.py", text)}, AuditConfig()).module("a.py")
    assert module.about("scaler") == "Scaler = 1\nself.GRAD = scaler"
    assert module.about("scaler", "grad") == "Scaler = 1\nself.GRAD = scaler\nß = grad"
    assert module.about("none") == ""
