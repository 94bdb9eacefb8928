"""Which modules an override takes, what a module may have, and the dtype that its weights are kept in."""

import logging

import pytest
import torch
import torch._functorch.config as compiler_config
from torch import Tensor, nn

from ampguard.errors import ConfigError, PrecisionError
from ampguard.hardware import Hardware, cuda_hardware
from ampguard.precision.overridden import Overridden, is_overridden
from ampguard.precision.overrides import apply_overrides, check_ran, grant_overrides, remove_overrides
from ampguard.precision.policy import policy_of

FP32, TF32, BF16, FP16, TRUE = map(policy_of, ("fp32", "tf32", "bf16-mixed", "fp16-mixed", "bf16-true"))


FULL, POOR = cuda_hardware("NVIDIA A100", (8, 0)), cuda_hardware("Tesla T4", (7, 5))


@pytest.fixture(autouse=True)
def _backward_setting_as_found():
    with compiler_config.patch(backward_pass_autocast="same_as_forward"):
        yield


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def apply(model: nn.Module, overrides: dict, run=BF16) -> tuple:
    return apply_overrides(model, overrides, run=run, device_type="cpu")


def overridden(model: nn.Module) -> dict[str, str]:
    """Return the precision of each overridden module by fqn."""
    return {fqn: type(m)._ampguard[1] for fqn, m in model.named_modules() if is_overridden(m)}


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def test_a_glob_takes_the_modules_that_it_matches_and_no_other():
    net = Net()
    found = apply(net, {"head": FP32, "blocks.*.norm": FP32})
    assert overridden(net) == {"blocks.0.norm": "fp32", "blocks.1.norm": "fp32", "head": "fp32"}
    assert sorted(fqn for fqn, _ in found) == ["blocks.0.norm", "blocks.1.norm", "head"]


def test_the_empty_glob_is_the_model_itself():
    net = nn.Linear(2, 2)
    apply(net, {"": FP32})
    assert overridden(net) == {"": "fp32"}


def test_of_several_globs_the_last_holds():
    net = Net()
    apply(net, {"**.norm": FP32, "blocks.1.norm": BF16})
    assert overridden(net) == {"blocks.0.norm": "fp32", "blocks.1.norm": "bf16-mixed"}


def test_a_glob_that_later_ones_cover_wholly_is_an_error():
    with pytest.raises(ConfigError, match=r"override 'blocks.1.norm' has no effect: .* Put the general glob first"):
        apply(Net(), {"blocks.1.norm": BF16, "**.norm": FP32})


def test_a_shared_module_is_known_by_each_of_its_names():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.append(net[0])
    found = apply(net, {"2": FP32})
    assert overridden(net) == {"0": "fp32"} and len(found) == 1


def test_a_container_without_a_forward_is_an_error_that_names_what_to_write():
    with pytest.raises(ConfigError, match=r"'blocks', a ModuleList, which has no forward. Name what it holds: 'blocks"):
        apply(Net(), {"blocks": FP32})


def test_a_wide_glob_passes_over_containers_without_a_forward():
    net = Net()
    apply(net, {"**": FP32})
    assert set(overridden(net)) == {fqn for fqn, _ in net.named_modules()} - {"blocks"}


def test_a_forward_on_the_instance_is_refused_as_it_would_hide_the_override():
    net = Net()
    net.head.forward = net.head.forward
    with pytest.raises(ConfigError, match="'head': its forward was replaced on the instance"):
        apply(net, {"head": FP32})


def test_a_class_that_was_derived_from_an_override_is_refused():
    net = Net()
    apply(net, {"head": FP32})
    nn.utils.parametrizations.weight_norm(net.head)
    assert isinstance(net.head, Overridden)
    with pytest.raises(ConfigError, match="its class was derived from an override's"):
        apply(net, {"head": FP32})


def test_a_compiled_model_is_known_by_the_names_that_it_had():
    net = Net()
    net.head = torch.compile(net.head, backend="eager")
    found = apply(torch.compile(net, backend="eager"), {"head": FP32, "blocks.0": FP32})
    assert dict(found) == {"head": net.head._orig_mod, "blocks.0": net.blocks[0]}


def test_the_last_call_holds_and_remove_gives_every_class_back():
    net, classes = Net(), [type(module) for module in Net().modules()]
    apply(net, {"**.norm": FP32})
    apply(net, {"head": FP32, "blocks.0": BF16})
    assert overridden(net) == {"blocks.0": "bf16-mixed", "head": "fp32"}
    remove_overrides(net)
    assert [type(module) for module in net.modules()] == classes


def test_compiled_backward_passes_run_as_eager_ones_from_the_first_override_on():
    apply(Net(), {})
    assert compiler_config.backward_pass_autocast == "same_as_forward"
    apply(Net(), {"head": FP32})
    assert compiler_config.backward_pass_autocast == "off"


def test_an_error_changes_nothing():
    net = Net()
    apply(net, {"head": FP32})
    before = dtypes(net)
    with pytest.raises(ConfigError):
        apply(net, {"blocks.0": FP32, "hed": FP32}, run=TRUE)
    assert overridden(net) == {"head": "fp32"} and dtypes(net) == before


def test_a_module_whose_forward_was_not_called_is_named():
    attention = nn.MultiheadAttention(4, 2)
    found = apply(nn.Sequential(attention), {"0": FP32, "0.out_proj": FP32})
    attention(*[torch.ones(1, 1, 4)] * 3)
    with pytest.raises(ConfigError, match=r"the forward of '0.out_proj' was not called in the first step"):
        check_ran(found)


@pytest.mark.parametrize("run", [FP32, BF16, FP16], ids=lambda policy: policy.name)
def test_float32_weights_stay_the_very_tensors_that_they_are(run):
    net = Net()
    before = [(tensor, tensor.data_ptr()) for tensor in net.state_dict(keep_vars=True).values()]
    apply(net, {"head": FP32, "blocks.*": BF16}, run=run)
    after = net.state_dict(keep_vars=True).values()
    assert all(new is old and new.data_ptr() == place for new, (old, place) in zip(after, before, strict=True))


def test_a_run_with_bf16_weights_keeps_float32_ones_to_the_bit_where_an_override_is():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    weights, values = list(net.parameters()), [p.detach().clone() for p in net.parameters()]
    apply(net, {"1": FP32, "2": FP32, "2.1": TRUE}, run=TRUE)
    half = {name for name, dtype in dtypes(net).items() if dtype == torch.bfloat16}
    assert half == {"0.weight", "0.bias", "2.1.weight", "2.1.bias"}
    assert all(new is old for new, old in zip(net.parameters(), weights, strict=True))
    assert all(torch.equal(p, value.to(p.dtype)) for p, value in zip(weights, values, strict=True))


def test_bf16_weights_of_a_part_of_a_float32_run():
    net = Net()
    net.head(torch.ones(1, 4)).sum().backward()
    apply(net, {"head": TRUE}, run=FP32)
    assert net.head.weight.dtype == net.head.weight.grad.dtype == torch.bfloat16
    net(torch.arange(3)).sum().backward()
    assert {p.grad.dtype for p in net.head.parameters()} == {torch.bfloat16}
    assert net.embed.weight.grad.dtype == torch.float32


def test_a_later_call_puts_weights_into_the_dtype_that_it_asks_for():
    net = Net()
    apply(net, {}, run=TRUE)
    apply(net, {"head": FP32}, run=TRUE)
    assert {name for name, dtype in dtypes(net).items() if dtype == torch.float32} == {"head.weight", "head.bias"}


def test_a_tied_weight_cannot_be_kept_in_two_dtypes():
    net = Net()
    net.head.weight = net.embed.weight
    with pytest.raises(ConfigError, match=r"'embed.weight' and 'head.weight' are one weight, .* torch.bfloat16 and"):
        apply(net, {"head": FP32}, run=TRUE)
    apply(net, {"head": FP32, "embed": FP32}, run=TRUE)
    assert net.head.weight is net.embed.weight and net.embed.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_part_goes_on_with_its_own_dtype(kind):
    net = nn.Sequential(kind(4, 4))
    apply(net, {"0": FP32}, run=TRUE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.ones(2, 1, 4, dtype=torch.bfloat16))[0].dtype == torch.float32
    apply(net, {}, run=TRUE)
    assert net(torch.ones(2, 1, 4, dtype=torch.bfloat16))[0].dtype == torch.bfloat16


def grant(name: object, run=BF16, hardware: Hardware = FULL, on_unsupported: str = "error") -> str:
    return grant_overrides({"head": name}, run, hardware, on_unsupported=on_unsupported)["head"].name


@pytest.mark.parametrize(
    ("given", "name"), [(32, "fp32"), ("no", "fp32"), (torch.bfloat16, "bf16-mixed"), ("bf16-true", "bf16-true")]
)
def test_precisions_are_spelled_as_elsewhere(given, name):
    assert grant(given) == name


@pytest.mark.parametrize(
    ("given", "run", "reason"),
    [
        ("auto", BF16, "an override says which one"),
        ("tf32", BF16, "a mode of the whole process"),
        ("fp8", BF16, "not available in this version"),
        ("half", BF16, "fp16 weights lose every update"),
        ("bf17", BF16, "'bf17' is unknown"),
        (True, BF16, "is a bool"),
        ("fp16", BF16, "fp16-mixed needs the loss scale; this run is bf16-mixed and has none"),
        ("fp16", FP32, "fp16-mixed needs the loss scale; this run is fp32 and has none"),
        ("fp32", TF32, "this run is tf32, which holds for the whole process"),
    ],
)
@pytest.mark.parametrize("on_unsupported", ["fallback", "error", "emulate"])
def test_what_a_module_cannot_have_is_refused_with_the_reason(given, run, reason, on_unsupported):
    with pytest.raises(PrecisionError, match=f"override 'head': .*{reason}") as caught:
        grant(given, run, on_unsupported=on_unsupported)
    assert caught.value.allowed == ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true")


def test_fp16_is_granted_in_a_run_that_scales():
    assert grant("fp16", FP16) == "fp16-mixed"


def test_what_the_device_lacks_goes_by_on_unsupported(caplog):
    with pytest.raises(PrecisionError, match="override 'head': precision 'bf16-mixed' needs a device with bf16"):
        grant("bf16", FP32, POOR, "error")
    assert grant("bf16", FP32, POOR, "emulate") == "bf16-mixed"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ampguard.precision"):
        assert grant("bf16", FP32, POOR, "fallback") == "fp32"
    (warning,) = caplog.messages
    assert warning.startswith("override 'head': precision 'bf16-mixed' needs a device with bf16 instructions")
    assert warning.endswith("It is fp32 instead.")


def test_what_the_run_has_itself_is_not_asked_for_again(caplog):
    assert grant("bf16", BF16, POOR, "error") == "bf16-mixed"
    assert not caplog.messages
