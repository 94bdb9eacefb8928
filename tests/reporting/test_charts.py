from ampguard.reporting.charts import make_charts
from ampguard.reporting.page import render_page
from ampguard.reporting.run import read_runs


def charts_of(*paths):
    return {chart.title: chart for chart in make_charts(read_runs(paths))}


def test_one_run_has_a_chart_for_what_belongs_together(make_run):
    charts = charts_of(make_run())
    assert list(charts) == [
        "Loss", "Learning rate", "Gradient norm", "Loss scale", "Throughput", "Step time", "Memory", "val/accuracy",
    ]  # fmt: skip
    assert [line.name for line in charts["Loss"].lines] == ["training", "validation"]
    assert [len(line.points) for line in charts["Loss"].lines] == [60, 3]


def test_a_chart_whose_metric_no_run_has_is_left_out(make_run):
    charts = charts_of(make_run(rows=[{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0}]))
    assert list(charts) == ["Loss"]
    assert charts_of(make_run("empty", rows=[])) == {}


def test_a_thousand_metrics_do_not_make_a_thousand_charts(make_run):
    path = make_run(rows=[{"step": 1, **{f"val/m{n}": 1.0 for n in range(1000)}}])
    assert len(charts_of(path)) == 60
    assert "940 more metrics have no chart" in render_page(read_runs([path]))


def test_axes_suit_their_metric_and_their_values(make_run):
    charts = charts_of(make_run())
    assert charts["Gradient norm"].axis == "log" and charts["Loss scale"].axis == "log2"
    assert charts["Learning rate"].axis == "linear" and charts["Loss"].axis == "linear"
    zero = [{"step": n, "train/grad_norm": float(n), "train/loss": 10.0**-n} for n in range(6)]
    other = charts_of(make_run("zero", rows=zero))
    assert other["Gradient norm"].axis == "linear", "a zero has no logarithm"
    assert other["Loss"].axis == "log", "five decades are unreadable on a linear axis"


def test_skips_are_marked_on_the_charts_that_they_explain(make_run):
    charts = charts_of(make_run())
    assert [mark.first for _, mark in charts["Loss scale"].skips] == [1, 2, 3, 4, 5, 6, 7]
    assert charts["Loss"].skips and charts["Gradient norm"].skips
    assert not charts["Memory"].skips


def test_all_charts_have_the_same_steps(make_run):
    assert {chart.steps for chart in charts_of(make_run()).values()} == {(1, 60)}


def test_two_runs_are_overlaid_with_a_style_each(make_run):
    charts = charts_of(make_run("a"), make_run("b", steps=40))
    assert "Loss: training" in charts and "Loss: validation" in charts
    for chart in charts.values():
        assert [(line.name, line.run, line.style) for line in chart.lines] == [("a", 0, 0), ("b", 1, 1)]
        assert chart.steps == (1, 60)


def test_a_metric_of_one_run_alone_is_shown_for_it(make_run):
    charts = charts_of(make_run("a"), make_run("b", rows=[{"step": 3, "val/f1": 0.5}]))
    assert [line.name for line in charts["val/f1"].lines] == ["b"]
    assert charts["val/f1"].lines[0].style == 1
