import pytest
import torch

from ampguard.benchmarking import contender as contenders
from ampguard.benchmarking.config import make_config
from ampguard.benchmarking.contender import Contender
from ampguard.benchmarking.lineup import line_up, settled
from ampguard.benchmarking.protocol import Timings
from ampguard.benchmarking.race import Race, reason_of, run_race
from ampguard.errors import ConfigError, TaskError
from ampguard.training.data import open_train_data


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(contenders, "MAX_STEPS", 3)


def lined_up(task, *precisions, **options):
    config = {"precisions": ("fp32", *precisions), "device": "cpu", "on_unsupported": "emulate", **options}
    return line_up(task, settled(make_config(config)))


def raced(task, *precisions, race=None, budget_s=3600.0, blocks=4, told=lambda *_: None):
    race = Race() if race is None else race
    run_race(lined_up(task, *precisions), race, blocks=blocks, budget_s=budget_s, told=told)
    return race


def native(monkeypatch):
    """Count nothing as emulated, so that no time of this machine decides what is measured."""
    monkeypatch.setattr("ampguard.benchmarking.race.EMULATED_SHARE", 1e9)


def test_every_precision_gets_as_many_blocks_and_facts_beside_them(build, monkeypatch):
    native(monkeypatch)
    race = raced(build(), "bf16")
    assert {name: len(times) for name, times in race.timings.blocks_s.items()} == {"fp32": 4, "bf16-mixed": 4}
    assert all(seconds > 0 for times in race.timings.blocks_s.values() for seconds in times)
    assert race.failures == {}
    assert race.skipped == {"fp32": 0, "bf16-mixed": 0}
    assert race.samples == pytest.approx((20 * 4 + 16) / 5)
    assert race.epoch_steps == 5
    assert race.data_wait_s > 0
    assert race.evaluation_s > 0
    assert race.finished


@pytest.mark.parametrize(
    ("fault", "words"), [("oom", "out of memory: tried to allocate 2.00 GiB"), ("raise", "ValueError: the user's own")]
)
def test_a_precision_that_fails_leaves_with_its_reason_and_the_others_go_on(build, fault, words):
    race = raced(build(half=fault), "bf16")
    assert race.failures["bf16-mixed"].startswith(words)
    assert len(race.timings.blocks_s["fp32"]) == 4
    assert "bf16-mixed" not in race.timings.blocks_s


def test_a_precision_that_never_moves_has_failed_and_its_module_is_named(build, monkeypatch):
    native(monkeypatch)
    race = raced(build(overflow=True), "bf16")
    assert race.failures["bf16-mixed"].startswith("no step was applied, because no gradient was finite: module '1'")
    assert "fp32" not in race.failures
    assert race.skipped["bf16-mixed"] > 0


def test_where_all_fail_it_tells_each_and_raises_nothing(build):
    race = raced(build(every="oom"), "bf16")
    assert race.failures.keys() == {"fp32", "bf16-mixed"}


def test_an_emulated_precision_is_measured_until_its_share_of_the_time_is_used(build, monkeypatch):
    monkeypatch.setattr("ampguard.benchmarking.race.EMULATED_SHARE", 1e-9)
    race = raced(build(), "fp16")
    assert race.capped == ["fp16-mixed"]
    assert len(race.timings.blocks_s["fp16-mixed"]) == 1
    assert "fp16-mixed" not in race.timings.warmup_s
    assert len(race.timings.blocks_s["fp32"]) == 4


def test_an_emulated_baseline_is_not_stopped_for_all_are_compared_with_it(build, monkeypatch):
    monkeypatch.setattr("ampguard.benchmarking.race.EMULATED_SHARE", 1e-9)
    race = Race()
    run_race(lined_up(build(), baseline="fp16"), race, blocks=3, budget_s=3600.0)
    assert {name: len(times) for name, times in race.timings.blocks_s.items()} == {"fp16-mixed": 3, "fp32": 3}


def test_a_race_that_is_over_is_not_run_again(build):
    race = Race(finished=True, timings=Timings(blocks_s={"fp32": [1.0]}))
    raced(build(every="raise"), race=race)
    assert race.timings.blocks_s == {"fp32": [1.0]}
    assert race.failures == {}


def test_a_race_goes_on_without_those_that_left_it(build, monkeypatch):
    native(monkeypatch)
    before = Timings(blocks_s={"fp32": [7.0, 7.0], "bf16-mixed": [8.0, 8.0], "fp16-mixed": [9.0]})
    race = raced(build(), "bf16", "fp16", race=Race(timings=before, capped=["fp16-mixed"]))
    assert {name: len(times) for name, times in race.timings.blocks_s.items()} == {
        "fp32": 4,
        "bf16-mixed": 4,
        "fp16-mixed": 1,
    }
    assert race.timings.blocks_s["fp32"][:2] == [7.0, 7.0]


def test_ctrl_c_leaves_whole_blocks(build, monkeypatch):
    native(monkeypatch)

    def told(stage, timings):
        if stage == "speed" and len(timings.blocks_s["fp32"]) == 2:
            raise KeyboardInterrupt

    race = Race()
    with pytest.raises(KeyboardInterrupt):
        raced(build(), "bf16", race=race, told=told)
    assert {name: len(times) for name, times in race.timings.blocks_s.items()} == {"fp32": 2, "bf16-mixed": 2}
    assert not race.finished


def test_all_start_from_the_same_weights_and_take_the_same_batches(build):
    task = build()
    lineup = lined_up(task, "bf16")
    weights = task.model()
    batches = list(open_train_data(task, batch_size=20, seed=0, workers=0).batches(0, 0))
    made = [Contender(task, weights, lineup.training, decision=lineup.decisions["fp32"], batches=batches) for _ in "ab"]
    for other in made:
        other.steps_per_block = 2
        other.block()
    pairs = zip(made[0].model.parameters(), made[1].model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(made[0].model[0].weight, weights[0].weight)


@pytest.mark.parametrize(("step_s", "steps"), [(0.05, 2), (0.3, 1), (0.0, 100)])
def test_a_block_has_the_steps_that_fill_its_time_on_a_simulated_clock(build, monkeypatch, step_s, steps):
    monkeypatch.setattr(contenders, "MAX_STEPS", 100)
    task, now = build(), [0.0]
    lineup = lined_up(task)
    batches = [open_train_data(task, batch_size=20, seed=0, workers=0).peek()]
    made = Contender(
        task, task.model(), lineup.training, decision=lineup.decisions["fp32"], batches=batches, clock=lambda: now[0]
    )
    made.model.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + step_s))
    made.calibrate(0.1)
    assert made.steps_per_block == steps
    assert made.block() == pytest.approx(step_s)


def test_a_task_without_a_batch_is_refused(build):
    with pytest.raises((ConfigError, TaskError)):
        raced(build().__class__(name="empty", model=build().model, loss=build().loss, train_data=[]))


def test_reasons_are_clauses():
    assert reason_of(TaskError("the Task is wrong.", hint="Mend it.")) == "the Task is wrong"
    assert reason_of(torch.OutOfMemoryError("")) == "out of memory"
    assert reason_of(torch.OutOfMemoryError("no\nmore")) == "out of memory: no"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(RuntimeError("no compiler\n\nSet VERBOSE=1")) == "RuntimeError: no compiler"
    assert reason_of(RuntimeError()) == "RuntimeError"


def test_each_block_sets_the_float32_mode_of_its_own_precision_before_the_clock_starts(build, monkeypatch):
    """tf32 is a mode of the whole process: without it, fp32 and tf32 side by side would be the same."""
    task, acts = build(), []
    lineup = lined_up(task, "bf16")
    batches = [open_train_data(task, batch_size=20, seed=0, workers=0).peek()]
    made = {
        name: Contender(
            task,
            task.model(),
            lineup.training,
            decision=decision,
            batches=batches,
            clock=lambda: acts.append("clock") or 0.0,
        )
        for name, decision in lineup.decisions.items()
    }
    monkeypatch.setattr(contenders, "enable_tf32", lambda policy, device: acts.append(policy.name))
    for name in ("fp32", "bf16-mixed", "fp32"):
        made[name].block()
    assert acts == ["fp32", "clock", "clock", "bf16-mixed", "clock", "clock", "fp32", "clock", "clock"]
