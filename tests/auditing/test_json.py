"""The JSON object is the contract: exactly these keys, of these types."""

import json

import pytest
from jsonschema import Draft202012Validator

from ampguard.auditing.findings import Severity
from ampguard.auditing.run import audit


def closed(**properties):
    """Return the schema of an object with exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def many(items):
    return {"type": "array", "items": items}


TEXT = {"type": "string", "minLength": 1}
LINE = {"type": "integer", "minimum": 1}
SCHEMA = closed(
    schema={"const": 1},
    version=TEXT,
    decision={"enum": ["PASS", "WARN", "BLOCK"]},
    score={"type": "integer", "minimum": 0, "maximum": 100},
    grade={"enum": ["A+", "A", "A-", "B+", "B", "B-", "C+", "C", "C-", "D+", "D", "D-", "F"]},
    files={"type": "integer", "minimum": 0},
    unreadable=many(closed(path=TEXT, reason=TEXT)),
    findings=many(
        closed(
            code={"type": "string", "pattern": "^[A-Z]{3}[0-9]{3}$"},
            name={"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
            severity={"enum": [str(severity) for severity in Severity]},
            likelihood={"enum": ["certain", "likely", "possible", "unlikely"]},
            path=TEXT,
            line=LINE,
            column=LINE,
            end_line=LINE,
            message=TEXT,
            impact=TEXT,
            risk=TEXT,
            fix=TEXT,
            fixable={"type": "boolean"},
        )
    ),
    good_practices=many(closed(name=TEXT, path=TEXT, line=LINE)),
    criteria=many(
        closed(
            level={"enum": ["block", "warn", "info"]},
            name=TEXT,
            result={"enum": ["met", "triggered", "not_applicable", "unknown"]},
            evidence=TEXT,
        )
    ),
    compliance=many(closed(criterion=TEXT, status={"enum": ["PASS", "PARTIAL", "FAIL", "N/A"]}, notes=TEXT)),
)
CODE = """
import torch, wandb

def draw():
    try:
        run()
    except:
        x = 1

def log(run, value):
    try:
        wandb.log({"loss": value})
    except Exception as error:
        print(f"not logged: {error}")
"""


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text("def f(:\n")
    return audit(".").as_dict()


def test_the_record_is_the_contract(record):
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(record, allow_nan=False)))
    assert record["findings"] and record["unreadable"] and record["good_practices"]
    assert list(record) == SCHEMA["required"]


def test_the_record_of_nothing_is_the_contract_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("")
    Draft202012Validator(SCHEMA).validate(audit("a.py").as_dict())


def test_the_schema_sees_a_key_too_many_and_one_too_few(record):
    validator = Draft202012Validator(SCHEMA)
    assert not validator.is_valid({**record, "wall_s": 1.0})
    assert not validator.is_valid({key: value for key, value in record.items() if key != "grade"})


def test_findings_are_sorted_by_place(record):
    places = [(f["path"], f["line"], f["column"], f["code"]) for f in record["findings"]]
    assert places == sorted(places)
    levels = [c["level"] for c in record["criteria"]]
    assert levels == sorted(levels, key=["block", "warn", "info"].index)


def test_the_record_holds_nothing_of_the_machine_or_the_time(record, tmp_path):
    assert str(tmp_path) not in json.dumps(record)
