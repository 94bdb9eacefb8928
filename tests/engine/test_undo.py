"""The buffers of a skipped step are put back, bit for bit."""

import pytest
import torch
from torch import Tensor, nn

from ampguard.engine.undo import LARGE_BYTES, Undo

APPLIED, SKIPPED = torch.tensor(True), torch.tensor(False)
LARGE = LARGE_BYTES // 4 + 1


class Holder(nn.Module):
    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)


def test_batch_norm_statistics_come_back_from_inf():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(4, 3))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    undo = Undo(norm)
    undo.save()
    norm(torch.full((4, 3), torch.inf))
    assert not torch.isfinite(norm.running_mean).any() and norm.num_batches_tracked == 2
    undo.put_back(SKIPPED)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_an_applied_step_keeps_what_the_forward_wrote():
    norm = nn.BatchNorm1d(3)
    undo = Undo(norm)
    undo.save()
    norm(torch.randn(4, 3))
    after = {key: value.clone() for key, value in norm.state_dict().items()}
    undo.put_back(APPLIED)
    assert all(torch.equal(value, after[key]) for key, value in norm.state_dict().items())


STARTS = (
    torch.tensor([True, False]),
    torch.arange(3),
    torch.ones(2, dtype=torch.bfloat16),
    torch.zeros((), dtype=torch.uint8),
    torch.tensor([1 + 2j]),
    torch.tensor([torch.nan, 1.0]),
)


@pytest.mark.parametrize("start", STARTS, ids=lambda tensor: str(tensor.dtype))
def test_every_dtype_comes_back(start):
    holder = Holder(b=start.clone())
    undo = Undo(holder)
    undo.save()
    holder.b.copy_(torch.zeros_like(start) if start.any() else torch.ones_like(start))
    undo.put_back(SKIPPED)
    torch.testing.assert_close(holder.b, start, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 3)], ids=str)
def test_a_rebound_buffer_comes_back(shape):
    holder = Holder(b=torch.ones(3))
    undo = Undo(holder)
    for _ in range(2):
        undo.save()
        holder.b = torch.full(shape, torch.nan)
        undo.put_back(SKIPPED)
        assert torch.equal(holder.b, torch.ones(3))
    undo.save()
    holder.b = torch.full(shape, 2.0)
    undo.put_back(APPLIED)
    assert torch.equal(holder.b, torch.full(shape, 2.0))


def test_a_buffer_rebound_to_the_callers_batch_does_not_write_into_it():
    holder, batch = Holder(b=torch.ones(3)), torch.full((3,), torch.inf)
    undo = Undo(holder)
    undo.save()
    holder.b = batch
    undo.put_back(SKIPPED)
    assert torch.equal(holder.b, torch.ones(3))
    assert torch.equal(batch, torch.full((3,), torch.inf))


def test_a_buffer_that_is_attached_to_the_graph_can_be_saved_and_put_back():
    holder, weight = Holder(b=torch.ones(3)), torch.ones(3, requires_grad=True)
    undo = Undo(holder)
    holder.b = holder.b * weight
    for _ in range(2):
        undo.save()
        holder.b = holder.b * weight * torch.nan
        with torch.no_grad():
            undo.put_back(SKIPPED)
        assert torch.equal(holder.b, torch.ones(3))


@pytest.mark.parametrize("trains", ["first", "second"])
def test_a_shared_buffer_comes_back_whichever_of_its_modules_trains(trains):
    shared = torch.ones(2)
    both = nn.ModuleDict({"first": Holder(b=shared), "second": Holder(b=shared)})
    both.eval()
    both[trains].train()
    undo = Undo(both)
    undo.save()
    shared.zero_()
    undo.put_back(SKIPPED)
    assert torch.equal(shared, torch.ones(2)) and both["first"].b is both["second"].b


def test_modules_in_eval_mode_are_left_alone():
    both = nn.ModuleList([Holder(b=torch.ones(2)), Holder(b=torch.ones(2))])
    both[1].eval()
    undo = Undo(both)
    undo.save()
    for holder in both:
        holder.b.zero_()
    undo.put_back(SKIPPED)
    assert [holder.b.sum().item() for holder in both] == [2.0, 0.0]


def test_the_second_forward_of_a_group_does_not_save_again():
    holder = Holder(b=torch.zeros(()))
    undo = Undo(holder)
    for _ in range(3):
        undo.save()
        holder.b += 1
    undo.put_back(SKIPPED)
    assert holder.b == 0
    undo.save()
    holder.b += 1
    undo.put_back(APPLIED)
    undo.save()
    holder.b += 1
    undo.put_back(SKIPPED)
    assert holder.b == 1


@pytest.mark.parametrize("first", [APPLIED, SKIPPED], ids=["applied", "skipped"])
def test_a_large_buffer_is_left_out_only_if_the_first_step_left_it_unchanged(first):
    holder = Holder(idle=torch.zeros(LARGE), busy=torch.zeros(LARGE), small=torch.zeros(2))
    undo = Undo(holder)
    undo.save()
    holder.busy += 1
    undo.put_back(first)
    undo.settle()
    assert undo.unprotected == ("idle",)
    before = holder.busy.clone()
    undo.save()
    for buffer in holder.buffers():
        buffer += 1
    undo.put_back(SKIPPED)
    assert torch.equal(holder.busy, before) and holder.small.eq(0).all()
    assert holder.idle.eq(1).all()


def test_a_large_buffer_that_is_rebound_counts_as_changed():
    holder = Holder(b=torch.zeros(LARGE))
    undo = Undo(holder)
    undo.save()
    holder.b = torch.ones(LARGE)
    undo.put_back(APPLIED)
    undo.settle()
    assert undo.unprotected == ()


def test_a_large_idle_table_that_modules_share_is_left_out_at_once():
    table = torch.zeros(LARGE)
    undo = Undo(nn.ModuleList([Holder(b=table), Holder(b=table)]))
    undo.save()
    undo.put_back(APPLIED)
    undo.settle()
    assert undo.unprotected == ("0.b",)
    assert undo._slots == []


def test_a_buffer_made_by_the_first_forward_is_seen_after_a_rescan():
    net = nn.LazyBatchNorm1d()
    undo = Undo(net)
    undo.save()
    net(torch.randn(4, 3))
    undo.put_back(SKIPPED)
    undo.rescan()
    before = net.running_mean.clone()
    undo.save()
    net(torch.full((4, 3), torch.inf))
    undo.put_back(SKIPPED)
    assert torch.equal(net.running_mean, before)
