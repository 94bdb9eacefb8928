import pytest
import torch

from ampguard import Guard
from ampguard.integrations.amp import autocasts, guard_metrics, observed_metrics, scale_of


class Scaler:
    def __init__(self, scale, *, enabled=True):
        self.scale, self.enabled = scale, enabled

    def is_enabled(self):
        return self.enabled

    def get_scale(self):
        return self.scale


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 65536.0, 1e10])
def test_a_scale_is_reported_as_it_is(scale):
    assert scale_of(Scaler(scale)) == scale
    assert observed_metrics(Scaler(scale), "16-mixed") == {"amp/enabled": 1, "amp/loss_scale": scale}


@pytest.mark.parametrize(
    "scaler",
    [None, object(), Scaler(8.0, enabled=False), Scaler(float("inf")), Scaler(float("nan"))],
    ids=["none", "no scaler", "disabled", "inf", "nan"],
)
def test_without_a_usable_scaler_the_key_is_absent(scaler):
    assert scale_of(scaler) is None
    assert observed_metrics(scaler, "16-mixed") == {"amp/enabled": 1}


def test_torchs_own_scaler_is_read():
    assert scale_of(torch.amp.GradScaler("cpu", init_scale=4.0)) == 4.0
    assert scale_of(torch.amp.GradScaler("cpu", enabled=False)) is None


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        *((spelling, True) for spelling in ("16-mixed", 16, "16", "fp16", "bf16-mixed", "bf16", "bf16-true")),
        *((spelling, False) for spelling in ("32-true", 32, "32", "no", "fp32")),
        *((spelling, None) for spelling in ("transformer-engine", "64-true", None, True, "16-true", "fp8")),
    ],
)
def test_every_spelling_of_a_precision_is_understood_or_left_out(precision, expected):
    assert autocasts(precision) is expected
    assert ("amp/enabled" in observed_metrics(None, precision)) is (expected is not None)


def test_a_guard_before_its_first_step_has_no_figures():
    model = torch.nn.Linear(2, 1)
    guard = Guard(model, torch.optim.SGD(model.parameters(), lr=0.5), precision="fp32")
    assert guard_metrics(guard) == {}
    guard.backward(model(torch.ones(1, 2)).sum())
    guard.step()
    metrics = guard_metrics(guard)
    assert metrics["amp/enabled"] == 0
    assert metrics["amp/applied_steps"] == 1
    assert "amp/loss_scale" not in metrics
