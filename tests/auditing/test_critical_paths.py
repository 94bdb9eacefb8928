"""The facts along the critical paths: what stands where, judged by nobody."""

import textwrap

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.critical_paths import critical_path_facts
from ampguard.auditing.reading.project import Project


@pytest.fixture
def facts(tmp_path):
    """Return {(kind, line): text} of a file."""

    def read(text, name="train.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        module = Project({name: path}, AuditConfig()).module(name)
        split = [(kind.removeprefix("path: "), *detail.split(" ", 1)) for kind, detail in critical_path_facts(module)]
        return {(kind, int(line)): told for kind, line, told in split}

    return read


def test_a_step_without_a_handler_fails_fast(facts):
    text = "def step(loss, optimizer):\n    loss.backward()\n    optimizer.step()\n"
    assert facts(text) == {
        ("training step", 1): "`step` (backward, optimizer step): no handler inside, errors reach the caller"
    }


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("pass", "which tells nobody"),
        ("print(error)", "which tells and goes on"),
        ("raise", "which raises"),
        ("print(error)\n        raise", "which tells and raises"),
        ("if bad(error):\n            raise", "which raises in some cases"),
    ],
)
def test_what_a_handler_around_a_step_does(facts, body, told):
    text = f"def step(loss):\n    try:\n        loss.backward()\n    except RuntimeError as error:\n        {body}\n"
    assert facts(text)["training step", 1] == f"`step` (backward): except RuntimeError at line 4, {told}"


def test_a_handler_around_a_call_that_trains(facts):
    text = """
    def step(loss):
        loss.backward()


    try:
        step(loss)
    except Exception:
        pass
    """
    found = facts(text)["handler around critical operations", 8]
    assert found == "except Exception around `step()` (critical: its first operation is a backward), which tells nobody"


def test_a_scheduler_alone_is_no_training_step(facts):
    assert facts("def advance(scheduler):\n    scheduler.step()\n") == {}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("scaler = GradScaler() if use_amp else None", "`GradScaler()`, if `use_amp`, else `None`"),
        ("scaler = None if cpu else GradScaler()", "`GradScaler()`, unless `cpu`, else `None`"),
        ("scaler = GradScaler(enabled=fp16)", "`GradScaler(enabled=fp16)`, enabled by `fp16`"),
        ("scaler = GradScaler()", "`GradScaler()`, always"),
        ("autocast('cuda', enabled=False)", "`autocast('cuda', enabled=False)`, switched off"),
        (
            "autocast('cuda', dtype=torch.bfloat16, enabled=on)",
            "`autocast('cuda', dtype=torch.bfloat16, enabled=on)`, computes in bfloat16, enabled by `on`",
        ),
    ],
)
def test_what_decides_about_the_precision(facts, line, told):
    text = f"import torch\nfrom torch.amp import GradScaler, autocast\n{line}\n"
    assert facts(text) == {("precision set-up", 3): told}


def test_a_tracker_call_and_what_is_around_it(facts):
    text = """
    import wandb

    for step in range(3):
        wandb.log({"step": step})
        try:
            wandb.log({"step": step})
        except Exception as error:
            print(error)
        try:
            wandb.log({"step": step})
        except KeyError:
            pass
    """
    bare = "`wandb.log` in a loop: no handler of any exception in this function"
    handled = "`wandb.log`: except Exception at line 8, which tells and goes on"
    assert facts(text) == {
        ("tracker call", 5): bare,
        ("tracker call with a handler", 7): handled,
        ("tracker call", 11): bare,
    }


def test_checkpoints_written_in_place_and_moved_into_place(facts):
    text = """
    import os
    import torch


    def careless(state):
        torch.save(state, "last.pt")
        return os.path.join("runs", "last")


    def careful(state):
        os.replace("last.pt", "previous.pt")
        torch.save(state, "last.tmp")
        os.replace("last.tmp", "last.pt")


    def unrelated(state, folder, other):
        torch.save(state, os.path.join(folder, "a.pt"))
        os.replace(os.path.join(other, "b.pt"), "c.pt")


    def careful_by_handle(state, temporary):
        with open(temporary, "wb") as file:
            torch.save(state, file)
        os.replace(temporary, "last.pt")


    def load():
        return torch.load("last.pt", weights_only=True)
    """
    fast = "no handler inside, errors reach the caller"
    assert facts(text) == {
        ("checkpoint save", 7): f"`torch.save(state, 'last.pt')`, written where it stays; {fast}",
        ("checkpoint save", 13): f"`torch.save(state, 'last.tmp')`, then moved into place at line 14; {fast}",
        ("checkpoint save", 18): f"`torch.save(state, os.path.join(folder, 'a.pt'))`, written where it stays; {fast}",
        ("checkpoint save", 24): f"`torch.save(state, file)`, then moved into place at line 25; {fast}",
        ("checkpoint load", 29): f"`torch.load('last.pt', weights_only=True)`; {fast}",
    }


def test_tests_have_no_critical_path(facts):
    assert facts("def test_it(loss):\n    loss.backward()\n", "tests/test_train.py") == {}
