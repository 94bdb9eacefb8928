import json
import math

import pytest
import torch
from torch import nn

from ampguard.errors import ConfigError
from ampguard.health.advice import FLUSHED_PCT, advise
from ampguard.health.families import families
from ampguard.health.range_record import ranges_record, write_record
from ampguard.health.ranges import Ranges
from ampguard.precision import apply_overrides, policy_of


class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_gain = backward
        return x * forward

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.backward_gain, None, None


class Gain(nn.Module):
    """Multiplies by a number, in the backward pass by another."""

    def __init__(self, forward=1.0, backward=1.0):
        super().__init__()
        self.gains = forward, backward

    def forward(self, x):
        return Multiply.apply(x, *self.gains)


def model_of(*gains):
    return nn.Sequential(*(Gain(*gain) for gain in gains))


def measured(model, x=None, loss_factor=1.0):
    with Ranges(model) as ranges:
        out = model(torch.ones(4, 8, requires_grad=True) if x is None else x)
        (out.sum() * loss_factor).backward()
    return ranges


def advice_of(model, name="fp16", **options):
    return advise(measured(model, **options).table(), name)


def test_a_model_within_the_range_gets_no_override_and_is_told_how_far_it_is():
    rows = measured(model_of((2,), (2,))).table()
    advice = advise(rows, "fp16", steps=3)
    assert advice.overrides == advice.reasons == {}
    assert advice.summary.startswith(
        "no module of this model leaves fp16's range in these 3 steps; its largest value, 4"
    )
    assert "1.64e+04 times below" in advice.summary


def test_an_overflow_names_the_module_that_makes_it_and_the_one_that_is_given_it():
    advice = advice_of(model_of((2,), (1e5,), (1e-5,), (1,)))
    assert advice.overrides == {"1": "fp32", "2": "fp32"}
    assert advice.reasons["1"] == "the values it returns go up to 2e+05, and fp16 ends at 65504"
    assert advice.reasons["2"] == "the values it is given go up to 2e+05, and fp16 ends at 65504"
    assert advice.summary == "2 of 4 modules of this model leave fp16's range."


@pytest.mark.parametrize(("largest", "faulty"), [(65519.0, False), (65520.0, True)])
def test_one_value_that_a_cast_makes_infinite_is_enough(largest, faulty):
    x = torch.ones(10**6, requires_grad=True)
    with torch.no_grad():
        x[3] = largest
    assert bool(torch.tensor(largest).half().isinf()) == faulty
    rows = measured(model_of((1,), (0,), (0,)), x).table()
    assert rows[0].overflow_pct["fp16"] == 0, "the sample did not meet it"
    assert list(advise(rows, "fp16").overrides) == (["0", "1"] if faulty else [])


def test_bf16_has_float32s_range():
    assert advice_of(model_of((1e30,), (1e-30,)), "bf16").overrides == {}


def test_values_that_become_zero_beyond_the_share_are_named():
    x = torch.full((100,), 1.0, requires_grad=True)
    for share, faulty in ((FLUSHED_PCT, False), (FLUSHED_PCT + 1, True)):
        with torch.no_grad():
            x[: int(share)] = 1e-8
        advice = advise(measured(model_of((1,), (1e4,)), x).table(), "fp16")
        assert ("6 % of the values it returns become 0" in advice.reasons.get("0", "")) == faulty


def test_gradients_are_judged_at_the_loss_scale_that_suits_most():
    # Gradients of 2**-40 need a scale of 2**15 or more; dynamic scaling goes on until one overflows.
    advice = advice_of(model_of((1,), (1,), (1,)), loss_factor=2.0**-40)
    assert advice.overrides == {} and advice.loss_scale == {"largest": 2.0**24, "needed": 2.0**16}, (
        "2**-40 * 2**15 is a tie"
    )


def test_a_module_whose_gradients_no_scale_fits_with_the_others_is_named():
    # From the end of the model: 2**-40, 2**-40, then 2**20, which no scale lifts the others beside.
    advice = advice_of(model_of((1,), (1, 2.0**60), (1,), (1,)), loss_factor=2.0**-40)
    assert list(advice.overrides) == ["0"]
    assert advice.reasons["0"].startswith("the gradients of what it returns go up to 1.76e+13 when multiplied by 2**24")
    assert advice.loss_scale == {"largest": 2.0**24, "needed": 2.0**16}


def test_a_module_that_flushes_at_the_others_scale_is_named():
    advice = advice_of(model_of((1,), (1, 2.0**-60), (1,), (1,)))
    assert list(advice.overrides) == ["0"] and "100 % of the gradients" in advice.reasons["0"]
    assert advice.loss_scale == {"largest": 2.0**15, "needed": 1.0}


def test_without_gradients_there_is_no_loss_scale():
    with Ranges(model := model_of((1,))) as ranges:
        model(torch.ones(2))
    assert advise(ranges.table(), "fp16").loss_scale == {"largest": None, "needed": None}


def test_eight_bit_formats_are_judged_with_a_scale_per_tensor():
    assert advice_of(model_of((1e5,), (1e-9,)), "e4m3").overrides == {}
    # Within one tensor, seven of eight values 2**-30 below the largest.
    x = torch.full((4, 8), 2.0**-30)
    x[:, 0] = 1.0
    advice = advice_of(nn.Sequential(Gain(), nn.Softsign(), nn.Linear(8, 8), nn.Tanh()), "e4m3", x=x.requires_grad_())
    assert list(advice.overrides) == ["0", "1", "2"]
    assert advice.reasons["0"].startswith("87.5 % of the values it returns become 0 when multiplied by 448")
    assert advice.reasons["2"].startswith("77.8 % of its weights' gradients")
    assert "each tensor scaled to it" in advice.summary


def test_what_train_could_not_override_is_counted_and_not_recommended():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1e6))
            self.idle, self.last = nn.Linear(2, 2), nn.Linear(8, 1)
            with torch.no_grad():
                self.idle.weight.fill_(1e6)

        def forward(self, x):
            return self.last(x) * self.gain * 1e-6

    advice = advice_of(Net())
    assert advice.overrides == {} and advice.summary.startswith("2 of 3 modules of this model leave")


def test_where_every_module_leaves_the_range_another_format_is_the_answer():
    advice = advice_of(model_of((1e6,), (1e6,)))
    assert advice.overrides == {} and advice.summary.startswith("every module of this model leaves fp16's range")


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'fp16'"):
        advise([], "fp61")


BLOCKS = [f"blocks.{i}.{part}" for i in range(3) for part in ("attn.q", "attn.o", "mlp")]
MODEL = ["tokens", *BLOCKS, "head"]


@pytest.mark.parametrize(
    ("chosen", "globs"),
    [
        ([], []),
        (["head"], ["head"]),
        ([f for f in BLOCKS if "attn" in f], ["blocks.*.attn"]),
        ([f for f in BLOCKS if f.endswith("mlp")], ["blocks.*.mlp"]),
        ([f for f in BLOCKS if f.endswith(".q")], ["blocks.*.attn.q"]),
        (BLOCKS, ["blocks.*"]),
        (["blocks.1.mlp", "blocks.2.mlp"], ["blocks.1.mlp", "blocks.2.mlp"]),
        (["blocks.1.attn.q", "blocks.1.attn.o"], ["blocks.1.attn"]),
    ],
)
def test_families_become_one_glob_and_nothing_else_is_meant(chosen, globs):
    found = families(chosen, MODEL)
    assert list(found) == globs
    assert sorted(fqn for members in found.values() for fqn in members) == sorted(chosen)


def test_a_glob_that_would_mean_a_sound_module_is_not_taken():
    assert list(families({"0", "2"}, ["0", "1", "2"])) == ["0", "2"]
    assert list(families({"layers.0.a"}, ["layers.0.a", "layers.0.b", "layers.1.x"])) == ["layers.*.a"]
    assert list(families({"x.0.a", "x.1.a"}, ["x.0.a", "x.1.a", "x.last.a"])) == ["x.0.a", "x.1.a"]


def test_recommended_overrides_can_be_applied_and_leave_no_overflow():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    with torch.no_grad():
        model[1].weight.mul_(1e6)
    advice = advise(measured(model, torch.randn(8, 4)).table(), "fp16")
    assert list(advice.overrides) == ["1", "2"]
    fp16 = policy_of("fp16-mixed")
    with torch.autocast("cpu", torch.float16):
        before = model(torch.randn(8, 4))
    apply_overrides(model, dict.fromkeys(advice.overrides, policy_of("fp32")), run=fp16, device_type="cpu")
    with torch.autocast("cpu", torch.float16):
        after = model(torch.randn(8, 4))
    assert not before.isfinite().all() and after.isfinite().all()


def test_the_record_is_the_contract_and_plain_json(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = torch.tensor([[1.0, math.inf]])
    record = ranges_record(measured(model, x), task="t", device="cpu", precision="fp32", steps=[1, 2], format="fp16")
    write_record(tmp_path / "ranges.json", record)
    assert json.loads((tmp_path / "ranges.json").read_text()) == record
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.json"]
    head = {
        "schema": 1,
        "task": "t",
        "device": "cpu",
        "precision": "fp32",
        "steps": [1, 2],
        "elements_per_tensor": 65536,
    }
    assert head.items() <= record.items()
    assert {"format", "overrides", "reasons"} <= record["recommendation"].keys()
    for row in record["rows"]:
        shares = {"fqn", "kind", "dtype", "count", "zero_pct", "nonfinite_pct", "max_abs", "min_abs"}
        assert shares | {"exponents", "overflow_pct", "underflow_pct"} <= row.keys()
        assert list(row["overflow_pct"]) == list(row["underflow_pct"]) == ["fp16", "bf16", "e4m3", "e5m2"]
        nonzero = row["count"] * (1 - row["zero_pct"] / 100 - row["nonfinite_pct"] / 100)
        assert sum(row["exponents"]["counts"]) == pytest.approx(nonzero)
