"""What a payload holds, traced through the ways in which such dictionaries are made."""

import textwrap

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.reading.checkpoints import saves
from ampguard.auditing.reading.project import Project

HEAD = "import torch\nfrom copy import deepcopy\n"
ALL = {"model", "optimizer", "scaler"}


def held(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(HEAD + textwrap.dedent(text))
    found = saves(Project({"train.py": path}, AuditConfig()).module("train.py"))
    assert len(found) == 1
    return found[0].holds


@pytest.mark.parametrize(
    "text",
    [
        "torch.save({'m': net.state_dict(), 'o': optimizer.state_dict(), 's': scaler.state_dict()}, p)",
        "torch.save(dict(model=a, optimizer=b, scaler=c), p)",
        "state = {'model': a}\nstate['optimizer'] = b\nstate.update(scaler=c)\ntorch.save(state, p)",
        "base = {'model': a, 'optimizer': b}\ntorch.save({**base, 'scaler': c}, p)",
        "base = {'model': a, 'optimizer': b}\ntorch.save(base | {'scaler': c}, p)",
        "def make():\n    return {'model': a, 'optimizer': b, 'scaler': c}\ntorch.save(make(), p)",
        "def fill(s):\n    torch.save(s, p)\ndef save_it(s):\n    fill_save(s)\n"
        "def fill_save(s):\n    torch.save(s, p)\nsave_it({'model': a, 'optimizer': b, 'scaler': c})",
        "state = {'model': a, 'optimizer': b, 'scaler': c}\ntorch.save(deepcopy(state), p)",
        "state = {'x': 1}\nstate = {'model': a, 'optimizer': b, 'scaler': c}\ntorch.save(state, p)",
        "state = {'model': a, 'optimizer': b, 'scaler': c} if full else {'model': a}\ntorch.save(state, p)",
        "torch.save([net.state_dict(), optimizer.state_dict(), scaler.state_dict()], p)",
    ],
)
def test_every_way_to_fill_a_payload_is_followed(text, tmp_path):
    holds = held(tmp_path, text)
    assert holds.kinds >= ALL
    assert not holds.open


@pytest.mark.parametrize(
    "text",
    [
        "torch.save({'model': a, **others()}, p)",
        "state = {'model': a}\nhooks.extend(state)\ntorch.save(state, p)",
        "state = collect()\ntorch.save(state, p)",
        "torch.save({name: part for name, part in parts} or unknown, p)",
        "state = {}\nfor name in names:\n    state[name] = things[name]\ntorch.save(state, p)",
    ],
)
def test_what_cannot_be_followed_leaves_the_payload_open(text, tmp_path):
    assert held(tmp_path, text).open


def test_an_earlier_payload_of_the_same_name_does_not_count(tmp_path):
    holds = held(
        tmp_path, "state = {'model': a, 'scaler': c}\nstate = {'model': a, 'optimizer': b}\ntorch.save(state, p)"
    )
    assert "scaler" not in holds.kinds


def test_a_key_that_holds_none_holds_nothing(tmp_path):
    assert held(tmp_path, "torch.save({'model': a, 'optimizer': None}, p)").kinds == {"model"}


def test_options_named_opt_are_no_optimizer(tmp_path):
    assert held(tmp_path, "torch.save({'model': a, 'opt': vars(opt)}, p)").kinds == {"model"}
