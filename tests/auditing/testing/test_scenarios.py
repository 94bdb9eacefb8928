"""Which scenarios a test exercises: by what it does, or by its name where it checks; and what only looks like it."""

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.scenarios import SCENARIOS, exercised


@pytest.fixture
def scenarios(tmp_path):
    """Return the keys of the scenarios that a test file exercises."""

    def read(body, name="tests/test_train.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "import torch, wandb, precision, cuda  # scaler, checkpoint, max(), time\n" + body, encoding="utf-8"
        )
        module = Project({name: path}, AuditConfig()).module(name)
        return {s.key for s in SCENARIOS if exercised(module, s)}

    return read


DOES = {
    "cpu-fallback": [
        'with mock.patch("torch.cuda.is_available", return_value=False): run()',
        'monkeypatch.setattr(torch.cuda, "is_available", lambda: False); run()',
        'monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ""); run()',
        "torch.cuda.is_available = lambda: False; run()",
    ],
    "scaler-none": ["step(model, scaler=None)", "trainer.scaler = None", 'env["scaler"] = None'],
    "extreme-scales": ["Trainer(loss_scale=0.0)", "GradScaler(init_scale=2.0**40)", 'Trainer(loss_scale=float("inf"))'],
    "tracker-run-none": ['with mock.patch("wandb.run", None): run()', 'monkeypatch.setattr(wandb, "run", None)'],
    "tracker-failing": [
        'with mock.patch("wandb.log", side_effect=ConnectionError("gone")): run()',
        "wandb.log = mock.Mock(side_effect=OSError)",
        "tracker.log.side_effect = [None, TimeoutError()]",
        'monkeypatch.setattr(wandb, "log", lambda row: (_ for _ in ()).throw(OSError()))',
    ],
    "zero-denominator": [
        "speed(samples=3, elapsed_s=0)",
        'with mock.patch("time.perf_counter", return_value=1.0): run()',
        "with pytest.raises(ZeroDivisionError): run()",
    ],
    "scaler-construction": ['with mock.patch("torch.amp.GradScaler", side_effect=RuntimeError()): run()'],
    "non-finite": [
        'loss = torch.tensor(float("nan")); loss.backward()',
        "weight.grad = torch.full((2,), math.inf); optimizer.step()",
        'Trainer(loss=float("inf"))',
    ],
    "checkpoint-damaged": ["with pytest.raises(FileNotFoundError): load_checkpoint(path)"],
    "resume": [
        "train(resume=True)",
        "save_checkpoint(one, path); load_checkpoint(two, path)",
        "torch.save(x, p); resume_state(p); torch.load(p)",
    ],
}


@pytest.mark.parametrize(("key", "line"), [(key, line) for key, lines in DOES.items() for line in lines])
def test_what_a_test_does_counts_whatever_its_name(scenarios, key, line):
    assert key in scenarios(f"def test_it(monkeypatch):\n    {line}\n")


NAMES = {
    "cpu-fallback": ["test_amp_cpu_fallback", "test_falls_back_to_fp32", "test_runs_without_a_gpu", "testCpuFallback"],
    "scaler-none": ["test_scaler_none", "test_step_without_a_scaler"],
    "extreme-scales": ["test_get_loss_scale_extreme_values", "test_huge_loss_scale"],
    "tracker-run-none": ["test_log_when_run_is_none", "test_without_an_active_run"],
    "tracker-failing": ["test_wandb_log_fails", "test_failing_tracker_is_told"],
    "zero-denominator": ["test_division_by_zero", "test_empty_dataloader"],
    "scaler-construction": ["test_scaler_construction_fails", "test_grad_scaler_init_error"],
    "precision-names": ["test_every_precision_trains"],
    "non-finite": ["test_nan_loss_stops", "test_step_is_skipped_on_inf", "test_grad_overflow"],
    "checkpoint-damaged": ["test_corrupt_checkpoint", "test_checkpoint_missing"],
    "resume": ["test_resume_is_exact", "test_checkpoint_round_trip"],
}


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in NAMES.items() for name in names])
def test_a_name_counts_where_the_test_checks_something(scenarios, key, name):
    assert key in scenarios(f"def {name}():\n    assert run() == 1\n")
    assert key not in scenarios(f"def {name}():\n    run()\n")


INNOCENT = [
    'with mock.patch("torch.cuda.is_available", return_value=True): run()',
    "scaler = None",
    "GradScaler(init_scale=2.0**16)",
    "attend(scale=0.0)",
    "config(loss_scale=0)",
    'with mock.patch("wandb.log"): run()',
    'with mock.patch("wandb.run", mock.Mock()): run()',
    'with mock.patch("requests.get", side_effect=OSError): run()',
    'with mock.patch("time.perf_counter", side_effect=count): run()',
    "train(start_time=0, wait_time=0)",
    'with mock.patch("torch.amp.GradScaler"): run()',
    'best = float("inf")',
    'mask = torch.full((3, 3), float("-inf")); model(mask)',
    "with pytest.raises(FileNotFoundError): read_settings(path)",
    "save_image(x, path); load_image(path)",
    "train(resume=False)",
    'wandb.init(resume="never")',
    "torch.save(x, p)",
]


@pytest.mark.parametrize("line", INNOCENT)
def test_what_only_looks_like_a_scenario_does_not_count(scenarios, line):
    assert scenarios(f"def test_it(monkeypatch):\n    {line}\n    assert True\n") == set()


@pytest.mark.parametrize(
    "name", ["test_shape_and_no_nan", "test_save_does_not_corrupt_checkpoints_path", "test_scale_overflowing_text"]
)
def test_names_that_only_share_words_do_not_count(scenarios, name):
    assert scenarios(f"def {name}():\n    assert run() == 1\n") == set()


def test_a_skipped_test_exercises_nothing(scenarios):
    assert scenarios('@pytest.mark.skip(reason="slow")\ndef test_cpu_fallback():\n    assert run()\n') == set()


def test_patches_in_decorators_count(scenarios):
    text = '@mock.patch("wandb.log", side_effect=OSError)\ndef test_it(log):\n    run()\n'
    assert scenarios(text) == {"tracker-failing"}


def test_an_evaluation_function_of_training_code_is_no_test(scenarios):
    text = "def test_cpu_fallback(model, loader):\n    assert model(loader, scaler=None)\n"
    assert scenarios(text, "train.py") == set()


def test_tests_in_classes_and_after_helpers_are_told_apart(scenarios):
    text = """
def helper():
    return step(scaler=None)


class TestStep:
    def test_one(self):
        assert helper()

    def test_two(self):
        assert step(scaler=make())
"""
    assert scenarios(text) == set()
