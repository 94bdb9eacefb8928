"""The rendered page of a bench: what it says, what it leaves out, what it lets nothing do."""

import json
import re
from html import unescape

import pytest

from ampguard.errors import InputError
from ampguard.reporting.bench import read_bench, write_bench_report
from ampguard.reporting.bench.page import render_page


def page_of(path):
    return render_page(read_bench(path))


def text_of(page):
    """What a reader sees, without tags, style and data."""
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture
def against():
    then, now = [120.0, None], [100.0, 55.5]
    return {
        "old": "runs/old/bench.json",
        "differences": {"torch": ["2.12.0", "2.13.0"]},
        "changes": [
            {"precision": "fp32", "step_ms": [then[0], now[0]], "ratio": 1.2, "parity": ["not_measured", None]},
            {"precision": "bf16-mixed", "step_ms": [then[1], now[1]], "ratio": None, "speedup": "?"},
        ],
    }


def test_the_verdict_stands_first_and_every_part_is_there(make_bench):
    text = text_of(page_of(make_bench(unmet=["bf16-mixed: speedup>=2 is required"])))
    verdict = text.index("bf16-mixed is 1.80x faster (95 % CI 1.78-1.82): use it.")
    headings = ("What to keep in mind", "Figures of bf16-mixed", "Not measured here", "Speed", "Memory", "Accuracy",
                "Every figure", "What is missing, and why", "Settings")  # fmt: skip
    places = [text.index(heading, verdict) for heading in headings]
    assert places == sorted(places)
    for said in (
        "finished", "on AMD EPYC (CPU)", "in 5 min 12 s", "fp16-mixed: the machine was noisy.",
        "Not met: bf16-mixed: speedup>=2 is required", "tf32 failed blocks.3.attn made every gradient non-finite",
        "fp8 unsupported it needs a GPU of compute capability 8.9", "bf16-mixed 2.1 % at step 40", "Loss scale",
        "peak 276 MiB, 31 % less", "task.size small",
    ):  # fmt: skip
        assert said in text, said


def test_every_figure_has_a_text_alternative_with_its_numbers(make_bench):
    page = page_of(make_bench())
    figures = re.findall(r'<svg [^>]*role="img".*?</svg>', page, re.DOTALL)
    assert len(figures) == 6 and all("<title" in figure and "<desc" in figure for figure in figures)
    rest = [tag for tag in re.findall(r"<svg [^>]*>", page) if 'role="img"' not in tag]
    assert rest and all('aria-hidden="true"' in tag for tag in rest)
    told = {name: unescape(text) for name, text in re.findall(r'<desc id="(.*?)-desc">(.*?)</desc>', page)}
    assert "bf16-mixed: 1.80x (1.78x to 1.82x), 20 raw values." in told["speed-up"]
    assert "fp32: peak 400 MiB; weights 40 MiB, gradients 40 MiB" in told["memory"]
    assert "bf16-mixed: equivalent: +0.1 % (-0.2 to +0.4 %), 5 raw values." in told["parity-0"]
    assert "bf16-mixed 2.1 % at step 40." in told["loss"] and "mean of all seeds" in told["loss"]
    assert "fp32: 20 values from block 1 to 20" in told["step-time"]
    assert "lowest 32,768 at step 50" in told["loss-scale"]


def test_ids_on_the_page_are_unique(make_bench):
    ids = re.findall(r'\bid="(.*?)"', page_of(make_bench()))
    assert len(ids) == len(set(ids))


def test_the_data_of_the_charts_is_in_the_page(make_bench):
    charts = {chart["id"]: chart for chart in data_of(page_of(make_bench()))["charts"]}
    assert charts["step-time"]["across"] == "block" and len(charts["step-time"]["lines"]) == 4
    loss = charts["loss"]["lines"][0]
    assert loss["steps"][:2] == [10, 20]
    assert all(a < b < c for a, b, c in zip(loss["lowest"], loss["values"], loss["highest"], strict=True))


def test_a_page_loads_nothing(make_bench):
    page = page_of(make_bench())
    assert not re.search(r"(src|href)=|url\(|@import|https?://|//[a-z]", re.sub(r"<title>.*?</title>", "", page))
    policy = unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_hostile_text_is_escaped_everywhere(make_bench, made, hostile, against):
    bad = made.trial(hostile, [1.0] * 12, speedup=(2.0, [1.9, 2.1]), peak=3.0, reason=hostile,
                     parity=made.parity(0.1, [0.0, 0.2], result=hostile, metric=hostile, reason=hostile))  # fmt: skip
    trials = [made.trials()[0], {**bad, "reasons": {hostile: hostile}}, {**bad, "status": hostile}]
    held = {**against, "old": hostile, "differences": {hostile: [hostile, {hostile: hostile}]}}
    held["changes"][0]["precision"] = hostile
    path = make_bench(
        trials=trials, task=hostile, device=hostile, status=hostile, warnings=[hostile], unmet=[hostile],
        settings={hostile: hostile}, recommendation={"precision": hostile, "why": hostile}, against=held,
        command={"target": hostile, "options": {hostile: hostile}},
    )  # fmt: skip
    page = page_of(path)
    outside = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, count=2, flags=re.DOTALL)
    assert "<script>document" not in page and "<img" not in page and "<!--" not in outside
    assert page.count("<script") == 2


def test_what_against_found_is_shown_and_what_differs_marked(make_bench, against):
    page = page_of(make_bench(against=against))
    text = text_of(page)
    assert "Against an older bench runs/old/bench.json. The two were not measured side by side" in text
    assert re.search(r"fp32</th><td>120</td><td>100</td><td>1.20x</td>", page)
    assert re.search(r"bf16-mixed</th><td>-</td><td>55.5</td><td>-</td>", page)
    assert re.search(r'class="differs"><th[^>]*>torch</th><td>2.12.0</td><td>2.13.0</td>', page)
    assert "Against an older bench" not in text_of(page_of(make_bench("alone")))


def test_an_interrupted_bench_of_one_precision_says_what_there_is_not(make_bench, made):
    none = made.parity(result="not_measured", seeds=0, steps=0, reason="it was interrupted before")
    bare = {**made.trial("fp32", [], parity=none), "reasons": {"speedup": "no block was measured"}}
    bare["reasons"]["peak_memory_mib"] = "it was interrupted before"
    page = page_of(make_bench(trials=[bare], trained=(), status="interrupted", warnings=["it was interrupted"]))
    text = text_of(page)
    assert "No block was timed: fp32: no block was measured." in text
    assert "Memory was not measured: fp32: it was interrupted before." in text
    assert "Nothing was compared with fp32" in text
    assert 'class="chart"' not in page and "<figure" not in page
    assert not re.search(r"<(ul|tbody|div class=\"(cards|charts two)\")[^>]*>\s*</", page), "nothing is empty"


def test_speed_without_memory_and_without_parity_is_shown(make_bench, made):
    none = made.parity(result="not_measured", seeds=0, steps=0, reason="the Task has no validation data")
    base = made.trial("fp32", [100.0] * 12, parity=none)
    half = made.trial("bf16-mixed", [50.0] * 12, speedup=(2.0, [2.0, 2.0]), parity=none)
    page = page_of(make_bench(trials=[base, half], trained=()))
    text = text_of(page)
    assert page.count('class="chart"') == 2
    assert "Accuracy bf16-mixed : the Task has no validation data" in text and "Memory was not measured." in text


def test_one_precision_with_times_has_no_speed_up(make_bench, made):
    page = page_of(make_bench(trials=[made.trials()[0]], trained=()))
    assert "Nothing was compared with fp32: there is no speed-up." in text_of(page)
    assert 'id="step-time"' in page and 'id="speed-up"' not in page


@pytest.mark.parametrize("trials", [[], [None], "none"])
def test_a_bench_without_any_precision_says_so(make_bench, trials):
    text = text_of(page_of(make_bench(trials=trials, trained=())))
    assert "bench.json holds no precision." in text and "No block was timed." in text


@pytest.mark.parametrize(
    ("times", "ratio"),
    [
        ([0.0] * 12, (None, None)),
        ([1e-300] * 12, (1e300, [1e299, 1e301])),
        ([1e300] * 12, (-1.0, [-2.0, 0.0])),
        ([1e308] * 12, (1e-320, [1e-320, 1e308])),
    ],
)
def test_figures_beyond_all_measure_make_a_page_all_the_same(make_bench, made, times, ratio):
    odd = made.parity(1e299, [-1e308, 1e308], result="different", gap=1e308, gap_step=40, spread=1e-310)
    trials = [made.trials()[0], made.trial("bf16-mixed", times, speedup=ratio, peak=1e-300, parity=odd)]
    page = page_of(make_bench(trials=trials))
    assert not re.search(r"\b(nan|inf)\b", page)


def test_other_scripts_stand_as_they_are(make_bench):
    assert "実験 ñ 🚀" in text_of(page_of(make_bench(task="実験 ñ 🚀")))


def test_the_page_lies_in_the_folder_and_replaces_only_a_report(make_bench, tmp_path):
    path = make_bench()
    assert write_bench_report(path) == write_bench_report(path / "bench.json") == path / "report.html"
    other = tmp_path / "thesis.html"
    other.write_text("<html>my thesis</html>")
    with pytest.raises(InputError, match="no report of ampguard"):
        write_bench_report(path, other)
    assert other.read_text() == "<html>my thesis</html>"
