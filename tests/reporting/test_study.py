"""The page of a search: what it shows, what it says where there is nothing to show, and that names are only names."""

import copy
import json
import xml.etree.ElementTree as ET

import pytest

from ampguard.errors import InputError, RunFolderError
from ampguard.reporting.study import read_study, write_study_report


def trial(number, state="complete", value=None, **changes):
    params = {"lr": 10.0 ** -(number + 1), "schedule": "cosine" if number % 2 else "linear"}
    curve = {} if value is None else {"1": value + 1, "2": value}
    return {
        "number": number,
        "state": state,
        "reason": "" if state == "complete" else f"planted {state}",
        "params": params,
        "value": value,
        "run_dir": f"study/trials/{number:04d}",
        "is_default": number == 0,
        "wall_s": 1.0,
        "intermediate": curve,
        **changes,
    }


TRIALS = [trial(0, value=0.9), trial(1, value=0.4), trial(2, "failed"), trial(3, "pruned", value=0.7)]

FOUND = {
    "schema": 1,
    "task": "toy",
    "metric": "val/loss",
    "direction": "minimize",
    "trials": TRIALS,
    "best": TRIALS[1],
    "default_value": 0.9,
    "importance": {"method": "fANOVA", "values": {"lr": 0.8, "schedule": 0.2}, "reason": ""},
    "study_dir": "study",
    "status": "finished",
    "verdict": "trial 1 is best",
    "best_config": "study/best.toml",
    "command": "ampguard train toy --config study/best.toml",
    "resume_command": None,
    "space": ["lr=log:0.0001:0.1", "schedule=cosine,linear"],
    "settings": {"seed": 0, "space": ["lr=log:0.0001:0.1"], "pruner": "median", "precision": "fp32"},
    "lost": [{"number": 7, "reason": "its process ended with signal SIGKILL", "again_as": 8}],
    "warnings": ["weight_decay is not searched"],
    "wall_s": 3.0,
}


@pytest.fixture
def page(tmp_path):
    def call(**changes):
        (tmp_path / "study.json").write_text(json.dumps({**copy.deepcopy(FOUND), **changes}))
        return write_study_report(tmp_path).read_text()

    return call


def figure(text, name):
    """Return the SVG of the figure `name`, parsed."""
    start = text.index("<svg", text.index(f'id="{name}"'))
    return ET.fromstring(text[start : text.index("</svg>", start) + len("</svg>")])


def classes(svg):
    return [found.get("class") for found in svg.iter() if found.get("class")]


def test_each_trial_is_a_point_of_the_history_and_the_failed_ones_are_marked(page):
    found = classes(figure(page(), "history"))
    kinds = ["point default", "point best", "point pruned", "failed", "default-line"]
    assert [found.count(kind) for kind in kinds] == [1, 1, 1, 1, 1]


def test_a_point_tells_its_trial(page):
    told = [title.text for title in figure(page(), "history").iter("title")]
    assert "trial 1: complete, val/loss 0.4; lr 0.01, schedule cosine" in told
    assert "trial 2 failed: planted failed" in told


def test_each_complete_trial_is_a_thread_across_the_parameters_the_best_last(page):
    found = [name for name in classes(figure(page(), "parallel")) if name.startswith("thread")]
    assert found == ["thread default", "thread best"]


def test_each_curve_of_validations_is_drawn(page):
    assert sum(name.startswith("thread") for name in classes(figure(page(), "intermediate"))) == 3


def test_each_parameter_has_a_slice_and_a_bar(page):
    text = page()
    slices = text[text.index('id="slices"') :]
    assert [f"<h3>{name}</h3>" in slices for name in ("lr", "schedule")] == [True, True]
    bars = [float(rect.get("width")) for rect in figure(text, "importance").iter("rect")]
    assert len(bars) == 2
    assert bars[0] / bars[1] == pytest.approx(4, rel=0.01)


def test_the_verdict_the_counts_and_the_cautions_are_told(page):
    text = page()
    assert "trial 1 is best" in text
    for name, value in (("complete", 2), ("pruned", 1), ("failed", 1)):
        assert f'<div class="name">{name}</div><div class="value">{value}</div>' in text
    assert "trial 7: its process ended with signal SIGKILL; trial 8 ran it again" in text
    assert "weight_decay is not searched" in text


def test_importance_that_is_not_known_says_why(page):
    text = page(importance={"method": "fANOVA", "values": None, "reason": "complete trials: 1; it takes 2"})
    assert "Importance (fANOVA) is not known: complete trials: 1; it takes 2." in text


@pytest.mark.parametrize(
    "trials", [[], [trial(0, "failed"), trial(1, "failed")], [trial(0, value=0.5)], [trial(0, value=0.5, params={})]]
)
def test_a_search_with_little_to_show_has_a_page_all_the_same(page, trials):
    best = next((one for one in trials if one["value"] is not None), None)
    importance = {"method": "fANOVA", "values": None, "reason": "too few"}
    text = page(trials=trials, best=best, default_value=None, importance=importance, command=None)
    assert "Every trial" in text


def test_a_name_is_never_markup(page):
    evil = "<script>alert(1)</script>"
    trials = [trial(0, value=1.0, params={evil: evil}), trial(1, "failed", reason=evil, params={evil: evil})]
    text = page(task=evil, metric=evil, verdict=evil, trials=trials, best=trials[0], space=[f"{evil}={evil}"])
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_value_that_is_huge_or_constant_can_be_drawn(page):
    trials = [trial(0, value=1e300), trial(1, value=1e300), trial(2, value=-1e300)]
    assert "nan" not in page(trials=trials, best=trials[2]).lower().replace("nanum", "")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"schema": 2}'])
def test_a_damaged_study_is_told(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunFolderError):
        read_study(tmp_path)


def test_a_folder_without_a_study_is_told(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_study(tmp_path)


def test_a_file_that_is_no_report_is_left_alone(page, tmp_path):
    (tmp_path / "report.html").write_text("my thesis")
    with pytest.raises(InputError, match="no report of ampguard"):
        page()
    assert (tmp_path / "report.html").read_text() == "my thesis"
