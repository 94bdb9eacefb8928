"""What the fixtures of the structural AMP rules cannot show: severities, messages, edits, several files, tiny cases."""

import pytest

from ampguard.auditing.findings import Severity

STEP = """
import torch
from contextlib import nullcontext


def train(args, net, optimizer, loader):
    for batch in loader:
        with {context}:
            loss = net(batch).mean()
        loss.backward()
        optimizer.step()
"""


def codes(found):
    return [f.code for f in found]


def test_an_unscaled_half_step_is_high_and_on_the_critical_path(findings):
    (found,) = findings(STEP.format(context="torch.cuda.amp.autocast()"), select=["AMP024"])
    assert (found.severity, found.critical_path, found.scope) == (Severity.HIGH, True, "train")
    assert "autocast at line 8" in found.message


def test_the_same_step_in_a_test_file_is_low(findings):
    files = {"tests/test_step.py": STEP.format(context="torch.cuda.amp.autocast()")}
    assert [f.severity for f in findings(files, select=["AMP024"])] == [Severity.LOW]


@pytest.mark.parametrize("framework", ["from accelerate import Accelerator", "import deepspeed", "import lightning"])
def test_a_framework_scales_by_itself(findings, framework):
    text = framework + STEP.format(context="torch.cuda.amp.autocast()")
    assert findings(text, select=["AMP024"]) == []


def test_an_autocast_of_another_file_counts(findings):
    files = {
        "precision.py": "import torch\n\n\ndef half():\n    return torch.autocast('cuda', dtype=torch.float16)\n",
        "train.py": "from precision import half" + STEP.format(context="half()"),
    }
    assert codes(findings(files, select=["AMP024"])) == ["AMP024"]


def test_the_deprecated_name_is_mended_in_place(findings):
    text = """
    import torch


    def f(net, x, on):
        with torch.cuda.amp.autocast(on), torch.no_grad():
            net(x)
        with torch.cuda.amp.autocast():
            net(x)
        return torch.cuda.amp.GradScaler(init_scale=2.**5)
    """
    autocast, scaler = findings(text, select=["AMP027"])
    assert autocast.edit.lines == ('    with torch.amp.autocast("cuda", enabled=on), torch.no_grad():',)
    assert "1 more, lines 8" in autocast.message
    assert scaler.edit.lines == ('    return torch.amp.GradScaler("cuda", init_scale=2.**5)',)


def test_no_edit_where_torch_itself_is_not_imported(findings):
    text = "from torch.cuda.amp import GradScaler\n\nscaler = GradScaler()\n"
    (found,) = findings(text, select=["AMP027"])
    assert found.edit is None
    assert found.severity == Severity.LOW


def test_availability_of_cuda_is_no_test_of_the_version(findings):
    text = "import torch\n\ns = torch.cuda.amp.GradScaler() if torch.cuda.is_available() else None\n"
    assert codes(findings(text, select=["AMP027"])) == ["AMP027"]


@pytest.mark.parametrize(
    "line",
    [
        "s = torch.amp.GradScaler('cuda') if hasattr(torch.amp, 'GradScaler') else torch.cuda.amp.GradScaler()",
        "s = torch.cuda.amp.GradScaler() if torch.__version__ < '2.3' else torch.amp.GradScaler('cuda')",
        "s = torch.cuda.amp.GradScaler() if not TORCH_2_4 else torch.amp.GradScaler('cuda')",
    ],
)
def test_a_fallback_for_old_versions_is_fine(findings, line):
    assert findings(f"import torch\n\nTORCH_2_4 = False\n{line}\n", select=["AMP027"]) == []


RUN_ONCE = """
import torch


def step(net, optimizer, batch):
    scaler = torch.amp.GradScaler("cuda")
    scaler.scale(net(batch).mean()).backward()
    scaler.step(optimizer)
    scaler.update()


{caller}
"""


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        ("def main(net, optimizer, loader):\n    for b in loader:\n        step(net, optimizer, b)", ["AMP020"]),
        ("def demo(net, optimizer, batch):\n    step(net, optimizer, batch)", []),
        ("", ["AMP020"]),
    ],
)
def test_a_step_function_that_is_called_once_may_make_its_scaler(findings, caller, expected):
    assert codes(findings(RUN_ONCE.format(caller=caller), select=["AMP020"])) == expected


def test_half_parameters_are_critical(findings):
    text = """
    import torch

    net = make().cuda()
    net.half()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.cuda.amp.GradScaler()
    """
    (found,) = findings(text, select=["AMP022"])
    assert found.severity == Severity.CRITICAL
    assert "scaler of line 7" in found.message


@pytest.mark.parametrize(("device", "expected"), [("'cuda'", 1), ("'cpu'", 0), ("'xpu'", 1), ("device.type", 1)])
def test_bce_is_refused_by_the_autocast_of_a_gpu(findings, device, expected):
    text = f"""
    import torch
    import torch.nn.functional as F


    def f(net, x, y, device):
        with torch.autocast({device}, dtype=torch.bfloat16):
            return F.binary_cross_entropy(net(x), y)
    """
    assert len(findings(text, select=["AMP023"])) == expected


ACCUMULATE = """
from helper import loss_of


def train(model, loader, optimizer, accumulation_steps):
    for i, batch in enumerate(loader):
        loss = loss_of(model, batch)
        loss.backward()
        if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
"""


@pytest.mark.parametrize(
    ("helper", "expected"),
    [
        ("def loss_of(model, batch):\n    return model(batch)\n", ["AMP025"]),
        ("ACCUM = 4\n\n\ndef loss_of(model, batch):\n    return model(batch) / ACCUM\n", []),
        ("def loss_of(model, batch):\n    loss = model(batch)\n    return loss.sum()\n", []),
    ],
)
def test_a_helper_of_another_file_is_seen_through(findings, helper, expected):
    assert codes(findings({"train.py": ACCUMULATE, "helper.py": helper}, select=["AMP025"])) == expected


def test_accumulation_by_one_divides_by_nothing(findings):
    text = ACCUMULATE.replace("from helper import loss_of", "loss_of = None").replace("% accumulation_steps", "% 1")
    assert findings(text.replace("loss_of(model, batch)", "model(batch)"), select=["AMP025"]) == []


def test_an_evaluation_without_a_caller_in_the_file_is_only_low(findings):
    text = """
    import torch


    def evaluate(model, loader):
        model.eval()
        return [total(model(x)) for x in loader] or [model(x) for x in loader]


    def validate(model, loader):
        model.eval()
        for x in loader:
            print(model(x))
    """
    found = findings(text, select=["AMP031"])
    assert [(f.line, f.severity, f.likelihood) for f in found] == [
        (7, Severity.LOW, "possible"),
        (13, Severity.LOW, "possible"),
    ]


def test_a_file_that_never_calls_eval_is_told_so(findings):
    text = """
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))


    def train(loader, optimizer):
        for x in loader:
            net(x).mean().backward()
            optimizer.step()


    @torch.no_grad()
    def validate(loader):
        for x in loader:
            print(net(x))
    """
    (found,) = findings(text, select=["AMP032"])
    assert found.severity == Severity.LOW
    assert "nothing in this file calls eval()" in found.message


LOSSES = """
import torch
import torch.nn.functional as F


class Overlap(torch.nn.Module):
    def forward(self, p, y):
        return F.binary_cross_entropy(p, y)


def average(p, y):
    return F.binary_cross_entropy(p, y)
"""

TRAINER = """
import torch


def train(net, scaler, optimizer, batch):
    with torch.autocast("cuda", dtype={dtype}):
        loss = net(batch)
    {backward}
    scaler.step(optimizer)
"""


@pytest.mark.parametrize(
    ("backward", "expected"), [("scaler.scale(loss).backward()", [8]), ("loss.backward()", []), ("pass", [])]
)
def test_a_loss_of_a_project_with_mixed_precision_is_low(findings, backward, expected):
    files = {"losses.py": LOSSES, "trainer.py": TRAINER.format(dtype="torch.float16", backward=backward)}
    found = findings(files, select=["AMP023"])
    assert [f.line for f in found] == expected
    assert all(f.severity is Severity.LOW and "trainer.py" in f.message for f in found)


def test_a_loss_that_leaves_autocast_is_not_told_of_another_file(findings):
    careful = LOSSES.replace(
        "        return F.", "        with torch.autocast('cuda', enabled=False):\n            return F."
    )
    files = {
        "losses.py": careful,
        "trainer.py": TRAINER.format(dtype="torch.float16", backward="scaler.scale(loss).backward()"),
    }
    assert findings(files, select=["AMP023"]) == []


@pytest.mark.parametrize("scale", ["scaler.scale(loss).backward()", "loss.backward()"])
def test_an_evaluation_inside_of_training_is_medium_whoever_calls_it(findings, scale):
    text = f"""
    import torch


    def fit(net, scaler, optimizer, loader, held_out):
        net.train()
        for x in loader:
            loss = net(x).mean()
            {scale}
            optimizer.step()
        net.eval()
        for x in held_out:
            print(net(x))
    """
    assert [(f.line, f.severity) for f in findings(text, select=["AMP031"])] == [(13, Severity.MEDIUM)]


def test_a_dtype_that_is_chosen_makes_the_scaler_low(findings):
    step = """
    import torch


    def train(net, optimizer, batch, brain):
        dtype = torch.bfloat16 if brain else torch.float16
        scaler = torch.amp.GradScaler("cuda")
        with torch.autocast("cuda", dtype=dtype):
            loss = net(batch).mean()
        {use}
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    """
    assert [f.severity for f in findings(step.format(use="if True:"), select=["AMP021"])] == [Severity.LOW]
    assert findings(step.format(use="if not brain:"), select=["AMP021"]) == []
    assert findings(step.format(use="if dtype == torch.float16:"), select=["AMP021"]) == []


LOADED = """
import torch


def predict(path, x):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    net.load_state_dict(torch.load(path, weights_only=True))
    {mode}
    with torch.no_grad():
        return net(x)
"""


@pytest.mark.parametrize(("mode", "expected"), [("pass", [10]), ("net.eval()", []), ("net.train(False)", [])])
def test_a_model_that_is_loaded_and_run_needs_evaluation_mode(findings, mode, expected):
    found = findings(LOADED.format(mode=mode), select=["AMP032"])
    assert [f.line for f in found] == expected
    assert all(f.severity is Severity.LOW for f in found)


CHOSEN = """
    import torch
    from accelerate import Accelerator


    def train(args, net, loader):
        accelerator = Accelerator(mixed_precision={given})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        dtype = torch.float16 if {asked} == "fp16" else torch.float32
        net.to(accelerator.device, dtype=dtype)
        for x in loader:
            accelerator.backward(net(x).mean())
            optimizer.step()
"""


@pytest.mark.parametrize(
    ("given", "asked", "expected"),
    [
        ("args.mixed_precision", "args.mixed_precision", [Severity.HIGH]),
        ("args.mixed_precision", "accelerator.mixed_precision", [Severity.HIGH]),
        ("args.mixed_precision", "args.storage", []),
        ("'no'", "args.mixed_precision", []),
    ],
)
def test_a_cast_by_the_setting_that_scales_is_high(findings, given, asked, expected):
    found = findings(CHOSEN.format(given=given, asked=asked), select=["AMP022"])
    assert [f.severity for f in found] == expected


@pytest.mark.parametrize(
    ("choices", "expected"), [("['float16', 'bfloat16']", [Severity.LOW]), ("['float16', 'float32']", [])]
)
def test_a_dtype_of_the_command_line_is_what_it_allows(findings, choices, expected):
    text = f"""
    import argparse
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--compute-dtype", choices={choices})
    args = parser.parse_args()


    def train(net, loader, optimizer, dtypes):
        scaler = torch.amp.GradScaler("cuda")
        for x in loader:
            with torch.autocast("cuda", dtype=getattr(torch, args.compute_dtype)):
                loss = net(x).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    """
    assert [f.severity for f in findings(text, select=["AMP021"])] == expected


def test_a_whole_model_that_is_loaded_needs_evaluation_mode_too(findings):
    text = """
    import torch


    def classify(path, image):
        net = torch.load(path, weights_only=False).to("cpu")
        {mode}
        return net(image).argmax(dim=1)
    """
    assert [f.severity for f in findings(text.format(mode="print(path)"), select=["AMP032"])] == [Severity.LOW]
    assert findings(text.format(mode="net.eval()"), select=["AMP032"]) == []


def test_a_match_on_true_or_false_is_read_like_any_other(findings):
    text = """
    import torch


    def build(net, on):
        match on:
            case True:
                return torch.cuda.amp.GradScaler()
            case False | None:
                return None
    """
    assert codes(findings(text, select=["AMP027"])) == ["AMP027"]
