"""A bench's page in a real browser: nothing on the console, nothing of its texts runs, a phone is wide enough."""

import re

import pytest

from ampguard.reporting.bench import write_bench_report

PROBE = """
<script>
addEventListener("load", () => {{
  const told = (name, value) => document.body.setAttribute("data-" + name, value);
  {act}
}});
</script></body>"""


def probed(page, act):
    """Return a copy of a page that does something once it is loaded; the copy's policy lets it."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page.read_text(encoding="utf-8"))
    copy = page.with_name("probed.html")
    copy.write_text(text.replace("</body>", PROBE.format(act=act)), encoding="utf-8")
    return copy


def told(seen, name):
    return re.search(rf'data-{name}="(.*?)"', seen.dom)[1]


@pytest.fixture
def page(make_bench):
    return write_bench_report(make_bench())


def test_full_and_bare_pages_open_without_a_word_on_the_console(browse, page, make_bench):
    for opened in (page, write_bench_report(make_bench("bare", trials=[], trained=()))):
        seen = browse(opened)
        assert seen.console == []
        assert re.search(r'<button id="theme"[^>]*>Dark</button>', seen.dom), "the script did not run to its end"


def test_hostile_texts_are_shown_and_do_not_run(browse, make_bench, made, hostile):
    bad = made.trial(hostile, [1.0] * 12, speedup=(2.0, [1.9, 2.1]), peak=3.0, reason=hostile,
                     parity=made.parity(0.1, [0.0, 0.2], result="equivalent", metric=hostile))  # fmt: skip
    path = make_bench(trials=[made.trials()[0], bad], task=hostile, warnings=[hostile], settings={hostile: hostile})
    opened = write_bench_report(path)
    # Without the page's policy: escaping alone must do.
    for variant in (opened, probed(opened, 'told("done", "yes")')):
        seen = browse(variant)
        assert seen.console == []
        assert seen.title != "ran" and "onerror" in seen.title
        assert not re.search(r"<img\b", re.sub(r"<title.*?</title>", "", seen.dom, flags=re.DOTALL))


def test_pointing_at_block_times_tells_those_of_the_nearest_block(browse, make_bench, made):
    base = made.trial("fp32", [100.0 + n for n in range(1, 12)], parity=None)
    half = made.trial("bf16-mixed", [50.0 + n for n in range(1, 12)], parity=None)
    act = """
  const figure = document.getElementById("step-time"), svg = figure.querySelector("svg.chart");
  const readout = figure.querySelector(".readout"), box = svg.getBoundingClientRect();
  told("rest", readout.textContent);
  const at = (share) => box.left + box.width * (56 + 348 * share) / 420;
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: at(0.5), clientY: box.top + 9}));
  told("pointed", readout.textContent);
"""
    seen = browse(probed(write_bench_report(make_bench(trials=[base, half], trained=())), act))
    assert told(seen, "rest") == "block 11 · fp32 111 · bf16-mixed 61"
    assert told(seen, "pointed") == "block 6 · fp32 106 · bf16-mixed 56"


def test_a_phone_of_360_pixels_shows_the_page_without_scrolling_sideways(browse, page, make_bench, made, tmp_path):
    long = "a-precision-with-a-name-that-somebody-chose-in-a-great-hurry-2026"
    trials = [made.trials()[0], made.trial(long, [1.0] * 12, peak=3.0, parity=made.trials()[1]["parity"])]
    other = write_bench_report(make_bench("long", trials=trials, recommendation={"precision": long, "why": long * 4}))
    for opened in (page, other):
        act = 'parent.postMessage([document.documentElement.clientWidth, document.documentElement.scrollWidth], "*")'
        frame = tmp_path / "frame.html"
        frame.write_text(
            "<!doctype html><body><script>addEventListener('message', (m) => "
            "document.body.setAttribute('data-width', m.data.join()))</script>"
            f'<iframe width="360" height="700" style="border:0" src="{probed(opened, act).as_uri()}"></iframe></body>'
        )
        shown, needed = map(int, told(browse(frame), "width").split(","))
        assert 300 < needed <= shown <= 360


def test_texts_of_a_plot_run_neither_over_its_edges_nor_into_each_other(browse, make_bench, made):
    act = """
  const out = [...document.querySelectorAll("svg.chart text")].filter((text) => {
    const own = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
  });
  const met = [...document.querySelectorAll("svg.chart text.name")].filter((name) => {
    const left = name.getBoundingClientRect(), right = name.nextElementSibling.getBoundingClientRect();
    return left.right > right.left && left.bottom > right.top + 3;
  });
  told("met", met.map((name) => name.textContent).join("|"));
  told("texts", document.querySelectorAll("svg.chart text").length);
  told("out", out.map((text) => text.textContent).join("|"));
"""
    trials = made.trials()
    trials[2]["precision"] = "a-precision-of-a-name-longer-than-its-plot-is-wide-in-any-case"
    for opened in (make_bench(), make_bench("long", trials=trials)):
        seen = browse(probed(write_bench_report(opened), act))
        assert int(told(seen, "texts")) > 40
        assert (told(seen, "out"), told(seen, "met")) == ("", "")
