import pytest

from ampguard.errors import RunFolderError
from ampguard.run_folder import parse_row, read_record, read_run


def test_run_toml_is_read_as_it_stands(tmp_path):
    (tmp_path / "run.toml").write_text('schema = 1\n[task]\nname = "実験"\n', encoding="utf-8")
    assert read_run(tmp_path) == {"schema": 1, "task": {"name": "実験"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no run folder"),
        (b"schema = ", "damaged"),
        (b"\xff", "damaged"),
        (b"schema = 2", "schema 2; this version reads 1"),
        (b"", "schema None"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_reason(tmp_path, content, said):
    if content is not None:
        (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(RunFolderError, match=said):
        read_run(tmp_path)


def test_a_folder_in_the_place_of_run_toml_is_told(tmp_path):
    (tmp_path / "run.toml").mkdir()
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3"])
def test_a_result_that_is_missing_or_damaged_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) is None


def test_a_result_of_a_newer_schema_is_an_error(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 2}')
    with pytest.raises(RunFolderError, match="schema 2"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"step": 1}\n', {"step": 1}),
        (b'{"step": 1}', None),
        (b'{"step": \n', None),
        (b"[1]\n", None),
        (b"\n", None),
        (b"\xff\n", None),
        (b"[" * 100_000 + b"\n", None),
    ],
    ids=["row", "torn", "damaged", "list", "empty", "bytes", "deep"],
)
def test_a_line_counts_if_it_is_complete_and_holds_an_object(line, row):
    assert parse_row(line) == row
