import copy

import torch
from torch.optim import Optimizer

from ampguard.checkpointing.optimizers import load_optimizer, optimizer_state


def parameter(dtype=torch.float32):
    weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    weight.grad = torch.ones(3, dtype=dtype)
    return weight


class MasterSGD(Optimizer):
    """Not torch's: keeps float32 masters and integer codes beside bf16 weights."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                master = state.setdefault("master", weight.float())
                state["codes"] = state.get("codes", torch.zeros(3, dtype=torch.uint8)) + 1
                master.sub_(weight.grad.float(), alpha=group["lr"])
                weight.copy_(master)


def test_an_lr_tensor_is_saved_as_the_float_it_is():
    optimizer = torch.optim.Adam([parameter()], lr=torch.tensor(0.1 + 0.2, dtype=torch.float64), foreach=False)
    optimizer.param_groups[0]["initial_lr"] = torch.tensor(0.5)
    (group,) = optimizer_state(optimizer)["param_groups"]
    assert group["lr"] == 0.1 + 0.2
    assert (type(group["lr"]), group["initial_lr"]) == (float, 0.5)
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


def test_a_loaded_lr_goes_into_the_tensor_that_the_optimizer_holds():
    saved = optimizer_state(torch.optim.Adam([parameter()], lr=0.25))
    tensor = torch.tensor(1.0, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameter()], lr=tensor, foreach=False)
    load_optimizer(optimizer, saved)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == 0.25


def test_a_tensor_that_the_owner_has_bound_again_is_left_alone():
    """The guard's own load hook gives the LR its tensor."""
    saved = optimizer_state(torch.optim.Adam([parameter()], lr=0.25))
    optimizer, mine = torch.optim.Adam([parameter()], lr=torch.tensor(1.0), foreach=False), torch.tensor(0.75)
    optimizer.register_load_state_dict_post_hook(lambda o: o.param_groups[0].update(lr=mine))
    load_optimizer(optimizer, saved)
    assert optimizer.param_groups[0]["lr"] is mine
    assert mine.item() == 0.75


def test_state_keeps_its_dtype_whatever_its_parameter_has():
    trained = MasterSGD([parameter(torch.bfloat16), parameter()], lr=1e-3)
    trained.step()
    saved = copy.deepcopy(optimizer_state(trained))
    fresh = MasterSGD([parameter(torch.bfloat16), parameter()], lr=1e-3)
    load_optimizer(fresh, saved)
    for group, other in zip(fresh.param_groups, trained.param_groups, strict=True):
        for weight, twin in zip(group["params"], other["params"], strict=True):
            for key, value in trained.state[twin].items():
                assert fresh.state[weight][key].dtype == value.dtype
                assert fresh.state[weight][key].equal(value)


def test_a_parameter_without_state_stays_without():
    used, idle = parameter(), parameter()
    idle.grad = None
    trained = torch.optim.Adam([used, idle])
    trained.step()
    fresh = torch.optim.Adam([parameter(), parameter()])
    load_optimizer(fresh, optimizer_state(trained))
    assert len(fresh.state) == 1
