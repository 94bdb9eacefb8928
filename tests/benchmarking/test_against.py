import json

import pytest

from ampguard.benchmarking.against import check_same_task, compare, read_bench
from ampguard.errors import ConfigError, RunFolderError


def bench(step_ms=10.0, device="A", torch="2.13", **changes):
    trial = {
        "precision": "bf16-mixed",
        "step_ms": {"median": step_ms},
        "speedup": {"median": 1.5},
        "peak_memory_mib": 100.0,
        "parity": {"result": "equivalent"},
    }
    settings = {"torch": torch, "threads": 2, "clocks_mhz": step_ms}
    return {"schema": 1, "task": "tiny", "device": device, "settings": settings, "trials": [trial | changes]}


def test_the_ratio_of_medians_says_how_many_times_as_fast_it_is_now(tmp_path):
    found = compare(bench(20.0), bench(10.0), path=tmp_path)
    assert found.changes[0].ratio == 2.0
    assert found.changes[0].step_ms == (20.0, 10.0)
    assert found.changes[0].parity == ("equivalent", "equivalent")
    assert found.differences == {}


def test_everything_else_that_differs_is_listed_but_no_clock(tmp_path):
    found = compare(bench(20.0), bench(10.0, device="B", torch="2.14"), path=tmp_path)
    assert found.differences == {"device": ("A", "B"), "torch": ("2.13", "2.14")}


@pytest.mark.parametrize("step", [{"median": 0.0}, {"median": None}, None])
def test_a_time_that_is_0_or_missing_gives_no_ratio(step, tmp_path):
    for old, new in ((bench(step_ms=step), bench()), (bench(), bench())):
        new["trials"][0]["step_ms"] = step
        assert compare(old, new, path=tmp_path).changes[0].ratio is None


def test_a_precision_that_is_new_has_no_then(tmp_path):
    found = compare(bench(precision="fp16-mixed"), bench(), path=tmp_path)
    assert found.changes[0].step_ms == (None, 10.0)
    assert found.changes[0].ratio is None


def test_a_folder_stands_for_its_bench_json(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(bench()))
    assert read_bench(tmp_path) == read_bench(tmp_path / "bench.json") == bench()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"trials": []}', "null"])
def test_what_is_no_bench_is_refused(text, tmp_path):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"bench\.json"):
        read_bench(tmp_path)


def test_a_missing_file_and_another_schema_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_bench(tmp_path / "nowhere.json")
    (tmp_path / "bench.json").write_text(json.dumps(bench() | {"schema": 2}))
    with pytest.raises(RunFolderError, match="schema 2"):
        read_bench(tmp_path)


def test_benches_of_different_tasks_are_not_compared(tmp_path):
    check_same_task(bench(), "tiny", path=tmp_path)
    with pytest.raises(ConfigError, match="bench of 'tiny', and this one is of 'text'"):
        check_same_task(bench(), "text", path=tmp_path)
