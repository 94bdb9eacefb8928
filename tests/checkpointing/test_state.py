import copy

import pytest
import torch
from torch import nn

from ampguard.checkpointing import CheckpointStore, collect, restore
from ampguard.errors import CheckpointError


class Counter:
    """A guard that counts: the smallest thing with a state."""

    def __init__(self):
        self.steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adam lr tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2, dtype=torch.float64), foreach=False),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


class Run:
    """A tiny run whose every step depends on all that a checkpoint must hold."""

    def __init__(self, name="adamw", seed=0, width=4):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1))
        # The input's own dtype stays float32; groups of different options.
        first, rest = list(self.model[0].parameters()), [p for m in self.model[1:] for p in m.parameters()]
        self.optimizer = OPTIMIZERS[name]([{"params": first, "weight_decay": 0.1}, {"params": rest}])
        self.guard = Counter()

    def train(self, steps):
        losses = []
        for _ in range(steps):
            loss = self.model(torch.randn(8, 3)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.guard.steps += 1
            losses.append(loss.item())
        return losses

    def parts(self):
        return {"model": self.model, "optimizers": [self.optimizer], "guard": self.guard}

    def collect(self, **progress):
        return collect(**self.parts(), progress=progress)

    def restore(self, state):
        return restore(state, **self.parts())

    def fingerprint(self):
        state = copy.deepcopy(self.collect())
        state.pop("rng")
        return state


def assert_same(left, right, where="state"):
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key, value in left.items():
            assert_same(value, right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, value in enumerate(left):
            assert_same(value, right[index], f"{where}.{index}")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    else:
        assert left == right, where


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_bit_for_bit_after_a_checkpoint(tmp_path, name):
    whole = Run(name)
    whole.train(3)
    store = CheckpointStore(tmp_path)
    store.save(3, whole.collect(epoch=1, best=0.5))
    expected = whole.train(4)

    resumed = Run(name, seed=99)
    assert resumed.restore(store.load(3)) == {"epoch": 1, "best": 0.5}
    assert resumed.train(4) == expected
    assert_same(whole.fingerprint(), resumed.fingerprint())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_before_the_first_step_is_exact_too(tmp_path, name):
    whole, store = Run(name), CheckpointStore(tmp_path)
    store.save(0, whole.collect())
    expected, resumed = whole.train(3), Run(name, seed=5)
    resumed.restore(store.load(0))
    assert resumed.train(3) == expected


def test_saving_changes_nothing_in_the_run(tmp_path):
    plain, saving, store = Run(), Run(), CheckpointStore(tmp_path)
    torch.manual_seed(1)
    expected = plain.train(4)
    torch.manual_seed(1)
    losses = []
    for step in range(4):
        losses += saving.train(1)
        store.save(step, saving.collect())
    assert losses == expected
    assert_same(plain.fingerprint(), saving.fingerprint())


OTHERS = {
    "shape": (lambda run: Run(width=5), r"'0.weight' is \(4, 3\) float32 there and \(5, 3\) float32 here"),
    "missing": (lambda run: grown(Run()), r"it has no '4.weight', which this model has"),
    "unexpected": (lambda run: shrunk(Run()), r"it has '3.weight', which this model has not"),
    "optimizer": (lambda run: Run("adagrad"), r"it holds AdamW, this run has Adagrad"),
    "groups": (lambda run: regrouped(Run()), r"groups of optimizer 0 have \[2, 4\] parameters there and \[6\] here"),
    "dtype": (lambda run: halved(Run()), r"'0.weight' is \(4, 3\) float32 there and \(4, 3\) bfloat16 here"),
}


def grown(run):
    run.model.append(nn.Linear(1, 1))
    return run


def shrunk(run):
    del run.model[3]
    return run


def halved(run):
    run.model[0].to(torch.bfloat16)
    return run


def regrouped(run):
    run.optimizer = torch.optim.AdamW(run.model.parameters())
    return run


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_that_does_not_fit_names_the_difference_and_touches_nothing(other):
    run = Run()
    run.train(2)
    state = run.collect()
    make, message = OTHERS[other]
    live = make(run)
    before, rng = live.fingerprint(), torch.get_rng_state()
    with pytest.raises(CheckpointError, match=message):
        live.restore(state)
    assert_same(before, live.fingerprint())
    assert torch.get_rng_state().equal(rng)


def test_another_number_of_optimizers_is_refused():
    run = Run()
    state = run.collect()
    with pytest.raises(CheckpointError, match="it holds AdamW, this run has AdamW, AdamW"):
        restore(state, model=run.model, optimizers=[run.optimizer, run.optimizer], guard=run.guard)


@pytest.mark.parametrize("part", ["model", "optimizers", "guard", "rng", "progress"])
def test_a_state_that_lacks_a_part_is_refused(part):
    run = Run()
    state = run.collect()
    del state[part]
    with pytest.raises(CheckpointError, match=f"the checkpoint has no {part}"):
        run.restore(state)


class Versioned(nn.Linear):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        self.seen = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def get_extra_state(self):
        return {"amax": torch.tensor([2.0])}

    def set_extra_state(self, state):
        self.extra = state


def test_module_versions_and_extra_state_come_back(tmp_path):
    def parts():
        model = nn.Sequential(Versioned(2, 2))
        return {"model": model, "optimizers": [torch.optim.SGD(model.parameters(), lr=0.1)], "guard": Counter()}

    store, live = CheckpointStore(tmp_path), parts()
    store.save(1, collect(**parts(), progress={}))
    restore(store.load(1), **live)
    assert live["model"][0].seen == 2
    assert live["model"][0].extra["amax"].tolist() == [2.0]


def test_tied_weights_stay_tied(tmp_path):
    def parts():
        model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
        model["head"].weight = model["embed"].weight
        return {"model": model, "optimizers": [torch.optim.SGD(model.parameters(), lr=0.1)], "guard": Counter()}

    saved, live, store = parts(), parts(), CheckpointStore(tmp_path)
    store.save(1, collect(**saved, progress={}))
    restore(store.load(1), **live)
    assert live["model"]["head"].weight is live["model"]["embed"].weight
    assert live["model"]["head"].weight.equal(saved["model"]["head"].weight)


@pytest.mark.parametrize(
    ("key", "value"), [("torch", "1.0.0"), ("threads", 1234), ("device", "cuda"), ("device_name", "ABACUS")]
)
def test_another_environment_warns_once_and_goes_on(key, value, caplog):
    run = Run()
    state = run.collect()
    state["environment"][key] = value
    run.restore(state)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{key} {value!r} -> " in record.getMessage()


def test_the_same_environment_is_silent(caplog):
    run = Run()
    run.restore(run.collect())
    assert caplog.records == []


def test_a_model_without_parameters_has_an_environment():
    model = nn.Identity()
    assert collect(model=model, optimizers=[], guard=Counter(), progress={})["environment"]["device"] == "cpu"
