import json
import random

import pytest

from ampguard.reporting.metrics import BLOCK_BYTES, finite, read_metrics


def rows(count, seed=0):
    """Rows as a run writes them: a skip has no gradient norm, some are validated."""
    rng = random.Random(seed)
    skipped, scale, found = 0, 65536.0, []
    for step in range(1, count + 1):
        skip = rng.random() < 0.03
        skipped += skip
        scale = scale / 2 if skip and scale > 1 else scale
        row = {"step": step, "train/loss": rng.random(), "train/lr": 1e-5 * step, "train/grad_norm": rng.random() * 9}
        if skip:
            del row["train/grad_norm"]
        row |= {"amp/loss_scale": scale, "amp/skipped_steps": skipped, "time/step_ms": rng.random() * 1e-7}
        if step % 50 == 0:
            row["val/loss"] = rng.random()
        found.append(row)
    return found


def write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def plainly(rows):
    """The curves by json alone."""
    curves = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and finite(value) is not None:
                curves.setdefault(key, []).append((row["step"], float(value)))
    return curves


def test_rows_become_the_curves_that_json_alone_gives(tmp_path):
    written = rows(3000)
    metrics = read_metrics(write(tmp_path / "metrics.jsonl", written), buckets=10_000)
    expected = plainly(written)
    assert metrics.last == {key: points[-1][1] for key, points in expected.items()}
    del expected["amp/skipped_steps"]
    assert {key: curve.points for key, curve in metrics.curves.items()} == expected
    assert (metrics.rows, metrics.first_step, metrics.last_step) == (3000, 1, 3000)
    assert metrics.notes() == []


def test_lines_of_another_layout_are_read_too(tmp_path):
    written = rows(500)
    text = "".join(json.dumps(dict(reversed(row.items())), separators=(",", ":")) + "\n" for row in written)
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    metrics = read_metrics(path, buckets=10_000)
    assert metrics.curves["train/loss"].points == plainly(written)["train/loss"]


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", '"high"', "true", "null", "[1]", '{"a": 1}', "1e999"])
def test_a_value_that_is_no_finite_number_is_absent_counted_and_told(tmp_path, odd):
    # Beyond the first block, from where on rows are taken apart by their pattern.
    count, at = 8000, 7000
    lines = [f'{{"step": {step}, "train/loss": 0.5, "train/lr": 0.1}}\n' for step in range(1, count + 1)]
    lines[at - 1] = f'{{"step": {at}, "train/loss": {odd}, "train/lr": 0.2}}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines))
    assert path.stat().st_size > 2 * BLOCK_BYTES
    metrics = read_metrics(path, buckets=10_000)
    assert [step for step, _ in metrics.curves["train/loss"].points] == [n for n in range(1, count + 1) if n != at]
    assert (at, 0.2) in metrics.curves["train/lr"].points
    assert metrics.rows == count
    assert metrics.odd == {"train/loss": 1}
    (note,) = metrics.notes()
    assert "1 value(s) that are no finite number" in note and "train/loss (1)" in note


def test_a_torn_last_line_is_left_out_and_told(tmp_path):
    path = write(tmp_path / "metrics.jsonl", rows(20), tail='{"step": 21, "train/lo')
    metrics = read_metrics(path)
    assert metrics.last_step == 20 and metrics.rows == 20
    assert metrics.torn and "to step 20" in metrics.notes()[0]


@pytest.mark.parametrize("tail", ["nonsense\n", "[1, 2]\n", '{"train/loss": 1}\n', '{"step": "7", "a": 1}\n', "\n"])
def test_a_line_that_is_no_row_is_left_out_and_told(tmp_path, tail):
    written = write(tmp_path / "metrics.jsonl", rows(200), tail=tail)
    with written.open("a") as file:
        file.write(json.dumps({"step": 201, "train/loss": 0.25}) + "\n")
    metrics = read_metrics(written)
    assert metrics.damaged == 1 and metrics.rows == 201 and metrics.last_step == 201
    assert "1 line without a row" in metrics.notes()[0]


def test_two_rows_that_lost_the_newline_between_them_do_not_count_as_one(tmp_path):
    good = [f'{{"step": {step}, "a": 1.5, "b": 2.5}}\n' for step in range(1, 50)]
    bad = '{"step": 50, "a": 1.5, "b": {"step": 51, "a": 7.5, "b": 2.5}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join([*good, bad, *good]))
    metrics = read_metrics(path)
    assert metrics.damaged == 1
    assert metrics.rows == 98
    assert 7.5 not in {value for _, value in metrics.curves["a"].points}


def test_no_file_and_an_empty_file_have_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl").rows == 0
    (tmp_path / "metrics.jsonl").touch()
    assert read_metrics(tmp_path / "metrics.jsonl").notes() == []


def test_the_last_value_of_a_metric_is_that_of_its_last_step(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [{"step": 9, "val/loss": 0.1}, {"step": 2, "val/loss": 0.7}])
    assert read_metrics(path).last == {"val/loss": 0.1}


def test_a_very_long_line_does_not_break_the_reading(tmp_path):
    wide = {"step": 2, **{f"val/m{n}": n + 0.5 for n in range(20_000)}}
    path = write(tmp_path / "metrics.jsonl", [{"step": 1, "val/m1": 3.0}, wide, {"step": 3, "val/m1": 4.0}])
    metrics = read_metrics(path)
    assert metrics.rows == 3 and metrics.curves["val/m1"].points == [(1, 3.0), (2, 1.5), (3, 4.0)]
