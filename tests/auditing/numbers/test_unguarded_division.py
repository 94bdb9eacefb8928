"""What the fixtures cannot show of NUM001: severities, texts, edits, and values from other files."""

import ast

import pytest

TIMED = """
    import time

    import torch


    def run(model, batches):
        start = time.perf_counter()
        for batch in batches:
            model(batch)
        return {"time": time.perf_counter() - start, "memory": torch.cuda.max_memory_allocated()}
"""
REPORT = """
    from timing import run


    def report(model, batches):
        full, half = run(model, batches), run(model, batches)
        speedup = full["time"] / half["time"]
        saved = (full["memory"] - half["memory"]) / full["memory"]
        return speedup, saved
"""
COUNTED = """
    def mean(losses):
        total, n = 0.0, 0
        for loss in losses:
            if loss < 1e4:
                total += loss
                n += 1
        return total / n
"""


def test_measured_quantities_are_low_and_their_zero_is_told_apart(findings):
    speed, memory = sorted(findings({"timing.py": TIMED, "report.py": REPORT}, select=["NUM"]), key=lambda f: f.line)
    assert (str(speed.severity), speed.likelihood) == ("low", "unlikely")
    assert (str(memory.severity), memory.likelihood) == ("low", "possible")
    assert "time.perf_counter()" in speed.message and "run(), timing.py:11" in speed.message
    assert "max_memory_allocated" in memory.message and "CPU" in memory.impact


def test_a_count_that_may_stay_zero_is_medium_and_says_where_it_starts_and_grows(findings):
    (found,) = findings(COUNTED, select=["NUM"])
    assert str(found.severity) == "medium"
    assert "starts at 0 (line 3)" in found.message and "(line 7)" in found.message


def test_the_edit_replaces_the_right_side_alone_and_still_parses(findings):
    (found,) = findings(COUNTED, select=["NUM"])
    assert found.edit is not None
    assert found.edit.lines == ("    return total / max(n, 1)",)
    ast.parse(found.edit.lines[0].strip().removeprefix("return "))


def test_the_edit_counts_bytes_where_the_line_holds_other_letters(findings):
    text = COUNTED.replace("return total / n", "return {'Größe': total / n}")
    (found,) = findings(text, select=["NUM"])
    assert found.edit is not None and found.edit.lines == ("    return {'Größe': total / max(n, 1)}",)


def test_a_left_side_that_may_be_a_tensor_lowers_the_finding(findings):
    text = COUNTED.replace("total / n", "scale(total) / n")
    assert [str(f.severity) for f in findings(text, select=["NUM"])] == ["low"]


def test_a_second_division_by_the_same_thing_is_not_reported_again(findings):
    text = COUNTED.replace("return total / n", "print(total / n); return total / n")
    assert len(findings(text, select=["NUM"])) == 1


@pytest.mark.parametrize(
    ("line", "severity", "likelihood"),
    [
        ("return total / len(loader)", "info", "unlikely"),
        ("return total / n", "info", "unlikely"),
        ("return total / (epochs - 1)", "low", "unlikely"),
        ("return total / torch.cuda.device_count()", "low", "possible"),
        ("return total / option", "low", "possible"),
        ("return total / kept", "low", "possible"),
    ],
)
def test_what_is_zero_only_on_unusual_runs_weighs_little(findings, line, severity, likelihood):
    text = f"""
        import torch


        def mean(loader, model, epochs, option=0):
            total, n, kept = 0.0, 0, 0
            for batch, labels in loader:
                total += model(batch).item()
                n += 1
                kept += (labels != -100).sum().item()
            {line}
    """
    assert [(f.line, str(f.severity), f.likelihood) for f in findings(text, select=["NUM"])] == [
        (11, severity, likelihood)
    ]


def test_an_option_of_the_command_line_that_is_zero_by_default(findings):
    text = """
        import argparse

        parser = argparse.ArgumentParser()
        parser.add_argument("--save-every", type=int, default=0)
        parser.add_argument("--log-every", type=int, default=10)
        args = parser.parse_args()
        for step in range(100):
            if step % args.log_every == 0:
                print(step)
            if step % args.save_every == 0:
                print("saved")
            if args.save_every and step % args.save_every == 0:
                print("saved")
    """
    assert [f.line for f in findings(text, select=["NUM"])] == [11]


def test_a_test_file_has_it_at_low(findings):
    assert [str(f.severity) for f in findings({"tests/test_mean.py": COUNTED}, select=["NUM"])] == ["low"]


@pytest.mark.parametrize(
    "guard",
    [
        "if not n: return 0.0",
        "if n == 0: return 0.0",
        "if n <= 0: raise ValueError('nothing finite')",
        "if 0 == n: return 0.0",
        "if not losses or n < 1: return 0.0",
        "assert n",
        "assert n > 0, 'nothing finite'",
        "n = max(n, 1)",
        "n = n or 1",
        "n = n if n else 1",
        "n += 1",
        "if n == 0: n = 1",
        "if total == 0: return 0.0",
        "while n == 0: n = refill()",
    ],
)
def test_a_guard_before_the_division_silences(findings, guard):
    text = COUNTED.replace("return total / n", f"{guard}\n        return total / n")
    assert findings(text, select=["NUM"]) == []


@pytest.mark.parametrize(
    "no_guard",
    [
        "if n < 0: return 0.0",
        "if n >= 0: print(n)",
        "if n > 1: return total",
        "if losses: print(losses)",
        "if n is None: return 0.0",
        "assert n >= 0",
        "n = max(n, 0)",
        "n = n or 0",
    ],
)
def test_a_test_that_lets_zero_through_does_not(findings, no_guard):
    text = COUNTED.replace("return total / n", f"{no_guard}\n        return total / n")
    assert [f.code for f in findings(text, select=["NUM"])] == ["NUM001"]


def test_a_method_sees_what_another_method_measured(findings):
    text = """
        import time


        class Timer:
            def start(self):
                self.begin = time.monotonic()

            def stop(self):
                self.elapsed = time.monotonic() - self.begin

            def speed(self, n):
                return n / self.elapsed
    """
    assert [(f.line, str(f.severity)) for f in findings(text, select=["NUM"])] == [(13, "low")]


def test_functions_that_call_each_other_end_the_search(findings):
    text = """
        def odd(n):
            return even(n - 1)


        def even(n):
            return odd(n - 1)


        def ratio(x, n):
            x = 1 / odd(n)
            while True:
                x = x / x
    """
    assert findings(text, select=["NUM"]) == []


@pytest.mark.parametrize(
    ("test", "found"),
    [("step < low", ["low"]), ("step <= low", []), ("low > step", ["low"]), ("low >= step", []), ("high < low", [])],
)
def test_an_interval_is_not_empty_where_its_low_end_was_passed(findings, test, found):
    text = f"""
        def rate(step: int, low: int, high: int):
            if {test}:
                return 0.0
            return (step - low) / (high - low)
    """
    assert [str(f.severity) for f in findings(text, select=["NUM"])] == found
