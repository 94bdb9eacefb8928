import json
import re
from html import unescape

import pytest

from ampguard.errors import InputError
from ampguard.reporting import as_dict, read_runs, write_report
from ampguard.reporting.page import render_page
from ampguard.reporting.plain import script_safe


def page_of(*paths):
    return render_page(read_runs(paths))


def text_of(page):
    """What a reader sees, without tags, style and data."""
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_tells_the_run_in_figures(make_run):
    text = text_of(page_of(make_run()))
    for said in (
        "finished", "fp16-mixed on a CPU", "Task digits", "asked for fp16, granted fp16-mixed: as requested",
        "60 53 applied, 7 skipped", "best 0.06667 at step 60", "skipped steps (7)",
        "'blocks.3.attn': fp16-mixed -> fp32: it overflows",
        "as requested. After step 27 blocks.3.attn went to fp32.",
    ):  # fmt: skip
        assert said in text, said


def test_every_figure_has_a_text_alternative(make_run, made_ranges):
    path = make_run()
    (path / "ranges.json").write_text(json.dumps(made_ranges()))
    page = page_of(path)
    figures = re.findall(r'<svg [^>]*role="img".*?</svg>', page, re.DOTALL)
    assert len(figures) >= 8 + 5 + 2
    assert all("<title" in figure for figure in figures)
    (loss,) = re.findall(r'<desc id="chart-0-desc">(.*?)</desc>', page)
    assert "training: 60 values from step 1 to 60; first 3, last 0.05" in loss
    rest = [tag for tag in re.findall(r"<svg [^>]*>", page) if 'role="img"' not in tag]
    assert all('aria-hidden="true"' in tag for tag in rest)


def test_a_page_loads_nothing(make_run):
    page = page_of(make_run())
    assert not re.search(r"(src|href)=|url\(|@import|https?://|//[a-z]", re.sub(r"<title>.*?</title>", "", page))
    policy = unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_the_data_of_the_charts_is_in_the_page(make_run):
    data = data_of(page_of(make_run()))
    loss = data["charts"][0]["lines"][0]
    assert (data["schema"], loss["metric"], loss["steps"][:3], loss["values"][:2]) == (
        1,
        "train/loss",
        [1, 2, 3],
        [3.0, 1.5],
    )


def test_json_in_a_script_cannot_end_it_and_means_the_same():
    value = {"</script>": "<!-- <script> & \u2028 '"}
    text = script_safe(json.dumps(value))
    assert "<" not in text and ">" not in text and json.loads(text) == value


def test_hostile_text_is_escaped_everywhere(make_run, hostile):
    rows = [{"step": n, "train/loss": 1.0 / n, f"val/{hostile}": 0.5} for n in range(1, 30)]
    events = [{"event": "fallback", "step": 3, "message": hostile}, {"event": hostile, "step": 4, "message": "x"}]
    path = make_run(
        hostile.replace("/", "|"), precision=hostile, rows=rows, events=events, note=hostile, status=hostile
    )
    for page in (page_of(path), page_of(path, make_run("other"))):
        outside = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, count=2, flags=re.DOTALL)
        assert "<script>document" not in page and "<img" not in page and "<!--" not in outside
        assert page.count("<script") == 2


def test_two_runs_stand_side_by_side_and_what_differs_is_marked(make_run):
    page = page_of(make_run("a"), make_run("b", precision="fp32", lr=0.002, status="failed"))
    text = text_of(page)
    assert "2 runs" in text and "What differs in the options" in text
    assert re.search(r'<tr class="differs"><th[^>]*>lr</th><td>0.003</td><td>0.002</td>', page)
    assert re.search(r"<th[^>]*>status</th><td>finished</td><td>failed</td>", page)
    assert re.search(r"<th[^>]*>skipped steps</th><td>7</td><td>7</td>", page)
    assert not re.search(r'class="differs"><th[^>]*>(steps|task)<', page)


def test_an_empty_run_says_so(make_run):
    text = text_of(page_of(make_run(rows=[], events=[], record=False)))
    assert "No row of metrics yet" in text and "unfinished" in text and "No event" in text


def test_what_could_not_be_read_is_on_the_page(make_run):
    path = make_run()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "train/loss": NaN}\n{"step": 62, "tra')
    (path / "events.jsonl").unlink()
    text = text_of(page_of(path))
    assert "metrics.jsonl ends within a line" in text and "1 value(s) that are no finite number" in text
    assert "There is no events.jsonl" in text


def test_a_run_in_which_nothing_happened_lacks_nothing(make_run):
    path = make_run(steps=5, events=[])
    rows = [{**json.loads(line), "amp/skipped_steps": 0} for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "events.jsonl").unlink()
    assert read_runs([path])[0].notes == ()


def test_names_in_other_scripts_stand_as_they_are(make_run):
    assert "実験 ñ 🚀" in text_of(page_of(make_run("実験 ñ 🚀")))


def test_a_long_run_makes_a_small_page_that_keeps_extremes_and_counts(make_run, made_rows, tmp_path):
    path = make_run(rows=[])
    template = made_rows(8)[-1]
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, 200_001):
            loss = 77.0 if step == 123_456 else 1 + (step * 7919 % 1000) / 1000
            file.write(json.dumps({**template, "step": step, "train/loss": loss}) + "\n")
    with (path / "events.jsonl").open("w") as file:
        for step in range(1, 9001):
            file.write(json.dumps({"event": "skip", "step": step * 20, "message": "not finite"}) + "\n")
    out = write_report([path], tmp_path / "page.html")
    assert out.stat().st_size < 1_000_000
    page = out.read_text()
    loss = data_of(page)["charts"][0]["lines"][0]
    assert max(loss["highest"]) == 77.0 and min(loss["lowest"]) == 1.0
    assert 123_000 < loss["steps"][loss["highest"].index(77.0)] < 124_000
    assert all(
        low <= mean <= high for low, mean, high in zip(loss["lowest"], loss["values"], loss["highest"], strict=True)
    )
    assert "highest 77 at step 123,456" in page
    assert "skipped steps (9,000, at the top)" in text_of(page)
    assert "200,000 values" in text_of(page)


def test_a_report_is_replaced_and_nothing_else_is(make_run, tmp_path):
    path = make_run()
    assert write_report([path]) == path / "report.html"
    assert write_report([path]) == path / "report.html"
    other = tmp_path / "thesis.html"
    other.write_text("<html>my thesis</html>")
    with pytest.raises(InputError, match="no report of ampguard"):
        write_report([path], other)
    assert other.read_text() == "<html>my thesis</html>"
    with pytest.raises(InputError, match="cannot be written"):
        write_report([path], tmp_path / "missing" / "report.html")
    assert [found.name for found in path.glob("*.part")] == []


def test_the_json_has_every_number(make_run):
    runs = read_runs([make_run("a"), make_run("b", lr=float("inf"))])
    held = json.loads(json.dumps(as_dict(runs), allow_nan=False))
    first = held["runs"][0]
    assert first["metrics"]["train/loss"]["first"] == {"step": 1, "value": 3.0}
    assert first["metrics"]["train/loss"]["points"][1] == [2, 1.5]
    assert first["steps"] == {"attempted": 60, "applied": 53, "skipped": 7}
    assert first["events"]["counts"]["skip"] == 7
    assert first["events"]["listed"][0]["event"] == "skip"
    assert held["differences"] == {"lr": ["0.003", "inf"]}
