"""Scalers that another file makes: a base class, or whoever calls the function that trains."""

BASE = """
import torch


class Base:
    def __init__(self, mixed, half):
        self.scaler = torch.amp.GradScaler("cuda", enabled={flag})
"""

AGENT = """
import torch
from base import Base


class Agent(Base):
    def learn(self, batch):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.mixed):
            loss = self.net(batch)
        self.scaler.scale(loss).backward()
        self.finish()
"""


def lines(findings, files):
    return [(f.path, f.line) for f in findings(files, select=["AMP021"])]


def test_a_scaler_of_a_base_class_scales_bfloat16(findings):
    assert lines(findings, {"base.py": BASE.format(flag="mixed"), "agent.py": AGENT}) == [("agent.py", 10)]


def test_a_base_class_that_asks_for_the_dtype_is_right(findings):
    assert lines(findings, {"base.py": BASE.format(flag="half"), "agent.py": AGENT}) == []


def test_a_scaler_handed_over_scales_bfloat16(findings):
    epoch = """
    import torch


    def run_epoch(net, loader, optimizer, scaler):
        for batch in loader:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = net(batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    """
    main = """
    import torch
    from epoch import run_epoch

    scaler = torch.amp.GradScaler("cuda", enabled={flag})
    run_epoch(net, loader, optimizer, scaler)
    """
    on, asking = ({"epoch.py": epoch, "main.py": main.format(flag=flag)} for flag in ("True", "dtype == 'fp16'"))
    assert lines(findings, on) == [("epoch.py", 9)]
    assert lines(findings, asking) == []


def test_a_schedule_in_a_hook_runs_past_skipped_steps(findings):
    hook = """
    class LRHook:
        def after_step(self):
            self.scheduler.step()

        def after_epoch(self):
            self.scheduler.step()
    """
    trainer = """
    def step(trainer, loss):
        trainer.scaler.scale(loss).backward()
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
        {after}
    """
    blind = {"hooks.py": hook, "trainer.py": trainer.format(after="pass")}
    aware = {
        **blind,
        "trainer.py": trainer.format(after="trainer.schedule_on = trainer.scaler.get_scale() >= old_scale"),
    }
    assert [(f.path, f.line) for f in findings(blind, select=["AMP012"])] == [("hooks.py", 4)]
    assert [(f.path, f.line) for f in findings(aware, select=["AMP012"]) if f.path == "hooks.py"] == []
