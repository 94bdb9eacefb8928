"""What another file says of a region or a model: its dtype, its backward pass, the scaler beside it."""


def lines(findings, code, **files):
    named = {f"{name}.py": text for name, text in files.items()}
    return [(f.path, f.line) for f in findings(named, select=[code])]


STEP = """
import torch
from common import {names}

def train(cfg, model, opt, loader):
    scaler = torch.amp.GradScaler("cuda", enabled={flag})
    for b in loader:
        with {opened}:
            loss = model(b).mean()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
"""

CHOOSES = """
import contextlib
import torch

def autocast(cfg):
    if not cfg.on:
        return contextlib.nullcontext()
    if cfg.kind == "brain":
        dtype = torch.bfloat16
    else:
        dtype = torch.float16
    return torch.autocast("cuda", dtype=dtype)
"""


def test_a_projects_own_autocast_is_followed_to_its_dtypes(findings):
    step = STEP.format(names="autocast", flag="cfg.on", opened="autocast(cfg)")
    assert lines(findings, "AMP021", common=CHOOSES, step=step) == [("step.py", 6)]
    asking = STEP.format(names="autocast", flag='cfg.kind == "half"', opened="autocast(cfg)")
    assert lines(findings, "AMP021", common=CHOOSES, step=asking) == []


def test_an_imported_dtype_is_known(findings):
    step = STEP.format(names="KIND", flag="True", opened='torch.autocast("cuda", dtype=KIND)')
    brain, half = (f"import torch\n\nKIND = torch.{name}\n" for name in ("bfloat16", "float16"))
    assert lines(findings, "AMP021", common=brain, step=step) == [("step.py", 6)]
    assert lines(findings, "AMP021", common=half, step=step) == []


def test_a_dtype_of_a_base_class_is_known(findings):
    base = """
    import torch

    class Base:
        kept = torch.{kept}

        def __init__(self):
            self.made = torch.{made}
    """
    agent = """
    import torch
    from base import Base

    class Agent(Base):
        def learn(self, batch):
            with torch.autocast("cuda", dtype=self.{name}):
                loss = self.net(batch)
            self.scaler.scale(loss).backward()

        def prepare(self):
            self.scaler = torch.amp.GradScaler("cuda")
    """
    text = base.format(kept="bfloat16", made="float16")
    assert lines(findings, "AMP021", base=text, agent=agent.format(name="kept")) == [("agent.py", 12)]
    assert lines(findings, "AMP021", base=text, agent=agent.format(name="made")) == []


def test_a_caller_in_another_file_switches_the_scaler_on(findings):
    engine = """
    import torch

    class Engine:
        def __init__(self, net, mixed):
            self.scaler = torch.amp.GradScaler("cuda", enabled=mixed)
    """
    main = """
    from engine import Engine

    def main(args, net):
        return Engine(net, mixed=args.precision {test})
    """
    wide, narrow = (main.format(test=test) for test in ('!= "fp32"', '== "fp16"'))
    assert lines(findings, "AMP021", engine=engine, main=wide) == [("engine.py", 6)]
    assert lines(findings, "AMP021", engine=engine, main=narrow) == []


REGION = """
import torch
from common import Updater, one_batch

class Agent:
    def __init__(self, net):
        self.updater = Updater(net)

    def learn(self, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = self.net(batch)
            {inside}
        {after}
"""

COMMON = """
class Updater:
    def __call__(self, loss):
        self.go_back(loss)

    def go_back(self, loss):
        self.scaler.scale(loss).backward()

    def note(self, loss):
        self.last = loss.item()

def one_batch(net, batch):
    net(batch).backward()
"""


def test_a_backward_pass_of_another_file_is_seen_in_a_region(findings):
    for inside in ("self.updater(loss)", "self.updater.go_back(loss)", "one_batch(self.net, batch)"):
        agent = REGION.format(inside=inside, after="return loss")
        assert lines(findings, "AMP011", agent=agent, common=COMMON) == [("agent.py", 12)], inside
    outside = REGION.format(inside="self.updater.note(loss)", after="self.updater(loss)")
    assert lines(findings, "AMP011", agent=outside, common=COMMON) == []


def test_a_function_decorated_as_a_region_goes_backward_elsewhere(findings):
    main = """
    import torch
    from common import one_batch

    @torch.autocast("cuda", dtype=torch.bfloat16)
    def main(net, loader):
        for batch in loader:
            one_batch(net, batch)
    """
    assert lines(findings, "AMP011", main=main, common=COMMON) == [("main.py", 8)]


def test_a_method_is_known_by_its_name_where_it_is_given_a_loss(findings):
    agent = """
    import torch

    def learn(net, batch, updater):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = net(batch)
            updater.go_back(loss)
            updater.note(loss)
    """
    assert lines(findings, "AMP011", agent=agent, common=COMMON) == [("agent.py", 7)]


def test_a_model_loaded_in_half_by_another_file_meets_a_scaler(findings):
    loads = """
    import torch
    from transformers import AutoModel

    def load(name):
        return AutoModel.from_pretrained(name, torch_dtype=torch.{kind})
    """
    train = """
    import torch
    from loads import load

    def train(name, loader):
        model = load(name).cuda()
        opt = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cuda")
        for x in loader:
            scaler.scale(model(x).mean()).backward()
            scaler.step(opt)
            scaler.update()
    """
    half, full = (loads.format(kind=kind) for kind in ("float16", "float32"))
    assert lines(findings, "AMP022", loads=half, train=train) == [("train.py", 6)]
    assert lines(findings, "AMP022", loads=full, train=train) == []


def test_a_scaler_that_is_off_is_handed_to_a_file_that_autocasts(findings):
    main = """
    import torch
    from engine import one

    def main(model, opt, loader):
        scaler = torch.cuda.amp.GradScaler(enabled={on})
        for x in loader:
            one(model, opt, scaler, x)
    """
    engine = """
    import torch

    def one(model, opt, scaler, x):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(x).mean()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
    """
    assert lines(findings, "AMP029", main=main.format(on="False"), engine=engine) == [("main.py", 6)]
    assert lines(findings, "AMP029", main=main.format(on="True"), engine=engine) == []


def test_a_scaler_and_the_autocast_of_another_file_are_given_different_flags(findings):
    model = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self, mixed):
            super().__init__()
            self.mixed = mixed

        def forward(self, x):
            with torch.autocast("cuda", enabled=self.mixed):
                return self.layers(x)
    """
    train = """
    import torch
    from model import Net

    def train(args, loader, opt):
        net = Net(args.{flag})
        scaler = torch.amp.GradScaler("cuda", enabled=args.fp16)
        for x in loader:
            scaler.scale(net(x).mean()).backward()
            scaler.step(opt)
            scaler.update()
    """
    apart, together = (train.format(flag=flag) for flag in ("mixed", "fp16"))
    assert lines(findings, "AMP029", model=model, train=apart) == [("train.py", 7)]
    assert lines(findings, "AMP029", model=model, train=together) == []
