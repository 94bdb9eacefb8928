"""The first module whose output or gradient is not finite is named: exactly that one, in that phase."""

import copy
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ampguard.health import Finding, Locator


class Fault(nn.Module):
    """A module that does as it is told, at the call that it is told."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.kind = "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.kind == "forward":
            return y / (y - y)
        return _Spoiled.apply(y) if self.kind == "backward" else y


class _Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, torch.nan)


class Block(nn.Module):
    """A residual block with an activation in place."""

    def __init__(self, *, reentrant: bool | None = None) -> None:
        super().__init__()
        self.norm, self.fault, self.act = nn.LayerNorm(4), Fault(), nn.ReLU(inplace=True)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.run(x)
        return checkpoint(self.run, x, use_reentrant=self.reentrant)

    def run(self, x: Tensor) -> Tensor:
        return x + self.act(self.fault(self.norm(x)))


class Net(nn.Module):
    def __init__(self, **block) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block(**block) for _ in range(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def attempt(model: nn.Module, x: Tensor | None = None) -> Finding | None:
    with Locator(model) as locator:
        model(torch.randn(3, 4) if x is None else x).square().mean().backward()
    return locator.finding


PLAIN, KEPT, REENTRANT = {}, {"reentrant": False}, {"reentrant": True}
WAYS = pytest.mark.parametrize("block", [PLAIN, KEPT, REENTRANT], ids=["plain", "checkpointed", "reentrant"])
COMPILED = pytest.mark.parametrize("compiled", ["not", "wrapped", "in place", "one block"])


def make(block: dict, compiled: str = "not") -> tuple[Net, nn.Module]:
    torch.manual_seed(0)
    torch.compiler.reset()
    net = Net(**block)
    if compiled == "in place":
        net.compile(backend="aot_eager")
    elif compiled == "one block":
        net.blocks[2].compile(backend="eager")
    model = torch.compile(net, backend="aot_eager") if compiled == "wrapped" else net
    if compiled != "not":
        model(torch.randn(3, 4)).sum().backward()
    return net, model


@WAYS
@COMPILED
# torch's own, while it compiles a block whose input is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_planted_fault_is_named_with_its_phase(block, compiled, kind):
    net, model = make(block, compiled)
    assert attempt(model) is None
    net.blocks[2].fault.kind = kind
    found = attempt(model)
    assert found is not None and (found.fqn, found.phase) == ("blocks.2.fault", kind)
    assert found.shape == (3, 4) and found.dtype == "float32" and found.call == 1
    net.blocks[2].fault.kind = "none"
    assert attempt(model) is None


def test_of_two_faults_the_first_in_order_of_computation_is_named():
    net, model = make(PLAIN)
    net.blocks[1].fault.kind = net.blocks[3].fault.kind = "forward"
    assert attempt(model).fqn == "blocks.1.fault"
    net.blocks[1].fault.kind = net.blocks[3].fault.kind = "backward"
    assert attempt(model).fqn == "blocks.3.fault"


def test_a_bad_batch_is_data():
    net, model = make(PLAIN)
    net.blocks[1].fault.kind = "forward"
    found = attempt(model, torch.tensor([[1.0, torch.nan, 2.0, torch.inf]]))
    assert (found.fqn, found.phase, found.kind) == ("", "data", "data")
    assert "2 values" in found.cause and found.max_abs_before == 2.0


def test_a_batch_can_be_looked_at_before_the_model_is():
    _, model = make(PLAIN)
    with Locator(model) as locator:
        locator.check_inputs({"x": [torch.ones(2), torch.tensor([torch.nan])], "name": "a"})
    assert (locator.finding.phase, locator.finding.shape) == ("data", (1,))


def test_bad_weights_are_named_before_all_that_they_spoil():
    net, model = make(PLAIN)
    with torch.no_grad():
        net.blocks[2].fault.inner.bias[1] = torch.inf
    found = attempt(model, torch.full((1, 4), torch.nan))
    assert (found.fqn, found.phase, found.kind) == ("blocks.2.fault.inner", "weights", "weights")
    assert "'bias' holds 1 value" in found.cause


class Shared(nn.Module):
    """One module under two names, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        tied = Fault()
        self.left, self.right = nn.Sequential(OrderedDict(tied=tied)), nn.Sequential(OrderedDict(tied=tied))
        self.twice = nn.Linear(4, 4)
        self.spoil = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.left(x)
        if self.spoil:
            self.left.tied.kind = "forward"
        x = self.twice(self.twice(x).clamp(max=1e30) * (1e30 if self.spoil else 1.0))
        return self.right(x)


def test_a_shared_module_has_the_name_under_which_it_was_called():
    net = Shared()
    net.left.tied.kind = "forward"
    assert attempt(net).fqn == "left.tied"
    net.left.tied.kind = "none"
    torch.manual_seed(1)
    with Locator(net) as locator:
        net.left(torch.randn(3, 4))
        net.left.tied.kind = "forward"
        net.right(torch.randn(3, 4)).sum().backward()
    assert locator.finding.fqn == "right.tied" and locator.finding.call == 1


def test_a_module_that_is_called_twice_tells_which_call():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(self.scale(x))

    net = Twice()
    with torch.no_grad():
        net.scale.weight.fill_(1e30)
    found = attempt(net, torch.ones(1, 4))
    assert (found.fqn, found.call, found.kind) == ("scale", 2, "overflow")
    assert "call 2" in found.message()


class Container(nn.Module):
    """Its own code is at fault: between its children, or behind them."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        if self.place == "between":
            h = h * 1e38 * 1e38
        h = self.after(h)
        return h.square().sum() / 0 * h if self.place == "behind" else h


@pytest.mark.parametrize(("place", "kind"), [("between", "overflow"), ("behind", "domain")])
def test_a_container_is_named_where_its_own_code_did_it(place, kind):
    net = nn.Sequential(nn.Linear(4, 4), Container(place), nn.Linear(4, 2))
    found = attempt(net)
    assert (found.fqn, found.phase, found.kind) == ("1", "forward", kind)


def test_the_model_itself_is_named_by_an_empty_fqn():
    found = attempt(Container("behind"))
    assert found.fqn == "" and found.message().startswith("the model itself, forward")


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


@pytest.mark.parametrize(
    "wrap",
    [lambda y: (y, y), lambda y: {"a": [y]}, lambda y: Answer(y.detach() * 0, (y,))],
    ids=["tuple", "dict", "dc"],
)
def test_outputs_are_found_in_whatever_holds_them(wrap):
    class Wraps(nn.Module):
        def forward(self, x: Tensor) -> object:
            return wrap((x - x).log1p().log().exp() / 0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.wraps = nn.Linear(4, 4), Wraps()

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            self.wraps(h)
            return h

    assert attempt(Model()).fqn == "wraps"


class Operation(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("call", "phase", "words"),
    [
        (lambda x: torch.log(x - 1), "forward", "log of values that are 0 or negative"),
        (lambda x: x / (x - x), "forward", "a division by 0"),
        (lambda x: (x - x).rsqrt(), "forward", "rsqrt of 0"),
        (lambda x: (-x).pow(0.5), "forward", "a power of values"),
        (lambda x: torch.sqrt(-x), "forward", "sqrt of values outside of its domain"),
        (lambda x: torch.acos(x + 2), "forward", "acos of values outside"),
        (lambda x: torch.sqrt(x - x), "backward", "the derivative of sqrt at 0"),
        (lambda x: torch.linalg.vector_norm(x - x, dim=-1) ** 0.5, "backward", "the derivative of a power at 0"),
    ],
)
def test_the_cause_tells_which_operation_left_its_domain(call, phase, words):
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), Operation(call))
    found = attempt(net)
    assert (found.fqn, found.phase, found.kind) == ("2", phase, "domain"), found
    assert words in found.cause


def test_log_of_0_is_a_fault_of_the_forward_though_minus_inf_alone_may_be_a_mask():
    net = nn.Sequential(nn.Linear(4, 4), Operation(lambda x: torch.log(x - x)))
    found = attempt(net)
    assert (found.fqn, found.phase, found.kind) == ("1", "forward", "domain")


class Masked(nn.Module):
    """Attention with a mask of -inf, made inside, handed on, and given to modules."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.softmax, self.drop = nn.Linear(4, 12), nn.Softmax(-1), nn.Dropout(0.1)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT).masked_fill(mask.isinf(), -torch.inf)
        return self.layer(self.drop(self.softmax(scores)) @ v, src_mask=mask)


def test_masks_of_minus_inf_are_no_fault():
    net, mask = Masked(), torch.full((5, 5), -torch.inf).triu(1)
    with Locator(net) as locator:
        loss = net(torch.randn(2, 5, 4), mask).sum()
        locator.check_loss(loss)
        loss.backward()
    assert locator.finding is None


def test_a_row_that_is_masked_whole_is_named_at_the_softmax():
    net, mask = Masked(), torch.full((5, 5), -torch.inf).triu(1)
    with Locator(net) as locator:
        net(torch.randn(2, 5, 4), torch.full_like(mask, -torch.inf)).sum().backward()
    assert (locator.finding.fqn, locator.finding.phase) == ("softmax", "forward")


def half(model: nn.Module, x: Tensor, loss=lambda y: y.float().sum(), *, scale: float = 1.0) -> Finding | None:
    with Locator(model, loss_scale=scale) as locator:
        with torch.autocast("cpu", torch.float16):
            y = loss(model(x))
        (y * scale).backward()
    return locator.finding


def test_an_overflow_in_fp16_is_told_with_its_numbers():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.fill_(3e4)
        net[0].weight.copy_(torch.eye(4) * 10), net[0].bias.zero_()
    found = half(net, torch.ones(2, 4))
    assert (found.fqn, found.phase, found.kind, found.dtype) == ("1", "forward", "overflow", "float16")
    assert found.max_abs_before == 10.0 and found.limit == 65504.0
    assert found.cause == "overflow in float16: inputs up to 10, the format ends at 65504"


def test_an_overflow_to_minus_inf_alone_is_an_overflow_and_no_mask():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.LayerNorm(1), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.fill_(-6e4)
    found = half(net, torch.full((1, 1), 2.0))
    assert (found.fqn, found.kind) == ("0", "overflow")


def test_float32_results_of_products_in_fp16_name_fp16():
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qk = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            q, k = (1e3 * self.qk(x)).chunk(2, -1)
            return (q @ k.mT).softmax(-1)

    found = half(nn.Sequential(Scores(), nn.Linear(5, 1)), torch.ones(2, 5, 4))
    assert (found.fqn, found.kind, found.dtype) == ("0", "overflow", "float16")


def test_a_gradient_that_overflows_by_the_loss_scale_says_so():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].bias.zero_(), net[1].weight.mul_(1e3)
    found = half(net, torch.randn(3, 4) * 1e-3, lambda y: y.float().sum() * 1e-2, scale=2.0**15)
    assert (found.fqn, found.phase, found.kind) == ("1", "backward", "overflow")
    assert "at a loss scale of 32768" in found.cause and "without it" in found.cause


def test_a_weight_gradient_alone_names_its_module():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    found = half(net, torch.full((64, 4), 2e3), lambda y: y.float().sum() * 1e3)
    # Its inputs are large and its gradients are too: their product, the gradient of the weight, is what overflows.
    assert (found.fqn, found.phase, found.kind, found.shape) == ("1", "backward", "overflow", (4, 4))


def test_what_the_loss_does_is_no_fault_of_the_model():
    net = nn.Sequential(nn.Linear(4, 4))
    assert half(net, torch.randn(3, 4), lambda y: y.float().sum() * 1e6).fqn == "loss"
    with Locator(net) as locator:
        loss = net(torch.randn(3, 4)).square().sum() / 0
        locator.check_loss(loss)
        loss.backward()
    assert (locator.finding.fqn, locator.finding.phase) == ("loss", "loss")


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.net, x, use_reentrant=False))


def test_a_run_goes_on_bitwise_as_without_it_and_keeps_no_hook():
    torch.manual_seed(0)
    seen, bare = Noisy(), None
    bare = copy.deepcopy(seen)
    x = torch.randn(8, 4)

    def three_steps(model: nn.Module, *, armed: bool) -> Tensor:
        torch.manual_seed(1)
        for step in range(3):
            if armed and step == 1:
                with Locator(model) as locator:
                    model(x).square().sum().backward()
                assert locator.finding is None
            else:
                model(x).square().sum().backward()
        return torch.get_rng_state()

    assert torch.equal(three_steps(seen, armed=True), three_steps(bare, armed=False))
    for (name, a), (_, b) in zip(seen.state_dict().items(), bare.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(seen.parameters(), bare.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for module in seen.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._forward_hooks_always_called)
        assert not (module._forward_hooks_with_kwargs or module._forward_pre_hooks_with_kwargs)


def test_hooks_and_eager_mode_are_gone_after_an_error_in_the_forward():
    net, model = make(PLAIN, "wrapped")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Locator(model):
        model(torch.randn(3, 7))
    assert not any(module._forward_hooks for module in net.modules())
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_the_graph_is_let_go():
    net = nn.Linear(4, 4)
    with Locator(net) as locator:
        y = net(torch.randn(2, 4))
        node = y.grad_fn
        y.sum().backward(retain_graph=True)
    calls = []
    locator._graph._passed = lambda *args: calls.append(args)
    y.sum().backward()
    assert not locator._graph._known and calls == [] and node is not None


def test_a_validation_in_between_is_not_looked_at():
    net = nn.Sequential(nn.Linear(4, 4), Operation(torch.log))
    with Locator(net) as locator:
        with torch.no_grad():
            net(torch.randn(3, 4))
        F.linear(torch.randn(3, 4), net[0].weight).sum().backward()
    assert locator.finding is None


def test_blocks_that_a_loop_checkpoints_itself_are_looked_at_in_their_first_forward():
    net, _ = make(PLAIN)
    net.blocks[1].fault.kind = "forward"
    with Locator(net) as locator:
        x = net.first(torch.randn(3, 4))
        for block in net.blocks:
            x = checkpoint(block, x, use_reentrant=True)
        x.sum().backward()
    assert (locator.finding.fqn, locator.finding.phase) == ("blocks.1.fault", "forward")


def test_restart_forgets_the_step_before():
    net, model = make(PLAIN)
    with Locator(model) as locator:
        net.blocks[0].fault.kind = "forward"
        model(torch.randn(3, 4)).sum().backward()
        assert locator.finding is not None
        net.blocks[0].fault.kind = "none"
        locator.restart()
        model(torch.randn(3, 4)).sum().backward()
        assert locator.finding is None


def test_a_finding_is_plain_json():
    import json

    net, model = make(PLAIN)
    net.blocks[0].fault.kind = "forward"
    found = attempt(model)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["fqn"] == "blocks.0.fault" and told["shape"] == [3, 4]
    assert str(found) == found.message()
