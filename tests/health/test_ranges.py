import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ampguard.errors import ConfigError
from ampguard.health.ranges import Ranges
from ampguard.health.tally import sampled


class Apply(nn.Module):
    """A module that returns what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def measured(model, *inputs, backward=True, **options):
    with Ranges(model, **options) as ranges:
        out = model(*inputs)
        if backward:
            out.sum().backward()
    return ranges


def rows(ranges):
    return {(row.fqn, row.kind): row for row in ranges.table()}


def through(function, x):
    """Return the row of the activation of a module that returns function(x)."""
    found = rows(measured(nn.Sequential(Apply(function)), x, backward=False))
    return found.get(("0", "activation"))


def test_a_row_for_each_module_and_kind_in_the_models_order():
    ranges = measured(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3))
    linear = ["weight", "activation", "gradient", "weight_gradient"]
    expected = [("0", k) for k in linear] + [("1", k) for k in linear[1:3]] + [("2", k) for k in linear]
    assert list(rows(ranges)) == expected and ranges.notes() == []


def test_numbers_are_those_of_the_tensors():
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(5, 3)
    found = rows(measured(model, x))
    out, weights = model(x).detach(), torch.cat([p.detach().flatten() for p in model.parameters()])
    activation, weight, gradient = (found["0", kind] for kind in ("activation", "weight", "gradient"))
    assert (activation.count, activation.dtype) == (20, "float32")
    assert activation.max_abs == out.abs().max().item() and activation.min_abs == out.abs().min().item()
    assert activation.max_input_abs == x.abs().max().item() and weight.max_input_abs is None
    assert (weight.count, weight.max_abs) == (16, weights.abs().max().item())
    assert gradient.exponents == {"lowest": 0, "counts": [20]}
    # The bias is given the sum over the samples, the matrix that of the inputs for each of its four rows.
    sums = torch.cat([x.sum(0).repeat(4), torch.full((4,), 5.0)]).abs()
    assert found["0", "weight_gradient"].max_abs == pytest.approx(sums.max().item())


def train(model, steps, around):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        with around():
            model(torch.randn(8, 4)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [*model.state_dict().values(), torch.get_rng_state()]


def test_a_measured_run_is_bitwise_the_bare_run():
    def make():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 1)
        )

    bare, watched = make(), make()
    ranges = Ranges(watched)
    expected = train(bare, 4, torch.enable_grad)
    for a, b in zip(expected, train(watched, 4, lambda: ranges), strict=True):
        assert torch.equal(a, b)
    assert rows(ranges)["0", "activation"].count == 4 * 32


def test_hooks_are_gone_afterwards_also_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2))
    out = model(torch.ones(1, 2))
    with pytest.raises(ZeroDivisionError), Ranges(model) as ranges:
        out = model(torch.ones(1, 2))
        1 / 0  # noqa: B018
    before = ranges.table()
    out.sum().backward()
    model(torch.ones(1, 2))
    assert ranges.table() == before
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks and not model[0].weight._backward_hooks


def test_a_module_called_twice_is_one_row_of_both():
    linear = nn.Linear(2, 2)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    found = rows(measured(model, torch.randn(3, 2)))
    assert found["0", "activation"].count == found["0", "gradient"].count == 12
    assert ("2", "activation") not in found and found["0", "weight_gradient"].count == 6


def test_a_tied_weight_belongs_to_the_first_module():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    found = rows(measured(model, torch.randn(3, 2)))
    assert ("0", "weight") in found and ("1", "weight") not in found and ("1", "activation") in found


@dataclass
class Output:
    logits: torch.Tensor
    extra: object = None


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: {"a": [x]}, lambda x: Output(x), lambda x: Output({"b": x}, "text")],
    ids=["tuple", "dict", "dataclass", "nested"],
)
def test_tensors_are_found_in_what_modules_return(wrap):
    assert through(wrap, torch.ones(3)).count == 3


@pytest.mark.parametrize(
    "function",
    [lambda x: None, lambda x: x.long(), lambda x: x[:0], lambda x: "text", lambda x: x > 0, lambda x: x.to("meta")],
    ids=["None", "int", "empty", "str", "bool", "meta"],
)
def test_what_holds_no_numbers_is_no_row(function):
    assert through(function, torch.ones(3)) is None


@pytest.mark.parametrize(
    ("function", "count", "largest"),
    [
        (lambda x: torch.complex(x, 4 * x), 6, 4.0),
        (lambda x: torch.complex(x, 4 * x).conj(), 6, 4.0),
        (lambda x: torch.sparse_coo_tensor([[0, 0, 2]], x, (9,)), 2, 2.0),
        (lambda x: torch.diag(x).to_sparse_csr(), 3, 1.0),
        (lambda x: x.double() * 1e300, 3, 1e300),
        (lambda x: x.bfloat16(), 3, 1.0),
        (lambda x: x.to(torch.float8_e4m3fn), 3, 1.0),
        (lambda x: x.expand(4, 3).t(), 12, 1.0),
    ],
    ids=["complex", "conjugate", "sparse", "csr", "float64", "bf16", "float8", "expanded"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_every_kind_of_tensor_is_counted(function, count, largest):
    row = through(function, torch.ones(3))
    assert (row.count, row.max_abs) == (count, largest)


def test_non_finite_values_are_counted_apart_and_the_largest_is_finite():
    row = through(lambda x: x, torch.tensor([math.nan, math.inf, -3.0, 0.0]))
    assert (row.nonfinite_pct, row.zero_pct, row.max_abs, row.min_abs) == (50.0, 25.0, 3.0, 3.0)
    assert row.max_input_abs == 0.0


def test_all_zeros_have_no_largest():
    row = through(torch.zeros_like, torch.ones(3))
    assert (row.zero_pct, row.max_abs, row.min_abs, row.exponents["counts"]) == (100.0, None, None, [])


def test_sparse_gradients_are_counted_without_the_gaps():
    model = nn.Sequential(nn.Embedding(1000, 4, sparse=True))
    found = rows(measured(model, torch.tensor([1, 1, 7])))
    assert found["0", "weight_gradient"].count == 8 and found["0", "weight_gradient"].max_abs == 2.0


def test_half_weights_and_gradients_keep_their_dtype():
    model = nn.Sequential(nn.Linear(2, 2)).bfloat16()
    found = rows(measured(model, torch.ones(3, 2, dtype=torch.bfloat16)))
    assert {row.dtype for row in found.values()} == {"bfloat16"}


def test_under_autocast_activations_are_what_was_computed():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with Ranges(model) as ranges:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(torch.ones(3, 2))
        out.sum().backward()
    found = rows(ranges)
    assert found["0", "activation"].dtype == "bfloat16" and found["0", "weight"].dtype == "float32"


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_is_counted_once_in_both_directions(reentrant):
    block = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    model = Apply(lambda x: checkpoint(block, x, use_reentrant=reentrant))
    model.block = block
    found = rows(measured(model, torch.ones(3, 2, requires_grad=True)))
    assert found["block.0", "activation"].count == found["block.0", "gradient"].count == 6


def test_an_in_place_module_hides_nothing_of_the_one_before():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[0].bias.zero_()
    found = rows(measured(model, torch.ones(4, 2)))
    assert found["0", "activation"].max_abs == 2.0 and found["1", "activation"].max_abs is None
    assert found["0", "gradient"].zero_pct == 100.0 and found["1", "gradient"].zero_pct == 0.0


def test_a_compiled_model_runs_eagerly_inside_and_keeps_its_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    compiled(torch.ones(3, 2))
    found = rows(measured(compiled, torch.ones(3, 2)))
    assert found["0", "activation"].count == found["1", "gradient"].count == 6


def test_a_model_compiled_in_place_is_measured():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.compile(backend="eager")
    model(torch.ones(3, 2))
    assert rows(measured(model, torch.ones(3, 2)))["0", "activation"].count == 6


def test_a_model_without_parts_is_its_own_row():
    assert list(rows(measured(nn.Linear(2, 1), torch.ones(1, 2)))) == [
        ("", kind) for kind in ("weight", "activation", "gradient", "weight_gradient")
    ]


def test_weights_used_by_a_function_are_measured_and_the_note_says_what_is_not():
    linear = nn.Linear(2, 2)
    model = Apply(lambda x: nn.functional.linear(x, linear.weight))
    model.inner = linear
    ranges = measured(model, torch.ones(1, 2))
    assert list(rows(ranges)) == [("inner", "weight"), ("inner", "weight_gradient")]
    assert "only weights were measured" in ranges.notes()[0]


def test_without_a_backward_pass_the_note_says_so():
    assert "no backward pass" in measured(nn.Linear(1, 1), torch.ones(1, 1), backward=False).notes()[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_torchscript_modules_are_named():
    model = nn.Sequential(torch.jit.trace(nn.ReLU(), torch.ones(1)), nn.ReLU())
    ranges = measured(model, torch.ones(3), backward=False)
    assert list(rows(ranges)) == [("1", "activation")] and ranges.notes()[-1].endswith(": 0.")


def test_gradients_are_divided_by_the_loss_scale():
    model = nn.Sequential(nn.Linear(2, 2))
    plain, scaled = Ranges(model), Ranges(model).scaled_by(1024.0)
    for ranges, factor in ((plain, 1.0), (scaled, 1024.0)):
        with ranges:
            (model(torch.ones(3, 2)).sum() * factor).backward()
    assert plain.table() == scaled.table()


def test_counted_values_are_bounded_and_the_largest_is_of_all():
    x = torch.ones(1000)
    x[1] = 1e6
    row = rows(measured(nn.Sequential(nn.Identity()), x, backward=False, elements=100))["0", "activation"]
    assert row.count <= 100 and row.max_abs == 1e6 and row.overflow_pct["fp16"] == 0


@pytest.mark.parametrize("shape", [(64, 1024), (100, 3), (7, 8, 16), (1, 100000), (2, 3, 8, 8)])
@pytest.mark.parametrize("elements", [1, 64, 1000])
def test_the_sample_visits_every_channel(shape, elements):
    channels = torch.arange(shape[-1]).expand(shape).contiguous()
    found = sampled(channels, elements)
    assert found.numel() <= elements
    assert len(found.unique()) == min(found.numel(), shape[-1]) or len(found.unique()) > 0.5 * min(elements, shape[-1])


def test_a_dense_tensor_is_sampled_without_a_copy():
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert sampled(image, 50).untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_a_whole_tensor_is_counted_where_it_is_small():
    assert sampled(torch.arange(10.0).reshape(2, 5).t(), 100).sort().values.tolist() == list(range(10))


def test_no_elements_to_count_are_refused():
    with pytest.raises(ConfigError, match="elements is 0"):
        Ranges(nn.Linear(1, 1), elements=0)
