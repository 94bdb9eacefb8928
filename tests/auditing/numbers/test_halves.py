"""What the fixtures cannot show of the half-precision rules: severities, and which regions count."""

import pytest

UNDER = """
    import torch


    def attend(query, key, mask, on):
        with {region}:
            return torch.matmul(query, key).masked_fill(mask, {value})
"""


def masked(findings, region, value="-1e9"):
    return [f.code for f in findings(UNDER.format(region=region, value=value), select=["NUM004"])]


@pytest.mark.parametrize(
    "region",
    [
        "torch.autocast('cuda', dtype=torch.float16)",
        "torch.autocast('cuda')",
        "torch.cuda.amp.autocast()",
        "torch.autocast('cuda', dtype=torch.half, enabled=on)",
    ],
)
def test_a_float16_region_counts(findings, region):
    assert masked(findings, region) == ["NUM004"]


@pytest.mark.parametrize(
    "region",
    [
        "torch.autocast('cuda', dtype=torch.bfloat16)",
        "torch.autocast('cpu')",
        "torch.autocast('cuda', enabled=False)",
        "torch.autocast(on)",
        "torch.autocast('cuda', dtype=on)",
        "torch.no_grad()",
    ],
)
def test_other_regions_do_not(findings, region):
    assert masked(findings, region) == []


@pytest.mark.parametrize("value", ["-1e4", "-65504", "float('-inf')", "torch.finfo(torch.float16).min", "on"])
def test_numbers_of_float16_pass(findings, value):
    assert masked(findings, "torch.autocast('cuda')", value) == []


def test_a_tolerance_that_two_float16_numbers_never_meet_is_medium(findings):
    text = """
        def near(a, b):
            a, b = a.half(), b.half()
            return (a - b).abs().max() < {}
    """
    assert [str(f.severity) for f in findings(text.format("1e-9"), select=["NUM003"])] == ["medium"]
    assert [str(f.severity) for f in findings(text.format("1e-6"), select=["NUM003"])] == ["low"]
    assert findings(text.format("1e-2"), select=["NUM003"]) == []


def test_an_optimizer_with_float32_copies_elsewhere_is_left_alone(findings):
    text = """
        import torch
        from apex.fp16_utils import FP16_Optimizer


        def build(net):
            net.half()
            return FP16_Optimizer(torch.optim.Adam(net.parameters()))
    """
    assert findings(text, select=["NUM002"]) == []


def test_a_cast_under_a_condition_is_not_certain(findings):
    text = """
        import torch


        def build(net, small):
            if small:
                net.half()
            return torch.optim.Adam(net.parameters())
    """
    assert findings(text, select=["NUM002"]) == []


def test_a_chain_of_numbers_that_name_each_other_ends(findings):
    text = """
        import torch


        def grow(x):
            x = x.half()
            n = 2**n
            return x * n
    """
    assert findings(text, select=["NUM"]) == []
