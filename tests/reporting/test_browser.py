"""The page in a real browser: nothing on the console, nothing of a run's texts runs, the script does its work."""

import json
import re

import pytest

from ampguard.reporting import write_report

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
def page(make_run, made_ranges, tmp_path):
    """A run with skips, an outage, a fallback and ranges."""
    path = make_run()
    (path / "ranges.json").write_text(json.dumps(made_ranges()))
    return write_report([path], tmp_path / "one.html")


def test_one_run_and_two_runs_open_without_a_word_on_the_console(browse, page, make_run, tmp_path):
    two = write_report([make_run("a"), make_run("b", steps=40, precision="fp32")], tmp_path / "two.html")
    empty = write_report([make_run("empty", rows=[], events=[], record=False)], tmp_path / "empty.html")
    for opened in (page, two, empty):
        seen = browse(opened)
        assert seen.console == []
        assert re.search(r'<button id="theme"[^>]*>Dark</button>', seen.dom), "the script did not run to its end"


def test_hostile_names_and_messages_are_shown_and_do_not_run(browse, make_run, hostile, tmp_path):
    rows = [{"step": n, "train/loss": 1.0 / n, f"val/{hostile}": 0.5} for n in range(1, 30)]
    events = [{"event": "fallback", "step": 3, "message": hostile}, {"event": hostile, "step": 4, "message": "x"}]
    path = make_run(hostile.replace("/", "|"), precision=hostile, rows=rows, events=events, note=hostile)
    opened = write_report([path, make_run("other")], tmp_path / "hostile.html")
    # Without the page's policy: escaping alone must do.
    for variant in (opened, probed(opened, 'told("done", "yes")')):
        seen = browse(variant)
        assert seen.console == []
        assert seen.title != "ran" and "onerror" in seen.title
        assert not re.search(r"<img\b", re.sub(r"<title>.*?</title>", "", seen.dom, flags=re.DOTALL))


def test_the_pages_policy_stops_a_script_that_got_in(browse, page):
    text = page.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title='ran'</script>")
    page.write_text(text, encoding="utf-8")
    seen = browse(page)
    assert seen.title != "ran"
    assert "Content Security Policy" in seen.console[0]


def test_pointing_at_a_chart_tells_the_values_of_the_nearest_step(browse, page):
    act = """
  const figure = document.getElementById("chart-0"), svg = figure.querySelector("svg.chart");
  const readout = figure.querySelector(".readout"), box = svg.getBoundingClientRect();
  told("rest", readout.textContent);
  const at = (share) => box.left + box.width * (56 + 348 * share) / 420;
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: at(39 / 59), clientY: box.top + 9}));
  told("pointed", readout.textContent);
  told("cursor", svg.querySelector(".cursor").getAttribute("visibility"));
  svg.dispatchEvent(new PointerEvent("pointerleave", {}));
  told("left", readout.textContent);
"""
    seen = browse(probed(page, act))
    assert seen.console == []
    assert told(seen, "rest") == told(seen, "left") == "step 60 · training 0.05 · validation 0.06667"
    assert told(seen, "pointed") == "step 40 · training 0.075 · validation 0.1"
    assert told(seen, "cursor") == "visible"


def test_light_and_dark_follow_the_system_and_the_button(browse, page):
    act = """
  const ground = () => getComputedStyle(document.body).backgroundColor;
  told("before", ground());
  document.getElementById("theme").click();
  told("after", ground());
"""
    light, dark = "rgb(246, 247, 249)", "rgb(15, 19, 24)"
    copy = probed(page, act)
    seen = browse(copy, "--blink-settings=preferredColorScheme=1")
    assert (told(seen, "before"), told(seen, "after")) == (light, dark)
    seen = browse(copy, "--blink-settings=preferredColorScheme=0")
    assert (told(seen, "before"), told(seen, "after")) == (dark, light)


def test_a_phone_of_360_pixels_shows_the_page_without_scrolling_sideways(browse, page, make_run, tmp_path):
    long = make_run("a-rather-long-name-of-a-run-that-somebody-gave-it-in-a-hurry-2026-11-26")
    two = write_report([long, make_run("b", precision="fp32")], tmp_path / "two.html")
    for opened in (page, two):
        act = 'parent.postMessage([document.documentElement.clientWidth, document.documentElement.scrollWidth], "*")'
        frame = tmp_path / "frame.html"
        frame.write_text(
            "<!doctype html><body><script>addEventListener('message', (m) => "
            "document.body.setAttribute('data-width', m.data.join()))</script>"
            f'<iframe width="360" height="700" style="border:0" src="{probed(opened, act).name}"></iframe></body>'
        )
        seen = browse(frame)
        shown, needed = map(int, told(seen, "width").split(","))
        assert 300 < needed <= shown <= 360


def test_without_scripts_the_page_is_whole(browse, page):
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub("script-src &#39;.*?&#39;", "script-src &#39;none&#39;", text), encoding="utf-8")
    seen = browse(page)
    assert "script" in seen.console[0], "the script was to be stopped"
    assert re.search(r'<button id="theme"[^>]*hidden', seen.dom), "a button that cannot work is not shown"
    assert seen.dom.count('class="chart"') == 8 and "step 60" in seen.dom
