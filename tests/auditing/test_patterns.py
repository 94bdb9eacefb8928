"""`regex`: what `re.compile` gives, at the first question."""

import ast
import pickle
import re
from pathlib import Path

import pytest

import ampguard.auditing
from ampguard.auditing.patterns import regex

HOUSE = Path(ampguard.auditing.__file__).parent
CALLS = [
    (path.relative_to(HOUSE).as_posix(), call)
    for path in sorted(HOUSE.rglob("*.py"))
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "regex"
]


def test_every_pattern_of_the_house_is_a_regular_expression() -> None:
    assert len(CALLS) > 400
    texts = [(path, call.args[0]) for path, call in CALLS if isinstance(call.args[0], ast.Constant)]
    assert len(texts) > 0.9 * len(CALLS)
    for path, text in texts:
        try:
            re.compile(text.value)
        except re.error as error:
            pytest.fail(f"{path}:{text.lineno}: {error}")


def test_answers_as_a_compiled_one_does() -> None:
    late, known = regex(r"(\w+)\.step\(", re.IGNORECASE), re.compile(r"(\w+)\.step\(", re.IGNORECASE)
    text = "optimizer.STEP() scaler.step()"
    assert late.findall(text) == known.findall(text)
    assert late.sub("x", text) == known.sub("x", text)
    assert (late.pattern, late.flags) == (known.pattern, known.flags)
    found = late.search(text)
    assert found is not None and found.group(1) == "optimizer"


def test_a_wrong_pattern_is_told_when_it_is_asked() -> None:
    late = regex("(")
    with pytest.raises(re.error):
        late.search("")


def test_outlives_a_pickle() -> None:
    late = pickle.loads(pickle.dumps(regex("a+")))
    assert late.fullmatch("aaa")
