import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ampguard.precision import autocast, policy_of
from ampguard.precision.dtypes import OUTSIDE, DtypeRow, dtype_table


class Net(nn.Module):
    """Every kind of row: leaves, a product in a function call, a shared module, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.attend = Attend()
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.body(self.embed(tokens))
        return self.head(self.attend(self.attend(x, scale=x.new_ones(()))))


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.drop(F.linear(x, x))


def table(precision: str, model: nn.Module | None = None) -> dict[str, DtypeRow]:
    model = model or Net()
    tokens = torch.arange(4)

    def run() -> None:
        with autocast(policy_of(precision), "cpu"):
            F.cross_entropy(model(tokens), tokens % 2)

    return {row.fqn: row for row in dtype_table(model, run)}


def test_autocast_shows_where_it_casts_and_where_not():
    rows = table("bf16-mixed")
    assert rows["embed"] == DtypeRow(
        fqn="embed",
        kind="Embedding",
        weights=("float32",),
        inputs=("int64",),
        compute=("float32",),
        outputs=("float32",),
        calls=1,
    )
    linear = rows["body.0"]
    assert (linear.inputs, linear.compute, linear.outputs) == (("float32",), ("bfloat16",), ("bfloat16",))
    assert linear.weights == ("float32",)
    # Statistics and weights stay float32 beside half-precision activations.
    assert set(rows["body.1"].compute) == {"bfloat16", "float32"}
    assert rows["body.2"].compute == rows["body.3"].compute == ("bfloat16",)


@pytest.mark.parametrize(
    ("precision", "compute"),
    [("fp32", "float32"), ("tf32", "float32"), ("bf16-mixed", "bfloat16"), ("fp16-mixed", "float16")],
)
def test_products_run_in_the_dtype_of_the_precision(precision, compute):
    rows = table(precision)
    assert rows["head"].compute == rows["attend"].compute == (compute,)


def test_weights_show_the_storage_dtype():
    rows = table("bf16-true", Net().bfloat16())
    assert {row.weights for row in rows.values() if row.weights} == {("bfloat16",)}
    assert rows["embed"].outputs == ("bfloat16",)


def test_what_a_container_computes_itself_is_a_row_and_a_mere_container_is_none():
    rows = table("bf16-mixed")
    assert rows["attend"].kind == "Attend"
    assert "body" not in rows and "" not in rows


def test_calls_are_counted_and_keyword_inputs_seen():
    rows = table("bf16-mixed")
    assert rows["attend"].calls == rows["attend.drop"].calls == 2


def test_the_loss_is_a_row_outside_the_model():
    row = table("bf16-mixed")[OUTSIDE]
    assert "float32" in row.compute and row.weights == row.inputs == ()


def test_modules_that_never_ran_come_last_with_no_calls():
    rows = list(table("bf16-mixed").values())
    assert (rows[-1].fqn, rows[-1].calls, rows[-1].compute) == ("idle", 0, ())
    assert all(row.calls or row.fqn == OUTSIDE for row in rows[:-1])


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_of_the_model_or_of_random_numbers_is_changed():
    model = Net()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    random = torch.get_rng_state()
    table("bf16-mixed", model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_forward_that_raises_leaves_nothing_behind():
    model = Net()
    mean = model.body[1].running_mean.clone()

    def run() -> None:
        model(torch.arange(4))
        model(torch.tensor([99]))

    with pytest.raises(IndexError):
        dtype_table(model, run)
    assert hooks(model) == 0
    assert torch.equal(model.body[1].running_mean, mean)


def test_an_exception_that_the_model_catches_does_not_misplace_what_follows():
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.works = nn.Linear(3, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.fails(x)
            except RuntimeError:
                return x.double() @ self.works(x).double()

    model = Catches()
    rows = {row.fqn: row for row in dtype_table(model, lambda: model(torch.ones(4, 4)))}
    assert rows[""].compute == ("float64",)
    assert rows["works"].compute == ("float32",)


def test_the_users_hooks_see_what_they_saw_and_stay():
    model = nn.Sequential(nn.Linear(4, 4))
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.no_grad():
        dtype_table(model, lambda: model(torch.ones(2, 4)))
    assert seen == [torch.float32] and hooks(model) == 1


def test_an_output_is_shown_as_the_module_returned_it():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda module, args, output: output.double())
    rows = dtype_table(model, lambda: model(torch.ones(2, 4)))
    assert rows[0].outputs == ("float32",)


def test_a_compiled_model_runs_eagerly_and_is_seen():
    model = torch.compile(nn.Sequential(nn.Linear(4, 4)), backend="eager")
    rows = dtype_table(model, lambda: model(torch.ones(2, 4)))
    assert [row.compute for row in rows] == [("float32",)]


def test_a_shared_module_is_one_row():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared)
    (row,) = dtype_table(model, lambda: model(torch.ones(2, 4)))
    assert (row.fqn, row.calls) == ("0", 2)


def test_a_number_beside_a_tensor_does_not_count():
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor(2.0, dtype=torch.float64)

    model = Doubles()
    (row,) = dtype_table(model, lambda: model(torch.ones(2)))
    assert row.compute == row.outputs == ("float32",)
