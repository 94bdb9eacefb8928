"""How bad a handler is: what the critical path, the reason given and the place change."""

import pytest

CRITICAL = """
    import torch

    class Trainer:
        def save(self, path):
            torch.save(self.model.state_dict(), path)

        def finish(self, path):
            try:
                self.save(path)
            except {kind}:
                {body}
"""


def one(found):
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("body", "severity"),
    [
        ("pass", "critical"),
        ("print('not saved')", "high"),
        ("print(f'not saved: {e}')", "medium"),
        ("self.failed = True", None),
        ("raise", None),
    ],
)
def test_a_swallowed_save_is_as_bad_as_it_is_quiet(findings, body, severity):
    found = findings(CRITICAL.format(kind="Exception as e", body=body), select=["ERR006"])
    assert [str(f.severity) for f in found] == ([severity] if severity else [])
    assert all(f.critical_path and f.scope == "Trainer.finish" for f in found)


def test_a_message_names_the_operation_and_the_helper_it_hides_in(findings):
    found = one(findings(CRITICAL.format(kind="Exception", body="pass"), select=["ERR006"]))
    assert found.message == (
        "except Exception swallows a failure of the checkpoint save inside self.save() (line 10) without a word"
    )
    assert "as if it were saved" in found.impact


def test_a_critical_operation_is_found_two_calls_deep_in_other_files(findings):
    files = {
        "pkg/__init__.py": "",
        "pkg/io.py": "import torch\ndef write(state, path):\n    torch.save(state, path)\n",
        "pkg/store.py": "from pkg.io import write\ndef keep(state, path):\n    write(state, path)\n",
        "train.py": """
            from pkg.store import keep

            def finish(model, path):
                try:
                    keep(model.state_dict(), path)
                except Exception:
                    pass
        """,
    }
    found = one(findings(files, select=["ERR"]))
    assert (found.code, found.path, found.line) == ("ERR006", "train.py", 7)


def test_operations_of_ones_own_are_critical(findings):
    text = "try:\n    push_weights(model)\nexcept Exception:\n    pass\n"
    assert one(findings(text, select=["ERR"])).code == "ERR002"
    found = one(findings(text, select=["ERR"], critical_operations=("push_weights",)))
    assert (found.code, str(found.severity)) == ("ERR006", "critical")


@pytest.mark.parametrize("kind", ["", " Exception", " BaseException", " ImportError", " RuntimeError"])
@pytest.mark.parametrize("guarded", ["work()", "loss.backward()", "import x", "torch.save(a, b)", "session.commit()"])
@pytest.mark.parametrize("body", ["pass", "print('x')", "print(e)", "raise", "return None", "y = 1", "other()"])
def test_no_handler_is_reported_twice(findings, kind, guarded, body):
    binding = " as e" if kind else ""
    block = f"    try:\n        {guarded}\n    except{kind}{binding}:\n        {body}\n"
    text = f"import torch\ndef f():\n{block}    return 5\n"
    assert len(findings(text, select=["ERR001", "ERR002", "ERR003", "ERR004", "ERR005", "ERR006"])) <= 1


def test_a_bare_handler_on_the_critical_path_is_high(findings):
    text = "def f():\n    try:\n        loss.backward()\n    except:\n        return False\n    return True\n"
    found = one(findings(text, select=["ERR"]))
    assert (found.code, str(found.severity), found.critical_path) == ("ERR001", "high", True)


@pytest.mark.parametrize(
    ("handler", "severity"),
    [
        ("except Exception:\n        pass", "medium"),
        ("except Exception:\n        pass  # the cache is rebuilt at the next start", "low"),
        ("except Exception:\n        pass  # FIXME later", "medium"),
        ("except Exception:  # noqa: S110\n        pass", "low"),
        ("except Exception:\n        log('# not a comment of ours')", None),
    ],
)
def test_a_stated_reason_makes_a_silent_handler_low(findings, handler, severity):
    found = findings(f"def f(cache):\n    try:\n        cache.warm_up()\n    {handler}\n", select=["ERR002"])
    assert [str(f.severity) for f in found] == ([severity] if severity else [])


def test_in_tests_and_benchmarks_nothing_is_more_than_low(findings):
    text = "import torch\ntry:\n    torch.save(a, b)\nexcept Exception:\n    pass\n"
    files = {"tests/test_save.py": text, "benchmarks/save.py": text}
    assert [str(f.severity) for f in findings(files, select=["ERR"])] == ["low", "low"]


def test_a_traceback_is_worse_than_the_text_of_an_exception(findings):
    text = """
        import traceback
        from flask import Flask, jsonify

        app = Flask(__name__)

        @app.route("/a")
        def a():
            try:
                return work()
            except ValueError:
                return traceback.format_exc(), 500

        @app.route("/b")
        def b():
            try:
                return work()
            except Exception as e:
                return jsonify(error=f"failed: {e}"), 500
    """
    assert [str(f.severity) for f in findings(text, select=["ERR007"])] == ["medium", "low"]


def test_timeouts_are_as_bad_as_the_library_waits(findings):
    text = """
        import socket, subprocess, urllib.request
        import httpx, requests

        requests.get(url)
        requests.get(url, timeout=None)
        urllib.request.urlopen(url)
        socket.create_connection(("host", 80))
        httpx.get(url)
        httpx.get(url, timeout=None)
        subprocess.run(["git", "fetch"])
    """
    found = {f.line: str(f.severity) for f in findings(text, select=["ERR009"])}
    assert found == {5: "medium", 6: "medium", 7: "low", 8: "low", 10: "low", 11: "info"}


def test_retries_anywhere_in_the_file_silence_the_question_for_them(findings):
    text = "import requests\ndef f(url):\n    return requests.get(url, timeout=1)\n"
    assert one(findings(text, select=["ERR010"])).line == 3
    assert findings("from urllib3.util import Retry\n" + text, select=["ERR010"]) == []


UNBOUND = """
import torch

def read_state(path):
    return torch.load(path, weights_only=True)

def resume(model, path):
    {before}
    try:
        state = read_state(path)
    except Exception{name}:
        {body}
    print("read")
    model.load_state_dict({use})
"""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"body": "print('trying to load', path)"}, [("ERR006", "medium")]),
        ({"body": "print(error)", "name": " as error"}, [("ERR006", "medium")]),
        ({"body": "pass"}, [("ERR006", "critical")]),
        ({"body": "raise"}, []),
        ({"body": "print('starting anew')\n        return"}, [("ERR005", "low")]),
        ({"body": "print(error)", "name": " as error", "before": "state = {}"}, [("ERR004", "info")]),
        ({"body": "state = {}"}, [("ERR004", "low")]),
        ({"body": "give_up(error)", "name": " as error"}, [("ERR004", "info")]),
    ],
)
def test_a_load_is_critical_where_its_result_is_used_behind_the_handler(findings, parts, expected):
    stop = "\ndef give_up(error):\n    raise RuntimeError('not readable') from error\n"
    text = UNBOUND.format(**{"before": "pass", "name": "", "use": "state", **parts}) + stop
    found = findings(text, select=["ERR002", "ERR004", "ERR005", "ERR006"])
    assert [(f.code, str(f.severity)) for f in found] == expected
    assert all("`state` has no value" in f.impact for f in found if f.code == "ERR006")


def test_a_name_that_has_no_value_behind_a_told_error_is_medium(findings):
    text = """
    def mean_length(path):
        try:
            rows = read(path)
        except Exception as error:
            print(error)
        return sum(map(len, rows)) / 2
    """
    found = one(findings(text, select=["ERR004"]))
    assert (str(found.severity), found.line) == ("medium", 5)
    assert "`rows` has no value behind it" in found.message


def test_a_name_that_is_read_under_a_condition_is_low(findings):
    text = """
    def sort(path, ok):
        try:
            rows = read(path)
        except Exception as error:
            print(error)
        if ok:
            rows.sort()
    """
    found = one(findings(text, select=["ERR004"]))
    assert str(found.severity) == "low"
    assert "`rows` has no value" in found.message


@pytest.mark.parametrize(
    "behind",
    [
        "rows = []\n        rows.sort()",
        "try:\n            rows.sort()\n        except NameError:\n            pass",
    ],
)
def test_a_name_that_may_have_a_value_is_not_spoken_of(findings, behind):
    text = f"""
    def sort(path, ok):
        try:
            rows = read(path)
        except Exception as error:
            print(error)
        {behind}
    """
    found = one(findings(text, select=["ERR004"]))
    assert str(found.severity) == "info"


def test_the_limits_of_a_process_group_are_information(findings):
    text = """
    import torch.distributed as dist

    def start():
        dist.init_process_group("nccl")
    """
    found = one(findings(text, select=["ERR009"]))
    assert str(found.severity) == "info"
    assert "10 minutes with NCCL" in found.message


CACHE = """
    import logging

    class Images:
        def fill(self, keys):
            for key in keys:
                try:
                    self.images[key] = self.read(key)
                except Exception as error:
                    logging.warning("%s: %s", key, error)

        def __getitem__(self, key):
            {read}
"""


@pytest.mark.parametrize(
    ("read", "severity"),
    [("return self.images[key]", "low"), ("return self.images.get(key)", "info")],
)
def test_a_cache_with_holes_is_worse_where_another_method_reads_it_by_key(findings, read, severity):
    assert str(one(findings(CACHE.format(read=read), select=["ERR004"])).severity) == severity
