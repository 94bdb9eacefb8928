"""What a path knows of tests: the law by which `if` after `if` is one decision or two."""

import ast

import pytest

from ampguard.auditing.flow import conditions
from ampguard.auditing.flow.conditions import Naming, assume, outcome


def the_test(text, naming=None):
    return conditions.test_of(ast.parse(text, mode="eval").body, naming or Naming())


def after(*known):
    """Return what a path knows after tests came out: ("x", True), ("y is None", False)."""
    facts = frozenset()
    for text, value in known:
        (facts,) = assume(the_test(text), value, facts)
    return facts


@pytest.mark.parametrize(
    ("known", "asked", "answer"),
    [
        ([("amp", True)], "amp", True),
        ([("amp", True)], "not amp", False),
        ([("amp", True)], "other", None),
        ([("scaler is None", False)], "scaler is not None", True),
        ([("scaler", True)], "scaler is None", False),
        ([("scaler is None", True)], "scaler", False),
        ([("scaler is None", False)], "scaler", None),
        ([("isinstance(scaler, GradScaler)", True)], "scaler is None", False),
        ([("scaler is None", True)], "isinstance(scaler, GradScaler)", False),
        ([("amp and clip", True)], "clip", True),
        ([("amp or clip", False)], "amp", False),
        ([("amp", False)], "amp and clip", False),
        ([("amp", True)], "amp or clip", True),
        ([("mode == 'fp16'", True)], "mode == 'bf16'", False),
        ([("mode == 'fp16'", True)], "mode != 'fp16'", False),
        ([("mode == 'fp16'", False)], "mode == 'bf16'", None),
        ([("dtype == torch.float16", True)], "dtype == torch.bfloat16", False),
        ([("args.amp is True", True)], "args.amp", True),
        ([("bool(amp)", True)], "amp", True),
        ([("(i + 1) % 4 == 0", True)], "(i + 1) % 4 != 0", False),
        ([], "True", True),
        ([], "0", False),
    ],
)
def test_a_path_remembers(known, asked, answer):
    assert outcome(the_test(asked), after(*known)) is answer


def test_a_disjunction_comes_out_true_in_as_many_ways_as_it_has_parts():
    ways = assume(the_test("a or b"), True, frozenset())
    assert ways == [
        frozenset({("a", True), ("a is None", False)}),
        frozenset({("a", False), ("b", True), ("b is None", False)}),
    ]


def test_what_contradicts_is_no_way():
    assert assume(the_test("amp"), True, after(("amp", False))) == []
    assert assume(the_test("amp and clip"), True, after(("clip", False))) == []


def test_a_helpers_names_are_its_callers():
    inner = Naming({"s": "self.scaler"}, prefix="step0:")
    assert outcome(the_test("s is not None", inner), after(("self.scaler is None", False))) is True
    assert outcome(the_test("other", inner), after(("other", True))) is None
