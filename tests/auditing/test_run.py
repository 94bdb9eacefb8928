"""The audit as a whole: inputs of every kind, workers, order, and what a failing rule or a killed process costs."""

import json
import os
import random
import re
import signal
import site
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import ampguard
from ampguard.auditing import analyse as analyse_module
from ampguard.auditing import analyst, workers
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.rules import rule_named
from ampguard.auditing.run import audit, run_audit
from ampguard.auditing.workers import chunks_of
from ampguard.errors import InputError

BARE = "try:\n    run()\nexcept:\n    x = 1\n"
DEEP_FOR_THE_PARSER = "x = " + "(" * 5000 + ")" * 5000 + "\n"
DEEP_FOR_RECURSION = f"{BARE}x = a" + " + a" * 600 + "\n" + "y = a" + ".b" * 600 + "\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return what writes files (text or bytes) into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, content in files.items():
            path = tmp_path / f"{name.replace('__', '/', 1)}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def as_json(report):
    return json.dumps(report.as_dict(), sort_keys=True)


def reasons(report):
    return {item.path: item.reason for item in report.unreadable}


def test_audit_is_a_public_function_that_returns_a_report(tree):
    tree(a=BARE)
    report = ampguard.audit("a.py", select=["ERR001"])
    assert (report.decision, [f.line for f in report.findings]) == ("WARN", [3])
    assert str(report) == "WARN: score 94 (A), 1 medium in 1 file"
    assert report.failed and not ampguard.audit(["a.py"], fail_on="block").failed
    assert report.lines("a.py")[2] == "except:" and report.lines("b.py") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def f(:\n", "syntax error at line 1"),
        (b"print 'hello'\n", "syntax error at line 1"),
        (b"x = 1\n\tif\n", "syntax error at line 2"),
        (b"s = '\xff\xfe'\n", "not text in its declared encoding"),
        (b"# coding: no-such-codec\n", "not text in its declared encoding"),
        (b"\xef\xbb\xbf# coding: latin-1\n", "not text in its declared encoding"),
        (b"x = 1\0\n", "null bytes"),
        (DEEP_FOR_THE_PARSER.encode(), "nest"),
        (b"\x7fELF" + bytes(range(256)), "not text|null"),
    ],
    ids=["syntax", "python 2", "indent", "not utf-8", "codec", "bom and cookie", "null", "deep", "binary"],
)
def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(tree, content, reason):
    tree(bad=content, good=BARE)
    report = audit(".")
    assert list(reasons(report)) == ["bad.py"] and re.search(reason, reasons(report)["bad.py"])
    assert report.decision == "WARN"
    assert [f.path for f in report.findings if f.code == "ERR001"] == ["good.py"]


@pytest.mark.parametrize(
    "content",
    [
        BARE.encode("utf-8-sig"),
        ("# coding: latin-1\n# é\n" + BARE).encode("latin-1"),
        ("# -*- coding: cp1252 -*-\n# €\n" + BARE).encode("cp1252"),
        BARE.replace("\n", "\r\n").encode(),
        BARE.replace("\n", "\r").encode(),
        BARE.rstrip("\n").encode(),
        ("x = 1\n" * 100_000 + BARE).encode(),
        ("s = 'é' * 3\f\n" + BARE).encode(),
    ],
    ids=["bom", "latin-1", "cp1252", "crlf", "cr", "no newline", "100,000 lines", "form feed"],
)
def test_unusual_text_is_read_with_its_lines_right(tree, content):
    tree(a=content)
    report = audit("a.py")
    assert report.unreadable == ()
    (found,) = [f for f in report.findings if f.code == "ERR001"]
    assert report.lines("a.py")[found.line - 1] == "except:"


def test_empty_files_and_files_of_comments_are_clean(tree):
    tree(a=b"", b=b"# only a comment", c=b"\n\n\n", d=b"\xef\xbb\xbf")
    report = audit(".")
    assert (report.decision, report.score, len(report.files), report.unreadable) == ("PASS", 100, 4, ())
    assert [file.facts.lines for file in report.files] == [0, 1, 3, 0]


def test_nesting_that_rules_recurse_through_costs_no_other_file(tree):
    tree(deep=DEEP_FOR_RECURSION, good=BARE)
    report = audit(".")
    assert "good.py" in [f.path for f in report.findings if f.code == "ERR001"]
    assert all("nested" in reason or "RecursionError" in reason for reason in reasons(report).values())


def test_a_notebook_is_refused_with_the_way_out(tree):
    folder = tree(a="")
    (folder / "n.ipynb").write_text("{}")
    assert "nbconvert --to script n.ipynb" in reasons(audit(["n.ipynb", "a.py"]))["n.ipynb"]


def test_nothing_readable_is_a_report_without_files(tree):
    tree(bad=b"def f(:\n")
    report = audit("bad.py")
    assert report.files == () and report.decision == "WARN" and len(report.unreadable) == 1


def test_no_python_file_is_an_error(tree):
    folder = tree(a="")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no Python file in 'empty'"):
        audit("empty")
    with pytest.raises(InputError, match="there is no file or folder"):
        audit(["a.py", "nowhere"])
    assert audit("a.py", exclude="a.py").decision == "PASS"


def test_per_file_leaves_rules_out_of_some_files(tree):
    tree(a=BARE, old__b=BARE)
    report = audit(".", per_file={"old": ["ERR"]})
    assert [f.path for f in report.findings if f.code == "ERR001"] == ["a.py"]


def test_stdin_is_audited_under_its_name(tree):
    tree(a=BARE, b="x = 1\n")
    report = audit(stdin=BARE)
    assert [(f.path, f.line) for f in report.findings if f.code == "ERR001"] == [("<stdin>", 3)]
    assert report.lines("<stdin>")[2] == "except:"
    named = audit(["-", "b.py"], stdin=BARE.encode(), stdin_filename="b.py")
    assert len(named.files) == 1 and [f.path for f in named.findings if f.code == "ERR001"] == ["b.py"]
    assert audit(stdin=b"\xff", stdin_filename="x.py").unreadable[0].path == "x.py"
    with pytest.raises(InputError, match="stdin=text"):
        audit("-")


def test_a_file_from_stdin_sees_its_neighbours(tree):
    helper = "def give(scaler):\n    return scaler\n"
    tree(pkg__helper=helper, pkg____init__="")
    text = "from helper import give\n" + BARE
    assert audit(["-", "pkg"], stdin=text, stdin_filename="pkg/train.py").unreadable == ()


def many(tree, number=60):
    """Write files of different sizes that import each other, with findings, ignores and faults among them."""
    chance = random.Random(4)
    files = {
        f"pkg__m{n}": "# "
        + "x" * chance.randrange(4000)
        + f"\nfrom pkg.m{(n * 7) % number} import *\n"
        + BARE * (n % 3)
        for n in range(number)
    }
    files |= {"pkg____init__": "", "pkg__bad": b"def f(:\n", "pkg__quiet": "x = 1  # ampguard: ignore[ERR001]\n"}
    return tree(**files)


def test_the_number_of_workers_changes_nothing(tree):
    many(tree)
    one, two, five = (audit(".", workers=n) for n in (1, 2, 5))
    assert one.findings and one.unreadable
    assert as_json(one) == as_json(two) == as_json(five)


def test_the_order_of_paths_changes_nothing(tree):
    many(tree, 12)
    paths = sorted(str(path) for path in Path("pkg").iterdir())
    expected = as_json(audit("pkg"))
    for seed in range(3):
        random.Random(seed).shuffle(paths)
        assert as_json(audit(paths)) == expected


def test_progress_is_told_up_to_the_last_file(tree):
    many(tree)
    for number in (1, 2):
        told = []
        run_audit(["."], AuditConfig(workers=number), tell=lambda done, of, told=told: told.append((done, of)))
        assert told == sorted(told) and told[-1] == (63, 63)


def test_a_rule_that_raises_is_named_and_the_others_go_on(tree, monkeypatch):
    tree(a=BARE, b=BARE)

    def fails(self, module):
        raise RecursionError("maximum recursion depth exceeded") if module.path == "a.py" else ValueError()

    monkeypatch.setattr(type(rule_named("ERR002")), "check", fails)
    report = audit(".")
    assert [f.path for f in report.findings if f.code == "ERR001"] == ["a.py", "b.py"]
    assert reasons(report) == {
        "a.py": "ERR002 failed on it: RecursionError: maximum recursion depth exceeded",
        "b.py": "ERR002 failed on it: ValueError: no message",
    }
    assert report.decision == "WARN" and len(report.files) == 2


def test_facts_that_cannot_be_counted_cost_only_themselves(tree, monkeypatch):
    tree(a=BARE)

    def fails(module):
        raise RecursionError("too deep")

    monkeypatch.setattr(analyse_module, "facts_of", fails)
    report = audit("a.py")
    assert report.files[0].facts.lines == 4 and "RecursionError" in reasons(report)["a.py"]
    assert [f.code for f in report.findings if f.code == "ERR001"] == ["ERR001"]


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is planted by fork")
def test_a_killed_process_costs_only_the_file_that_kills_it(tree, monkeypatch):
    many(tree)
    parent = os.getpid()
    answer = analyst.Analyst.answer

    def killed(self, name):
        if name == "pkg/m7.py" and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, name)

    monkeypatch.setattr(analyst.Analyst, "answer", killed)
    monkeypatch.setattr(workers, "_context", lambda config: workers.multiprocessing.get_context("fork"))
    report = audit(".", workers=2)
    assert "killed the process" in reasons(report)["pkg/m7.py"]
    assert len(report.files) == 61 and sorted(reasons(report)) == ["pkg/bad.py", "pkg/m7.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="the delay is planted by fork")
def test_ctrl_c_ends_the_processes_at_once(tree, monkeypatch):
    many(tree)
    answer = analyst.Analyst.answer

    def slow(self, name):
        if name != "pkg/__init__.py":
            time.sleep(1000)  # longer than a test may take
        return answer(self, name)

    def interrupt(done, of):
        raise KeyboardInterrupt

    monkeypatch.setattr(analyst.Analyst, "answer", slow)
    monkeypatch.setattr(workers, "chunks_of", lambda sizes, count: [slice(0, 1), slice(1, len(sizes))])
    monkeypatch.setattr(workers, "_context", lambda config: workers.multiprocessing.get_context("fork"))
    with pytest.raises(KeyboardInterrupt):
        run_audit(["."], AuditConfig(workers=2), tell=interrupt)
    assert workers.multiprocessing.active_children() == []


def test_the_collector_is_as_it_was_afterwards(tree):
    import gc

    tree(a=BARE)
    assert gc.isenabled()
    audit("a.py")
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("sizes", "count", "parts"),
    [
        ([], 3, []),
        ([5], 3, [1]),
        ([1] * 9, 3, [3, 3, 3]),
        ([100, 1, 1, 1, 1], 2, [1, 4]),
        ([1, 1, 100, 1, 1], 3, [2, 1, 2]),
        ([0, 0, 0], 2, [3]),
    ],
)
def test_chunks_hold_all_in_order_with_equal_sums(sizes, count, parts):
    slices = chunks_of(sizes, count)
    assert [part.stop - part.start for part in slices] == parts
    assert [n for part in slices for n in range(len(sizes))[part]] == list(range(len(sizes)))


def test_chunks_of_random_sizes_lose_nothing():
    chance = random.Random(7)
    for _ in range(200):
        sizes = [chance.choice([0, 1, 50, 5000]) for _ in range(chance.randrange(60))]
        slices = chunks_of(sizes, chance.randrange(1, 20))
        assert [n for part in slices for n in range(len(sizes))[part]] == list(range(len(sizes)))


def installed():
    """Return the Python files of the standard library and of site-packages, in a fixed order."""
    folders = [sysconfig.get_path("stdlib"), *site.getsitepackages()]
    return sorted({path for folder in folders for path in Path(folder).rglob("*.py") if path.is_file()})


def test_no_rule_fails_on_a_sample_of_installed_files():
    files = installed()
    sample = random.Random(20260101).sample(files, min(500, len(files)))
    report = audit(sample, config=AuditConfig())
    assert len(report.files) + len({item.path for item in report.unreadable}) >= len({*map(Path.resolve, sample)})
    assert [item for item in report.unreadable if "failed on it" in item.reason] == []
    assert as_json(report)
