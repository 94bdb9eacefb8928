"""One module in its own precision: bitwise what a hand-written context would do, and still the module that it was."""

import copy
import inspect
import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ampguard.precision.overridden import is_overridden, override, ran, restore
from ampguard.precision.policy import policy_of

FP32, BF16, FP16, TRUE = map(policy_of, ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true"))
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

MODULES = {
    "linear": (lambda: nn.Linear(4, 4), (2, 4)),
    "layer norm": (lambda: nn.LayerNorm(4), (2, 4)),
    "batch norm": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "convolution": (lambda: nn.Conv1d(2, 2, 3), (1, 2, 5)),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), (1, 3, 4)),
    "lstm": (lambda: nn.LSTM(4, 3), (2, 1, 4)),
    "container": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4)), (2, 4)),
}


def call(module: nn.Module, x: Tensor) -> Tensor:
    """Return the first output; attention takes its input three times, once by keyword."""
    output = module(x, x, value=x) if isinstance(module, nn.MultiheadAttention) else module(x)
    return output[0] if isinstance(output, tuple) else output


def gradients(module: nn.Module, x: Tensor, output: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output.float().pow(2).sum(), [x, *module.parameters()]))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("kind", MODULES)
def test_fp32_in_a_half_run_is_bitwise_what_autocast_off_by_hand_is(kind, half):
    make, shape = MODULES[kind]
    module, x = make(), torch.randn(shape).to(HALF[half]).requires_grad_()
    other = copy.deepcopy(module)
    override(module, FP32, "cpu")
    with torch.autocast("cpu", dtype=HALF[half]):
        ours = call(module, x)
        with torch.autocast("cpu", enabled=False):
            theirs = call(other, x.float())
    assert ours.dtype == torch.float32
    assert same([ours, *gradients(module, x, ours)], [theirs, *gradients(other, x, theirs)])


@pytest.mark.parametrize("policy", [BF16, FP16], ids=lambda policy: policy.name)
@pytest.mark.parametrize("kind", ["linear", "layer norm", "convolution", "attention", "container"])
def test_a_lower_precision_in_an_fp32_run_is_bitwise_autocast_by_hand_and_comes_back_in_float32(kind, policy):
    make, shape = MODULES[kind]
    module, x = make(), torch.randn(shape, requires_grad=True)
    other = copy.deepcopy(module)
    override(module, policy, "cpu")
    ours = call(module, x)
    with torch.autocast("cpu", dtype=policy.compute_dtype):
        theirs = call(other, x)
    assert ours.dtype == torch.float32
    assert same([ours, *gradients(module, x, ours)], [theirs.float(), *gradients(other, x, theirs)])


class Probe(nn.Module):
    """Returns the dtypes that a product and its inputs have inside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, *args: object, **kwargs: object) -> tuple:
        return self.linear(torch.ones(1, 2)).dtype, args, kwargs


def test_inputs_are_found_wherever_they_are_nested_and_only_floats_are_cast():
    half, ids, text = torch.ones(2, dtype=torch.bfloat16), torch.arange(2), "text"
    probe = Probe()
    override(probe, FP32, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dtype, args, kwargs = probe(half, (half, [ids, text]), named={"deep": OrderedDict(x=half)}, none=None)
    assert dtype == args[0].dtype == args[1][0].dtype == kwargs["named"]["deep"]["x"].dtype == torch.float32
    assert args[1][1][0] is ids and args[1][1][1] == text and kwargs["none"] is None


def test_mixed_precision_leaves_inputs_to_autocast_and_true_precision_casts_them():
    x = torch.ones(1, 2)
    for policy, inside in ((BF16, torch.float32), (TRUE, torch.bfloat16)):
        probe = Probe().to(policy.storage_dtype)
        override(probe, policy, "cpu")
        with torch.autocast("cpu", dtype=torch.float16):
            dtype, args, _ = probe(x)
        assert (dtype, args[0].dtype) == (torch.bfloat16, inside)


def test_a_list_that_the_module_fills_is_the_callers_own():
    class Filling(nn.Module):
        def forward(self, seen: list) -> None:
            seen.append(1)

    module, seen = Filling(), [torch.ones(1)]
    override(module, FP32, "cpu")
    module(seen)
    assert seen == [torch.ones(1), 1]


def test_an_output_is_never_narrowed():
    head = nn.Linear(2, 2)
    override(head, FP32, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("outer", "inner", "dtype"), [(FP32, BF16, torch.bfloat16), (BF16, FP32, torch.float32), (BF16, FP16, torch.half)]
)
def test_the_inner_override_holds(outer, inner, dtype):
    probe = Probe()
    box = nn.Sequential(probe)
    override(box, outer, "cpu")
    override(probe, inner, "cpu")
    for run in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=run):
            assert box(torch.ones(1, 2))[0] == dtype


def test_a_container_holds_for_all_that_runs_inside():
    box = nn.Sequential(Probe())
    override(box, FP32, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert box(torch.ones(1, 2))[0] == torch.float32


def test_a_tied_weight_that_the_run_has_cast_already_is_cast_anew():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    override(second, FP16, "cpu")
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.float16):
        expected = nn.functional.linear(x, first.weight.detach().clone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first(x)
        assert torch.equal(second(x), expected)


def test_the_module_keeps_its_name_and_kind_and_repr_shows_the_precision():
    norm = nn.LayerNorm(4)
    override(norm, FP32, "cpu")
    assert isinstance(norm, nn.LayerNorm)
    assert type(norm).__name__ == "LayerNorm"
    assert repr(norm).startswith("LayerNorm[fp32]((4,)")
    assert repr(type(norm)) == "<class 'torch.nn.modules.normalization.LayerNorm[fp32]'>"
    assert inspect.signature(norm.forward) == inspect.signature(nn.LayerNorm(4).forward)


def test_modules_of_one_class_share_a_generated_one():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    override(first, FP32, "cpu")
    override(second, FP32, "cpu")
    assert type(first) is type(second)


def test_restore_gives_exactly_the_original_class_and_state_back():
    norm, plain = nn.BatchNorm1d(4), vars(nn.BatchNorm1d(4)).keys()
    override(norm, FP32, "cpu")
    norm(torch.randn(3, 4))
    override(norm, BF16, "cpu")
    assert type(norm).__mro__.count(nn.BatchNorm1d) == 1
    restore(norm)
    restore(norm)
    assert type(norm) is nn.BatchNorm1d and vars(norm).keys() == plain


class Plain(nn.Linear):
    """Of a class that no test compiles: what torch.compile has traced counts as run, in the whole process."""


class Built(nn.Module):
    """Pickles in its own way."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def __reduce__(self):
        return Built, (2,), vars(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "torch.save": saved} | {
    f"pickle {protocol}": lambda module, protocol=protocol: pickle.loads(pickle.dumps(module, protocol))
    for protocol in (0, 2, 5)
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("make", [lambda: Plain(2, 2), lambda: Built(2)], ids=["ordinary", "with a way of its own"])
def test_a_copy_keeps_weights_and_precision(way, make):
    module = make()
    override(module, FP32, "cpu")
    twin = COPIES[way](nn.Sequential(module))[0]
    assert type(twin) is type(module) and twin is not module
    assert not ran(twin)
    assert all(torch.equal(twin.state_dict()[key], value) for key, value in module.state_dict().items())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert twin(torch.ones(1, 2)).dtype == torch.float32


def test_weights_load_between_overridden_and_plain():
    module, plain = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    override(module[0], FP32, "cpu")
    assert list(module.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(module.state_dict())
    module.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_recomputes_in_the_same_precision(reentrant):
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    override(net[1], FP32, "cpu")
    x = torch.randn(2, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, again = net(x), checkpoint(net, x, use_reentrant=reentrant)
    expected = gradients(net, x, plain)
    again.float().pow(2).sum().backward()
    assert same([x.grad, *(p.grad for p in net.parameters())], expected)


def test_a_module_has_run_only_since_its_last_override():
    net = Plain(2, 2)
    override(net, FP32, "cpu")
    assert not ran(net)
    net(torch.ones(1, 2))
    assert ran(net)
    override(net, FP32, "cpu")
    assert not ran(net)


def test_a_tensor_given_twice_stays_one_tensor():
    probe, x = Probe(), torch.ones(2, dtype=torch.bfloat16)
    override(probe, FP32, "cpu")
    _, args, kwargs = probe(x, [x], again=x)
    assert args[0] is args[1][0] is kwargs["again"]


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


class Pair(nn.Module):
    """Takes and gives a nested structure, and has a class of its own, which no other test has traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, pair: dict, scale: float = 1.0) -> tuple:
        return self.linear(pair["x"]) * scale, pair["x"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair = nn.Linear(4, 4), Pair()

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.pair({"x": self.first(x)}, scale=2.0)
        return y + z


@pytest.fixture
def _backward_as_eager():
    with torch._functorch.config.patch(backward_pass_autocast="off"):
        yield


@pytest.mark.usefixtures("_backward_as_eager")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_without_a_graph_break_it_computes_the_same_and_counts_as_run(checkpointed):
    torch.compiler.reset()
    net, x = Net(), torch.randn(2, 4)
    model = Checkpointed(net) if checkpointed else net
    override(net.pair, FP32, "cpu")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = compiled(x)
        assert ran(net.pair) and is_overridden(net.pair)
        theirs = model(x)
    weights = list(net.parameters())
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
    grads = [torch.autograd.grad(y.pow(2).sum(), weights) for y in (ours, theirs)]
    assert same(*map(list, grads))


@pytest.mark.skipif(TORCH < (2, 13), reason="torch 2.11 does not look at a module's class again: docs/limits.md")
def test_code_that_was_compiled_before_is_compiled_anew():
    torch.compiler.reset()
    net, x = Net(), torch.randn(2, 4)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(x).dtype == torch.bfloat16
        override(net.pair, FP32, "cpu")
        assert compiled(x).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_default_compiler_takes_it():
    torch.compiler.reset()
    net, x = Net(), torch.randn(2, 4)
    override(net.pair, FP32, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), net(x))


def test_blocks_compiled_one_by_one_go_on_sharing_their_code():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    blocks = nn.Sequential(*(Net() for _ in range(3)))
    for block in blocks:
        override(block.pair, FP32, "cpu")
        block.compile(fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        x = torch.randn(2, 4)
        for block in blocks:
            block(x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
