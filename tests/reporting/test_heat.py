import json
import re

import pytest

from ampguard.reporting.draw_heat import draw_formats, draw_tensors
from ampguard.reporting.ranges import ROWS, read_ranges


@pytest.fixture
def ranges(tmp_path, made_ranges):
    def read(**changed):
        (tmp_path / "ranges.json").write_text(json.dumps({**made_ranges(), **changed}))
        return read_ranges(tmp_path / "ranges.json")

    return read


def test_a_strip_has_a_cell_for_each_exponent_where_it_lies(ranges):
    found, notes = ranges()
    assert notes == [] and found.exponents == (-26, 18)
    (strip, small) = draw_tensors(found)
    cells = [float(x) for x in re.findall(r'<rect class="h\d" x="([\d.]+)"', strip.figure)]
    assert cells == [float(exponent + 26) for exponent in range(-2, 17)]
    assert strip.lost == "10 % overflows" and small.lost == ""
    assert "blocks.3.attn, activation: exponents -2 to 16. largest 70,000. 10 % overflows." in strip.figure


def test_formats_and_limits_stand_at_their_exponents(ranges):
    found, _ = ranges()
    bars = {strip.name: re.search(r'x="(\d+)" width="(\d+)"', strip.figure).groups() for strip in draw_formats(found)}
    assert bars == {"fp16": ("2", "40"), "bf16": ("0", "44"), "e4m3": ("17", "18"), "e5m2": ("10", "32")}
    limits = re.findall(r'class="limit" x1="(\d+)"', draw_tensors(found)[0].figure)
    assert limits == ["2", "42"]


def test_of_many_tensors_those_that_fp16_costs_most_are_shown(ranges, made_ranges):
    row = made_ranges()["rows"][0]
    rows = [{**row, "fqn": f"m{n}", "overflow_pct": {"fp16": float(n)}} for n in range(ROWS + 30)]
    found, _ = ranges(rows=rows)
    assert len(found.tensors) == ROWS and found.left_out == 30
    assert {tensor.fqn for tensor in found.tensors} == {f"m{n}" for n in range(30, ROWS + 30)}


@pytest.mark.parametrize(
    "counts", [[], [-1], ["x"], [1.5], None, [0] * 5000], ids=["none", "negative", "text", "float", "null", "endless"]
)
def test_a_row_without_a_histogram_is_left_out_and_told(ranges, made_ranges, counts):
    rows = made_ranges()["rows"]
    found, notes = ranges(rows=[rows[0], {**rows[1], "exponents": {"lowest": 0, "counts": counts}}])
    assert len(found.tensors) == 1 and "1 row(s)" in notes[0]


def test_a_tensor_of_zeros_has_an_empty_strip(ranges, made_ranges):
    row = {**made_ranges()["rows"][0], "exponents": {"lowest": 0, "counts": [0, 0]}, "max_abs": 0.0}
    found, _ = ranges(rows=[row])
    (strip,) = draw_tensors(found)
    assert "all zero" in strip.figure and 'class="h' not in strip.figure


def test_another_schema_and_damage_are_told(ranges, tmp_path):
    assert "schema 2" in ranges(schema=2)[1][0]
    (tmp_path / "ranges.json").write_text("{")
    assert "cannot be read" in read_ranges(tmp_path / "ranges.json")[1][0]
    assert read_ranges(tmp_path / "none.json") == (None, [])
