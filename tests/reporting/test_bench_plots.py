"""What a bench's figures show, as numbers."""

import pytest

from ampguard.reporting.bench import read_bench, tables
from ampguard.reporting.bench.charts import loss_chart, scale_chart, time_chart
from ampguard.reporting.bench.draw_intervals import draw_intervals
from ampguard.reporting.bench.plots import parity_plots, speed_plot, stacks
from ampguard.reporting.bench.words import faster, signed, times


def test_each_block_is_divided_by_the_baselines_block_beside_it(make_bench, made):
    base = made.trial("fp32", [100.0, 200.0, 300.0, 0.0], parity=None)
    half = made.trial("bf16-mixed", [50.0, 50.0, 0.0, 5.0, 9.0], speedup=(2.0, None), parity=None)
    plot = speed_plot(read_bench(make_bench(trials=[base, half], trained=())))
    assert plot.rows[0].raw == (2.0, 4.0)
    assert plot.rows[0].told == "2.00x (no interval)"


def test_the_axis_is_logarithmic_where_ratios_are_more_than_four_apart(make_bench):
    bench = read_bench(make_bench())
    assert speed_plot(bench).axis == "log"
    without = read_bench(make_bench("other", trials=bench.values["trials"][:2]))
    assert speed_plot(without).axis == "linear"


def test_one_far_block_does_not_squeeze_the_plot_and_is_counted(make_bench, made):
    times_ms = [50.0 + n % 3 for n in range(20)]
    base = made.trial("fp32", [100.0] * 20, parity=None)
    half = made.trial("bf16-mixed", [1.0, *times_ms[1:]], speedup=(1.96, [1.9, 2.0]), parity=None)
    plot = speed_plot(read_bench(make_bench(trials=[base, half], trained=())))
    assert plot.rows[0].raw[0] == 100.0
    assert plot.span[1] == 2.0 and plot.outside == 1
    assert plot.axis == "linear"


def test_the_lines_to_compare_with_are_always_on_the_plot(make_bench, made):
    base = made.trial("fp32", [100.0] * 12, parity=None)
    same = made.trial("bf16-mixed", [100.0] * 12, speedup=(1.0, [1.0, 1.0]), parity=None)
    plot = speed_plot(read_bench(make_bench(trials=[base, same], trained=())))
    assert plot.span == (1.0, 1.5) and [value for value, _ in plot.lines] == [1.0, 1.5]


def test_a_relative_difference_is_shown_in_pct_beside_the_baselines_own_seeds(make_bench):
    (plot,) = parity_plots(read_bench(make_bench()))
    own, half, slow = plot.rows
    assert (own.name, own.middle, own.ends) == ("fp32, its own seeds", None, pytest.approx((-0.4, 0.4)))
    assert len(own.raw) == 5 and sum(own.raw) == pytest.approx(0, abs=1e-9)
    assert half.name == "bf16-mixed: equivalent"
    assert (half.middle, half.ends) == (pytest.approx(0.1), pytest.approx((-0.2, 0.4)))
    assert half.raw[0] == pytest.approx(100 * 0.005 / 2.0), "each seed against the baseline's of that seed"
    assert plot.band == (-1.0, 1.0) and plot.unit == " %"
    assert slow.told == "+0.8 % (-0.3 to +1.9 %)"


def test_an_absolute_difference_is_shown_as_it_is(make_bench, made):
    absolute = {"metric": "val/accuracy", "kind": "absolute", "margin": 0.01}
    base = made.trial("fp32", [1.0], parity=made.parity(result="not_measured", **absolute))
    half = made.trial("bf16-mixed", [1.0], parity=made.parity(0.002, [0.001, 0.003], result="equivalent", **absolute))
    (plot,) = parity_plots(read_bench(make_bench(trials=[base, half], trained=())))
    (row,) = plot.rows
    assert (row.middle, row.ends, plot.band, plot.unit) == (0.002, (0.001, 0.003), (-0.01, 0.01), "")


def test_different_margins_have_plots_of_their_own(make_bench, made):
    one = made.trial("bf16-mixed", [1.0], parity=made.parity(0.1, None, result="inconclusive"))
    two = made.trial("fp16-mixed", [1.0], parity=made.parity(0.1, None, result="inconclusive", metric="val/accuracy"))
    bench = read_bench(make_bench(trials=[made.trials()[0], one, two], trained=()))
    assert [plot.title for plot in parity_plots(bench)] == ["Difference in val/loss", "Difference in val/accuracy"]
    assert len({plot.id for plot in parity_plots(bench)}) == 2


def test_a_stack_has_its_parts_in_order_and_its_peak(make_bench):
    full, half, _ = stacks(read_bench(make_bench()))
    assert [part for part, _ in full.parts] == ["weights", "gradients", "optimizer", "activations", "workspace"]
    assert sum(size for _, size in full.parts) == pytest.approx(full.peak) == 400.0
    assert (full.told, half.told) == ("peak 400 MiB", "peak 276 MiB, 31 % less")


def test_a_peak_without_parts_and_parts_without_a_peak_are_stacks_too(make_bench, made):
    peak = {**made.trial("fp32", [1.0], peak=5.0, parity=None), "memory_mib": {}}
    parts = {**made.trial("bf16-mixed", [1.0], parity=None), "memory_mib": {"weights": 3.0, "workspace": 0.0}}
    none = {**made.trial("fp16-mixed", [1.0], parity=None), "memory_mib": {"weights": 0.0}}
    found = stacks(read_bench(make_bench(trials=[peak, parts, none], trained=())))
    assert [(stack.name, stack.parts, stack.peak, stack.total) for stack in found] == [
        ("fp32", (), 5.0, 5.0),
        ("bf16-mixed", (("weights", 3.0),), None, 3.0),
    ]


def test_blocks_are_charted_in_the_order_measured(make_bench):
    bench = read_bench(make_bench())
    chart = time_chart(bench)
    assert chart.across == "block" and chart.steps == (1, 20) and chart.axis == "log"
    assert [(line.name, line.count) for line in chart.lines] == [
        ("fp32", 20), ("bf16-mixed", 20), ("fp16-mixed", 12), ("tf32", 3),
    ]  # fmt: skip
    assert [value for _, value in chart.lines[1].points] == list(bench.trial("bf16-mixed").samples_ms)


def test_the_largest_gap_is_marked_between_the_means(make_bench, made):
    chart = loss_chart(read_bench(make_bench()))
    half, slow = chart.gaps
    mean = made.loss(40, 2)
    assert (half.step, half.values) == (40, pytest.approx((mean, mean + 0.05)))
    assert half.told == "bf16-mixed 2.1 % at step 40" and slow.step == 20
    assert chart.lines[0].buckets, "five seeds have a band"
    assert chart.lines[0].whole.last == (100, pytest.approx(made.loss(100, 2)))


def test_a_single_seed_has_points_and_no_band(make_bench):
    chart = loss_chart(read_bench(make_bench(seeds=1)))
    assert not chart.lines[0].buckets and len(chart.lines[0].points) == 10
    assert "1 seed each" in chart.about


def test_the_loss_scale_is_that_of_fp16_alone(make_bench):
    chart = scale_chart(read_bench(make_bench()))
    assert [line.name for line in chart.lines] == ["fp16-mixed"] and chart.axis == "log2"
    assert scale_chart(read_bench(make_bench("no", trained=("fp32", "bf16-mixed")))) is None


def test_a_precision_has_one_colour_on_the_whole_page(make_bench):
    bench = read_bench(make_bench())
    styles = {trial.precision: trial.style for trial in bench.trials}
    lines = [line for chart in (time_chart(bench), loss_chart(bench), scale_chart(bench)) for line in chart.lines]
    assert all(line.style == styles[line.name] for line in lines)
    assert [row.style for row in speed_plot(bench).rows] == [1, 2, 4]


def test_raw_values_without_a_place_are_triangles_at_the_edge(make_bench, made):
    base = made.trial("fp32", [100.0] * 20, parity=None)
    half = made.trial("bf16-mixed", [1.0, *([50.0] * 19)], speedup=(2.0, [1.9, 2.1]), parity=None)
    svg = draw_intervals(speed_plot(read_bench(make_bench(trials=[base, half], trained=()))))
    specks = svg.partition('class="speck')[2].partition(">")[0]
    assert specks.count("A") == 2 * 19 and specks.count("Z") == 20


def test_key_figures_are_those_of_the_recommended_precision(make_bench):
    figures = {name: (value, note) for name, value, note in tables.key_figures(read_bench(make_bench()))}
    assert figures["faster than fp32"] == ("1.80x", "95 % interval 1.78x to 1.82x")
    assert figures["peak memory"] == ("276 MiB", "31 % less")
    assert figures["accuracy"] == ("equivalent", "val/loss differs by +0.1 %, 100 steps, 5 seeds")


@pytest.mark.parametrize(
    ("spread", "ends", "name", "note"),
    [
        (0.3, [1.1, 1.6], "bf16-mixed: too noisy", "too noisy to be judged: the pairs spread over 30 %"),
        (0.1, [0.9, 1.6], "bf16-mixed", "95 % interval 0.90x to 1.60x"),
        (0.1, None, "bf16-mixed", "no interval"),
    ],
)
def test_a_ratio_that_noise_or_its_interval_leaves_open_is_not_called_faster(
    make_bench, made, spread, ends, name, note
):
    half = made.trial("bf16-mixed", [1.0], speedup=(1.4, ends), parity=None, spread=spread)
    bench = read_bench(make_bench(trials=[made.trials()[0], half], trained=()))
    assert tables.key_figures(bench)[0] == ("times as fast as fp32", "1.40x", note)
    assert speed_plot(bench).rows[0].name == name


def test_where_the_baseline_is_recommended_they_are_those_of_the_fastest_other(make_bench, made):
    trials = [made.trials()[0], made.trials()[2]]
    bench = read_bench(make_bench(trials=trials, recommendation={"precision": "fp32", "why": "Stay with fp32."}))
    assert tables.focus(bench).precision == "fp16-mixed"
    assert tables.key_figures(bench)[0][:2] == ("slower than fp32", "23x")


def test_every_figure_is_in_the_table_and_every_reason_below(make_bench):
    bench = read_bench(make_bench())
    rows = {row.name: row.cells for row in tables.every_figure(bench)}
    assert rows["status"] == ("ok", "ok", "ok", "unsupported", "failed")
    assert rows["speed-up, median"] == ("baseline", "1.80x", "0.0435x", "-", "1.00x")
    assert rows["workspace MiB"] == ("40", "27.6", "29", "-", "-")
    assert rows["seeds that would decide"] == ("-", "-", "14", "-", "-")
    assert rows["largest gap of training loss"][1] == "2.1 % at step 40"
    told = {(reason.precisions, reason.figures): reason.why for reason in tables.reasons(bench)}
    assert told[(("fp8",), ("every figure",))] == "unsupported: it needs a GPU of compute capability 8.9"
    assert told[(("tf32",), ("speed-up",))] == "an interval needs 10 blocks, and 3 were measured"
    assert ("fp32", "bf16-mixed", "fp16-mixed") in [names for names, _ in told], "the same reason is told once"
    assert told[(("fp16-mixed",), ("accuracy",))] == "about 14 seeds would tell"


def test_a_figure_that_lacks_without_a_reason_is_said_to(make_bench, made):
    bare = {**made.trial("fp32", [], parity=None), "speedup": None}
    (reason,) = tables.reasons(read_bench(make_bench(trials=[bare], trained=())))
    assert reason.why == "bench.json gives no reason"
    assert {"step time", "speed-up", "peak memory"} <= set(reason.figures)


def test_ratios_and_differences_in_words():
    assert [times(value) for value in (1.834, 23.44, 0.0431, None)] == ["1.83x", "23.4x", "0.0431x", "-"]
    assert faster(1.5) == ("1.50x", "faster") and faster(0.25) == ("4.00x", "slower")
    assert [signed(0.00114), signed(-0.3, " %"), signed(0.0)] == ["+0.0011", "-0.3 %", "0"]
