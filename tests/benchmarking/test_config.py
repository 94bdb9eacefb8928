import pytest

from ampguard.benchmarking.config import make_config
from ampguard.benchmarking.lineup import line_up, settled, why_not
from ampguard.errors import ConfigError, PrecisionError
from ampguard.hardware import Support


@pytest.mark.parametrize(("text", "expected"), [("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0)])
def test_a_budget_is_a_time(text, expected):
    assert make_config({"budget": text}).budget_s() == expected


def test_quick_is_a_minute_whatever_the_budget():
    assert make_config({"quick": True, "budget": "2h"}).budget_s() == 60.0


@pytest.mark.parametrize(("text", "mib"), [("2GiB", 2048.0), ("800 MiB", 800.0), ("0.5GiB", 512.0)])
def test_a_memory_limit_is_a_size(text, mib):
    assert make_config({"memory_limit": text}).memory_limit_mib() == mib
    assert make_config({}).memory_limit_mib() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": "soon"},
        {"budget": "0s"},
        {"budget": 60},
        {"memory_limit": "2GB"},
        {"memory_limit": "0MiB"},
        {"memory_limit": 2},
        {"seeds": 0},
        {"seeds": 2.5},
        {"seeds": True},
        {"seed": -1},
        {"blocks": "many"},
        {"accuracy_margin": 0.0},
        {"loss_margin": float("nan")},
        {"loss_margin": "small"},
        {"on_unsupported": "fallback"},
        {"quick": "yes"},
        {"require": 3},
        {"resume": True},
        {"presicions": ("fp32",)},
    ],
)
def test_what_no_bench_could_mean_is_refused_with_its_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_config(wrong)


def test_precisions_are_canonical_each_once_and_the_baseline_first():
    config = settled(make_config({"precisions": "bf16,32, bf16-mixed,fp16"}))
    assert config.precisions == ("fp32", "bf16-mixed", "fp16-mixed")
    assert settled(make_config({"precisions": ["bf16"], "baseline": "fp32"})).precisions == ("fp32", "bf16-mixed")


def test_auto_is_refused_for_it_is_what_bench_finds():
    with pytest.raises(ConfigError, match="bench is what finds the best"):
        settled(make_config({"precisions": "auto"}))
    with pytest.raises(PrecisionError):
        settled(make_config({"precisions": "fp17"}))


def test_what_this_device_lacks_is_left_out_with_its_reason(build):
    found = line_up(build(), settled(make_config({"precisions": "fp32,fp16,fp8,tf32", "device": "cpu"})))
    assert list(found.decisions) == ["fp32"]
    assert found.unsupported["fp16-mixed"].startswith("this CPU only emulates it: ")
    assert "needs a GPU" in found.unsupported["fp8-mixed"]
    assert "GPU" in found.unsupported["tf32"]


def test_a_precision_that_the_device_has_and_ampguard_does_not_says_so():
    fact = Support(precision="fp8-mixed", support="native", source="CUDA compute capability 9.0 >= 8.9")
    assert why_not(fact, "GPU") == "this version of ampguard does not train in it"


def test_emulation_is_measured_where_it_is_asked_for(build):
    config = settled(make_config({"precisions": "fp16", "device": "cpu", "on_unsupported": "emulate"}))
    found = line_up(build(), config)
    assert list(found.decisions) == ["fp32", "fp16-mixed"]
    assert found.emulated == {"fp16-mixed"}


def test_a_baseline_that_cannot_run_is_refused_with_the_others(build):
    config = settled(make_config({"baseline": "fp16", "precisions": "fp32", "device": "cpu"}))
    with pytest.raises(ConfigError, match="baseline 'fp16-mixed' cannot run here: this CPU only emulates it") as error:
        line_up(build(), config)
    assert error.value.allowed == ("fp32",)


def test_the_batch_size_is_that_of_the_task_or_what_was_asked(build):
    def size(**options):
        return line_up(build(), settled(make_config({"device": "cpu", **options}))).training.batch_size

    assert size() == 20
    assert size(batch_size=8) == 8
