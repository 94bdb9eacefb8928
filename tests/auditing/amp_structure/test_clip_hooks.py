"""Clipping in the hooks of a trainer whose scaled backward pass stands in another file."""

HOOKS = """
import torch


class ClipHook:
    def after_backward(self, trainer):
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)


class Clipper:
    def clip(self, trainer):
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
"""

TRAINER = """
import torch


def step(trainer, batch):
    trainer.scaler.scale(trainer.model(batch).mean()).backward()
    {between}
    for hook in trainer.hooks:
        hook.after_backward(trainer)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
"""


def lines(findings, files):
    return [(f.path, f.line) for f in findings(files, select=["AMP001"])]


def test_a_hook_clips_what_nobody_unscales(findings):
    files = {"run/hooks.py": HOOKS, "run/trainer.py": TRAINER.format(between="pass")}
    assert lines(findings, files) == [("run/hooks.py", 7)]


def test_a_project_that_unscales_may_do_so_before_its_hooks(findings):
    between = "trainer.scaler.unscale_(trainer.optimizer)"
    assert lines(findings, {"run/hooks.py": HOOKS, "run/trainer.py": TRAINER.format(between=between)}) == []


def test_without_a_scaled_backward_pass_nothing_is_said(findings):
    assert lines(findings, {"run/hooks.py": HOOKS, "run/trainer.py": "def step(loss):\n    loss.backward()\n"}) == []


def test_a_helper_that_hooks_the_parameters_is_reported_at_its_call(findings):
    helper = """
    import torch


    def clip_by_hooks(model, bound):
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: torch.clamp(grad, -bound, bound))
    """
    trainer = """
    import torch
    from tools import clip_by_hooks


    def fit(model, optimizer, batches):
        scaler = torch.amp.GradScaler("cuda")
        clip_by_hooks(model, 1.0)
        for batch in batches:
            scaler.scale(model(batch)).backward()
            scaler.step(optimizer)
            scaler.update()
    """
    assert lines(findings, {"tools.py": helper, "fit.py": trainer}) == [("fit.py", 8)]
