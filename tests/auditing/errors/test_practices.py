"""Practices of error handling: what is credited, what is not, and that no credit is also a finding."""

import pytest

TRACKED = """
    import wandb

    def log_scale(scaler, epoch):
        try:
            wandb.log({"amp/loss_scale": scaler.get_scale()}, step=epoch)
        except Exception as error:
            print(f"the loss scale was not logged: {error}")
"""


def named(found, name):
    return [(p.line, p.message) for p in found if p.name == name]


def test_a_tracker_that_cannot_stop_training_is_credited_and_no_finding(practices, findings):
    assert named(practices(TRACKED), "tracker-isolation") == [
        (5, "A failure of wandb.log is told and does not stop the training")
    ]
    assert findings(TRACKED, select=["ERR"]) == []


@pytest.mark.parametrize(
    "changed",
    [
        TRACKED.replace("wandb.log", "history.put"),
        TRACKED.replace('print(f"the loss scale was not logged: {error}")', "pass"),
        TRACKED.replace(": {error}", ""),
        TRACKED.replace("except Exception as error", "except (ValueError, KeyError) as error"),
        TRACKED.replace("try:", "try:\n            loss.backward()"),
    ],
)
def test_what_is_no_isolation_of_a_tracker(practices, changed):
    assert named(practices(changed), "tracker-isolation") == []


STEP = """
    def step(model, optimizer, scaler, batch):
        loss = model(batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""


def test_a_step_without_a_handler_fails_fast(practices):
    assert named(practices(STEP), "fail-fast-critical-path") == [
        (2, "Errors of the training step in step reach its caller")
    ]


def test_a_caught_step_or_half_a_step_does_not_fail_fast(practices):
    caught = """
        def step(model, optimizer, batch):
            try:
                model(batch).backward()
                optimizer.step()
            except Exception:
                {}
    """
    assert named(practices(caught.format("return None")), "fail-fast-critical-path") == []
    assert len(named(practices(caught.format("raise")), "fail-fast-critical-path")) == 1
    assert named(practices("def half(loss):\n    loss.backward()\n"), "fail-fast-critical-path") == []


RESULT = """
    def bench():
        if not torch.cuda.is_available():
            print("CUDA is not available: the benchmark needs a GPU")
            return {"error": "CUDA not available", "speedup": None}
        print("measured")
        return {"error": None, "speedup": measure()}
"""


def test_an_error_that_is_told_and_returned_is_credited(practices):
    assert named(practices(RESULT), "structured-error-result") == [
        (5, "bench tells the failure and returns it under 'error'")
    ]
    untold = RESULT.replace('print("CUDA is not available: the benchmark needs a GPU")', "count = 1")
    assert named(practices(untold), "structured-error-result") == []


def test_a_missing_package_that_is_told_is_credited(practices):
    text = """
        try:
            import onnx
        except ImportError as error:
            raise RuntimeError("pip install onnx") from error
        try:
            import apex
        except ImportError:
            print("apex is not installed: plain Adam is used")
        try:
            import triton
        except ImportError:
            triton = None
        try:
            import numpy
        except ImportError:
            raise
    """
    found = practices(text)
    assert [line for line, _ in named(found, "optional-import-told")] == [4, 8]
    assert named(found, "error-chained") == [(5, "RuntimeError('pip install onnx') keeps its cause")]


def test_an_error_from_nothing_is_not_chained(practices):
    assert named(practices("try:\n    a()\nexcept OSError as e:\n    raise B() from None\n"), "error-chained") == []
