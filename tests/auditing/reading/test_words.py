import ast
import random
from pathlib import Path

import pytest

from ampguard import auditing
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading import words
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
    known = Words(WORDS)
    held = 0
    for text in texts():
        found = known.found_in(text)
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
    assert (word in Words([word, "other"]).found_in(text)) is held


def test_forgets_runs_and_still_answers(monkeypatch):
    monkeypatch.setattr(words, "_MOST_RUNS", 3)
    known = Words(["scaler", "loss"])
    for text, found in (("scaler a b", {"scaler"}), ("c d loss", {"loss"}), ("scaler c b", {"scaler"})):
        assert known.found_in(text) == found


def test_a_file_answers_for_words_that_were_not_announced_too():
    places = {"a.py": Source("a.py", "scaler = 1\nother = 2\n")}
    module = Project(places, AuditConfig(), ["scaler", "loss"]).module("a.py")
    assert module.mentions(["scaler"])
    assert not module.mentions(["loss"])
    assert module.mentions(["loss", "other"])
    assert not module.mentions(["absent"])


def test_the_lines_about_something():
    text = "Scaler = 1\nx = 2\nself.GRAD = scaler\nß = grad"
    module = Project({"a.py": Source("a.py", text)}, AuditConfig()).module("a.py")
    assert module.about("scaler") == "Scaler = 1\nself.GRAD = scaler"
    assert module.about("scaler", "grad") == "Scaler = 1\nself.GRAD = scaler\nß = grad"
    assert module.about("none") == ""


def test_a_word_that_is_asked_for_later_is_looked_for_in_what_was_learnt_before():
    known = Words(["scaler"])
    known.found_in("scaler backward torch.load x")
    known.ask("ward")
    known.ask("torch.load")
    assert known.found_in("scaler backward torch.load x") == {"scaler", "ward", "torch.load"}
    assert known.found_in("x torch load") == set()
