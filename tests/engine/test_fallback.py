"""A module, or the whole run, goes on in a wider precision: nothing else moves, and a resumed run does the same."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ampguard.engine import Action, GradScaler, Guard
from ampguard.errors import CheckpointError, ConfigError, PrecisionError
from ampguard.hardware import inspect
from ampguard.precision.overridden import is_overridden, precision_of

WIDER = "bf16-mixed" if inspect(torch.device("cpu")).support("bf16-mixed").support == "native" else "fp32"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(8, 2)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x).float())
        for block in self.blocks:
            x = block(x)
        self.dtypes.append(x.dtype)
        return self.head(x)


def make(**options) -> tuple[Net, Guard, list]:
    torch.manual_seed(0)
    net, events = Net(), []
    options = {"precision": "fp16", "on_unsupported": "emulate", "on_event": events.append, "check_every": 4} | options
    return net, Guard(net, AdamW(net.parameters(), lr=0.01, fused=True), **options), events


def attempt(net: nn.Module, guard: Guard, *, bad: bool = False) -> None:
    with guard.autocast():
        loss = net(torch.randn(4, 4) * (torch.inf if bad else 1.0)).float().square().mean()
    guard.backward(loss)
    guard.step()


def everything(net: nn.Module, guard: Guard) -> dict[str, Tensor]:
    moments = {
        f"{index}.{name}": value
        for index, state in enumerate(guard.optimizers[0].state.values())
        for name, value in state.items()
    }
    return {name: value.clone() for name, value in {**net.state_dict(), **moments}.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_module_goes_to_fp32_and_nothing_else_moves():
    net, guard, events = make()
    for _ in range(3):
        attempt(net, guard)
    before, weights = everything(net, guard), [id(p) for p in net.parameters()]
    guard.fall_back("it overflows", modules=("blocks.1",))
    assert_same(before, everything(net, guard))
    assert weights == [id(p) for p in net.parameters()] and guard.decision.granted == "fp16-mixed"
    assert repr(guard).endswith("; blocks.1 in fp32 since step 3) | 3 applied, 0 skipped")
    assert is_overridden(net.blocks[1]) and not is_overridden(net.blocks[0])
    attempt(net, guard)
    assert net.dtypes == [torch.float16] * 3 + [torch.float32]
    (event,) = [event for event in events if event.kind == "fallback"]
    assert event.as_dict() == {
        "event": "fallback", "step": 3, "message": "'blocks.1': fp16-mixed -> fp32: it overflows",
        "from": "fp16-mixed", "to": "fp32", "modules": ["blocks.1"], "reason": "it overflows",
    }  # fmt: skip


def test_the_run_goes_to_bf16_where_it_is_native_else_to_fp32():
    net, guard, events = make()
    held = guard.autocast()
    for _ in range(3):
        attempt(net, guard)
    before = everything(net, guard)
    guard.fall_back("no module could be named")
    assert_same(before, everything(net, guard))
    assert (guard.decision.granted, guard.decision.requested, guard.loss_scale) == (WIDER, "fp16-mixed", None)
    assert guard.decision.reason == "fell back from fp16-mixed after step 3: no module could be named"
    assert events[-1].data == {"from": "fp16-mixed", "to": WIDER, "modules": [], "reason": "no module could be named"}
    assert guard.first_decision.granted == "fp16-mixed"
    with held:
        net(torch.randn(4, 4))
    assert net.dtypes[-1] is (torch.bfloat16 if WIDER == "bf16-mixed" else torch.float32)
    attempt(net, guard)
    assert guard.read().applied and guard.read().loss_scale is None


@pytest.mark.parametrize("to", ["fp32", "bf16-mixed"])
def test_the_run_goes_where_it_is_told(to):
    net, guard, _ = make()
    guard.fall_back("told so", to=to)
    attempt(net, guard)
    assert guard.decision.granted == to and guard.read().applied


def test_a_fallback_in_the_midst_of_a_context_holds_from_the_next_one_on():
    net, guard, _ = make()
    with guard.autocast():
        net(torch.randn(4, 4))
        guard.fall_back("now", to="fp32")
        with guard.autocast():
            net(torch.randn(4, 4))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    with guard.autocast():
        net(torch.randn(4, 4))
    assert [net.dtypes[0], net.dtypes[-1]] == [torch.float16, torch.float32]


@pytest.mark.parametrize("checkpointed_in_the_streak", [False, True])
def test_the_loss_scale_goes_back_to_what_it_was_before_the_streak(checkpointed_in_the_streak):
    net, guard, _ = make(init_scale=2.0**10)
    attempt(net, guard, bad=True)
    attempt(net, guard)
    for step in range(6):
        attempt(net, guard, bad=True)
        if step == 2 and checkpointed_in_the_streak:
            state, weights = guard.state_dict(), copy.deepcopy(net.state_dict())
            net, guard, _ = make(init_scale=2.0**10)
            net.load_state_dict(weights)
            guard.load_state_dict(state)
    assert guard.loss_scale == 2.0**3
    guard.fall_back("it overflows", modules=("head",))
    assert guard.loss_scale == 2.0**9, "the first skip had halved it once, the step after that was applied"
    attempt(net, guard, bad=True)
    assert guard.read().skip_streak == 1


def test_a_streak_that_goes_on_after_a_fallback_is_counted_afresh():
    heard = []
    net, guard, _ = make(
        init_scale=8.0, on_collapse=lambda collapse: heard.append(collapse) or Action.CONTINUE, check_every=1
    )
    for _ in range(5):
        attempt(net, guard, bad=True)
    guard.fall_back("once", modules=("head",))
    for _ in range(5):
        attempt(net, guard, bad=True)
    assert [(c.step, c.first_skipped, c.skip_streak) for c in heard] == [(4, 1, 4), (9, 6, 4)]
    assert all(collapse.guard is guard for collapse in heard)


@pytest.mark.parametrize("modules", [("blocks.0.0", "head"), ()], ids=["modules", "run"])
def test_a_resumed_run_has_the_fallbacks_before_its_first_step_and_is_bit_exact(modules):
    straight, guard, _ = make()
    for _ in range(3):
        attempt(straight, guard)
    guard.fall_back("it overflows", modules=modules)
    attempt(straight, guard)
    saved = copy.deepcopy((straight.state_dict(), guard.optimizers[0].state_dict(), guard.state_dict()))

    resumed, other, events = make()
    resumed.load_state_dict(saved[0])
    other.optimizers[0].load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    assert other.fallbacks == guard.fallbacks and other.decision == guard.decision and events == []
    rng = torch.get_rng_state()
    for _ in range(3):
        attempt(straight, guard)
    torch.set_rng_state(rng)
    for _ in range(3):
        attempt(resumed, other)
    assert resumed.dtypes == straight.dtypes[-3:]
    assert_same(everything(straight, guard), everything(resumed, other))
    assert other.state_dict() == guard.state_dict()


def test_loading_a_state_without_fallbacks_takes_them_back():
    net, guard, _ = make()
    state = guard.state_dict()
    guard.fall_back("it overflows", modules=("head",))
    guard.fall_back("and all the rest")
    guard.load_state_dict(state)
    assert guard.fallbacks == () and guard.decision.granted == "fp16-mixed" and guard.loss_scale == 2.0**16
    assert not is_overridden(net.head)


def test_a_guard_made_with_what_the_run_fell_back_to_takes_its_state():
    _, guard, _ = make()
    guard.fall_back("a module first", modules=("head",))
    guard.fall_back("then all", to="bf16-mixed")
    state = guard.state_dict()
    net, other, _ = make(precision="bf16-mixed")
    other.load_state_dict(state)
    attempt(net, other)
    assert other.fallbacks == () and other.read().applied
    with pytest.raises(CheckpointError, match="of a fp16-mixed run and this Guard is fp32"):
        make(precision="fp32")[1].load_state_dict(state)


def test_a_fallback_goes_over_the_overrides_that_are():
    net, guard, _ = make(overrides={"blocks.*": "bf16-mixed", "head": "fp16"})
    attempt(net, guard)
    guard.fall_back("it overflows", modules=("blocks.1", "head"))
    attempt(net, guard)
    assert net.dtypes == [torch.bfloat16, torch.float32]
    guard.fall_back("all of it", to="fp32")
    kept = {fqn: precision_of(net.get_submodule(fqn)).name for fqn in ("blocks.0", "blocks.1", "head")}
    # What was asked for by name stays, but that fp16 needs a loss scale; the fallback of modules is over.
    assert kept == {"blocks.0": "bf16-mixed", "blocks.1": "bf16-mixed", "head": "fp32"}
    attempt(net, guard)
    assert guard.read().applied


def test_a_name_is_no_pattern():
    net, guard, _ = make()
    net.add_module("head[0]", nn.Linear(2, 2))
    guard.fall_back("it overflows", modules=("head[0]",))
    assert is_overridden(net.get_submodule("head[0]")) and not is_overridden(net.head)


@pytest.mark.parametrize(
    ("modules", "to", "error"),
    [(("nowhere",), None, ConfigError), (("blocks",), None, ConfigError), ((), "fp99", PrecisionError)],
)
def test_what_cannot_be_leaves_everything_as_it_was(modules, to, error):
    net, guard, events = make()
    for _ in range(2):
        attempt(net, guard, bad=True)
    events.clear()
    before = guard.state_dict()
    events.clear()
    with pytest.raises(error):
        guard.fall_back("no", modules=modules, to=to)
    assert guard.state_dict() == before and guard.fallbacks == () and events == []


# torch's own, while it compiles a forward that is handed an activation.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_code_is_compiled_again(in_place):
    torch.compiler.reset()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model = net if in_place else torch.compile(net, backend="aot_eager")
    if in_place:
        net.compile(backend="aot_eager")
    guard = Guard(model, AdamW(net.parameters(), fused=True), precision="fp16", on_unsupported="emulate")
    dtypes = []
    for step in range(4):
        with guard.autocast():
            y = model(torch.randn(2, 4))
        dtypes.append(y.dtype)
        guard.backward(y.float().sum())
        guard.step()
        if step == 1:
            guard.fall_back("it overflows", modules=("1",))
    assert dtypes == [torch.float16] * 2 + [torch.float32] * 2


@pytest.mark.parametrize("change", [lambda guard: guard.fall_back("now"), Guard.end_streak])
def test_the_scale_does_not_change_under_gradients_that_carry_it(change):
    net, guard, _ = make()
    with guard.autocast():
        loss = net(torch.randn(4, 4)).float().square().mean()
    guard.backward(loss)
    with pytest.raises(ConfigError, match="between backward and step"):
        change(guard)
    guard.step()
    change(guard)


class Seen:
    def __init__(self) -> None:
        self.steps, self.closed = [], 0

    def step_end(self, guard: Guard) -> None:
        self.steps.append((guard.attempted, guard.read().applied))

    def close(self) -> None:
        self.closed += 1


def test_a_watcher_is_told_of_each_step_until_another_takes_its_place():
    net, guard, _ = make()
    one, two = Seen(), Seen()
    guard.watch(one)
    attempt(net, guard)
    attempt(net, guard, bad=True)
    guard.watch(two)
    attempt(net, guard)
    guard.watch(None)
    attempt(net, guard)
    assert one.steps == [(1, True), (2, False)] and two.steps == [(3, True)]
    assert (one.closed, two.closed, guard.watched) == (1, 1, False)


def test_a_watched_guard_is_not_asked_again():
    heard = []
    net, guard, events = make(
        init_scale=2.0, check_every=1, on_collapse=lambda collapse: heard.append(collapse) or Action.CONTINUE
    )
    guard.watch(Seen())
    for _ in range(6):
        attempt(net, guard, bad=True)
    assert heard == [] and "collapse" not in {event.kind for event in events}
    guard.watch(None)
    for _ in range(2):
        attempt(net, guard, bad=True)
    assert len(heard) == 1


def test_a_scaler_asks_without_a_guard():
    heard = []
    weight = nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight], fused=True)
    scaler = GradScaler(
        "cpu", init_scale=1.0, check_every=1, on_collapse=lambda collapse: heard.append(collapse) or Action.CONTINUE
    )
    for _ in range(3):
        scaler.scale((weight * torch.inf).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert heard and heard[0].guard is None
