import sys

import pytest
import torch
from torch import nn

from ampguard.benchmarking import footprint as footprints
from ampguard.benchmarking.footprint import Footprint, KeptForBackward, PeakMeter, size_mib
from ampguard.benchmarking.report import Memory

MIB = 2**20


def test_a_storage_counts_once_however_many_tensors_see_it():
    tensor = torch.zeros(MIB // 4)
    assert size_mib([tensor, tensor.view(2, -1), tensor[: MIB // 8], None]) == 1.0
    assert size_mib([tensor, tensor.clone()]) == 2.0


def test_what_autograd_keeps_is_counted_without_the_weights():
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU())
    with KeptForBackward(model) as kept:
        model(torch.randn(256, 256, requires_grad=True)).sum().backward()
    # The input of the product, and the output of ReLU; the weight, which is kept for the input's gradient, is none.
    assert kept.mib == pytest.approx((256 * 256 + 256 * 1024) * 4 / MIB)


def test_autocast_copies_of_weights_count_as_activations():
    model = nn.Linear(256, 256)
    inputs = torch.randn(4, 256)
    with KeptForBackward(model) as full:
        model(inputs).sum().backward()
    with KeptForBackward(model) as half, torch.autocast("cpu", dtype=torch.bfloat16):
        model(inputs.requires_grad_()).sum().backward()
    assert half.mib > full.mib


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_the_peak_of_a_cpu_is_what_was_resident_most():
    meter = PeakMeter(torch.device("cpu"))
    meter.start()
    big = torch.ones(64 * MIB // 4)
    del big
    assert 60 <= meter.peak_mib() <= 200


def test_where_the_system_tells_no_peak_it_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(footprints, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    meter = PeakMeter(torch.device("cpu"))
    meter.start()
    assert meter.peak_mib() is None


def test_it_goes_through_json_and_back():
    found = Footprint(peak=3.0, parts=Memory(weights=1.0), reason="")
    assert Footprint.from_dict(found.as_dict()) == found


class Allocator:
    """As torch.cuda and torch.xpu tell it."""

    now = peak = 100 * MIB

    def reset_peak_memory_stats(self, device):
        self.peak = self.now

    def memory_allocated(self, device):
        return self.now

    def max_memory_allocated(self, device):
        return self.peak


def test_the_peak_of_an_accelerator_is_that_of_its_allocator_without_what_was_there(monkeypatch):
    played = Allocator()
    monkeypatch.setattr(torch, "get_device_module", lambda device: played)
    meter = PeakMeter(torch.device("cuda"))
    meter.start()
    played.peak = 130 * MIB
    assert meter.peak_mib() == 30.0


def test_an_accelerator_that_tells_no_peak_has_none(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: object())
    meter = PeakMeter(torch.device("mps"))
    meter.start()
    assert meter.peak_mib() is None
