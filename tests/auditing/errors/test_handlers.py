"""What the judgement of a handler rests on, and the counts of the report."""

import textwrap

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.handlers import catches, count_handlers
from ampguard.auditing.reading.project import Project


@pytest.fixture
def module(tmp_path):
    """Return a parsed file of the text."""

    def parsed(text):
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return Project({"train.py": path}, AuditConfig()).module("train.py")

    return parsed


def only(module, body, before="", kind="Exception as e"):
    text = f"import logging, sys, traceback\n{before}\ndef f():\n    try:\n        g()\n    except {kind}:\n"
    (catch,) = catches(module(text + textwrap.indent(body, "        ")))
    return catch


@pytest.mark.parametrize(
    "body",
    [
        "print('failed')",
        "logging.warning('failed')",
        "self.log.exception('failed')",
        "rank_zero_warn('failed')",
        "sys.stderr.write('failed')",
        "raise",
        "raise RuntimeError from e",
        "sys.exit(1)",
        "failed.append(e)",
        "future.set_exception(e)",
        "traceback.print_exc()",
        "complain()",
        "return {'error': str(e)}",
    ],
)
def test_a_handler_tells(module, body):
    assert only(module, body, before="def complain():\n    print('failed')").tells


@pytest.mark.parametrize("body", ["pass", "return None", "x = math.log(2)", "value = torch.log(x)", "retry()", "..."])
def test_a_handler_does_not_tell(module, body):
    assert not only(module, body, before="def retry():\n    return 1").tells


@pytest.mark.parametrize("body", ["return False", "self.failed = True", "failed = True", "errors.append(1)", "n += 1"])
def test_a_handler_leaves_a_signal(module, body):
    text = textwrap.indent(body, "        ")
    (catch,) = catches(
        module(f"def f(self):\n    try:\n        g()\n    except Exception:\n{text}\n    use(failed, n)\n")
    )
    assert catch.signals


def test_a_name_that_nobody_reads_is_no_signal(module):
    assert not only(module, "failed = True").signals


def test_a_return_of_nothing_is_a_signal_only_beside_values(module):
    (catch,) = catches(module("def f():\n    try:\n        return g()\n    except Exception:\n        return None\n"))
    assert catch.signals
    assert not only(module, "return").signals


def test_types_are_read_through_names_and_tuples(module):
    found = catches(
        module(
            """
            import torch

            ERRORS = (OSError, ValueError)
            try:
                a()
            except ERRORS:
                b()
            except (torch.cuda.OutOfMemoryError, Exception):
                c()
            """
        )
    )
    assert [catch.kinds for catch in found] == [("OSError", "ValueError"), ("OutOfMemoryError", "Exception")]
    assert [catch.broad for catch in found] == [False, True]


def test_handlers_of_a_file_are_counted_as_the_report_names_them(module):
    counted = count_handlers(
        module(
            """
            import contextlib

            try:
                a()
            except ValueError as e:
                print(e)
            except Exception:
                pass
            try:
                b()
            except:
                axis.text("not available")
            try:
                c()
            finally:
                d()
            with contextlib.suppress(OSError):
                e()
            """
        )
    )
    assert counted == {"try_blocks": 2, "logged": 1, "silent": 2, "bare": 1, "broad": 1}


@pytest.mark.parametrize(
    ("group", "kinds"),
    [
        ("CAUGHT = (KeyError, OSError)", {"KeyError", "OSError"}),
        ("CAUGHT = (OSError,)\nCAUGHT = (*CAUGHT, KeyError)", {"OSError"}),
        ("CAUGHT = (*CAUGHT, KeyError)", {"KeyError"}),
        ("A = (*B, KeyError)\nB = (*A, OSError)\nCAUGHT = (*A,)", {"OSError", "KeyError"}),
    ],
)
def test_a_group_of_exceptions_may_name_itself(module, group, kinds):
    assert kinds <= set(only(module, "pass", before=group, kind="CAUGHT").kinds)


@pytest.mark.parametrize(
    ("last", "leaves"),
    [
        ("raise RuntimeError(what)", True),
        ("print(what)", False),
        ("return what", False),
    ],
)
def test_a_helper_that_always_raises_leaves_the_handler(module, last, leaves):
    before = f"def raise_for(what):\n    print('failed')\n    {last}\n"
    catch = only(module, "raise_for(e)", before)
    assert catch.leaves is leaves and catch.raises is leaves
