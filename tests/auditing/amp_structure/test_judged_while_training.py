"""Models that are run for their answers while, or after, another file trains them, and say no mode (AMP032)."""

import pytest

SAMPLE = """
import torch


def write_samples(model, prompts, path):
    with torch.no_grad():
        {samples} = model(prompts)
    path.write_text(str({samples}.cpu().numpy()))
"""

TRAIN = """
from sampling import write_samples


def fit(model, loader, optimizer, prompts, path):
    model.train()
    for batch in loader:
        model(batch).mean().backward()
        optimizer.step()
        {mode}
        write_samples(model, prompts, path)
"""


def lines(findings, files):
    return [(f.path, f.line) for f in findings(files, select=["AMP032"])]


@pytest.mark.parametrize("mode, found", [("pass", [("sampling.py", 7)]), ("model.eval()", [])])
def test_a_helper_of_a_training_loop_samples_in_the_mode_that_the_loop_leaves(findings, mode, found):
    files = {"sampling.py": SAMPLE.format(samples="samples"), "fit.py": TRAIN.format(mode=mode)}
    told = [(f.path, f.line) for f in findings(files, select=["AMP032"]) if "samples from" in f.message]
    assert told == found


def test_a_helper_that_runs_a_model_for_a_loss_is_no_sample(findings):
    files = {"sampling.py": SAMPLE.format(samples="losses").replace("write_samples", "write")}
    files["fit.py"] = TRAIN.format(mode="pass").replace("write_samples", "write")
    assert lines(findings, files) == []


@pytest.mark.parametrize(
    "old, new",
    [
        (
            "with torch.no_grad()",
            "with torch.no_grad():\n        pass\n    if prompts",
        ),  # what records may be trained on
        ("str(samples.cpu().numpy()))", "str(samples))\n\n\ndef other(values):\n    return values.numpy()"),
        ("    path.write", "    model.train(False)\n    path.write"),
        ("    path.write", "    samples.mean().backward()\n    path.write"),
        ("    path.write", "    mc_samples = samples\n    path.write"),  # dropout is sampled
        ("model.train()", "pass"),  # nobody says a mode at all
    ],
)
def test_a_sample_that_is_meant_otherwise_is_left_alone(findings, old, new):
    files = {"sampling.py": SAMPLE.format(samples="samples"), "fit.py": TRAIN.format(mode="pass")}
    changed = {name: text.replace(old, new) for name, text in files.items()}
    assert [f.line for f in findings(changed, select=["AMP032"]) if "samples from" in f.message] == []


def test_a_sample_of_old_torch_is_volatile(findings):
    text = SAMPLE.format(samples="samples").replace("with torch.no_grad()", "if prompts")
    text = text.replace("model(prompts)", "model(Variable(prompts, volatile=True))")
    assert lines(findings, {"sampling.py": text, "fit.py": TRAIN.format(mode="pass")}) == [("sampling.py", 7)]


def test_a_helper_that_no_training_runs_is_left_alone(findings):
    assert lines(findings, {"sampling.py": SAMPLE.format(samples="samples")}) == []


def test_a_teacher_is_in_the_mode_that_its_maker_chose(findings):
    files = {"sampling.py": SAMPLE.format(samples="samples").replace("model", "teacher_model")}
    files["fit.py"] = TRAIN.format(mode="pass")
    assert lines(findings, files) == []


GATHER = """
import torch


def {name}(model, loader):
    kept = []
    for batch in loader:
        features = model(batch)
        kept.append(features.cpu())
    return kept
"""

USE = """
from gathering import {name}
from nets import Network


def main(loader):
    model = Network()
    {mode}
    return {name}(model, loader)
"""


@pytest.mark.parametrize("mode, found", [("pass", [("gathering.py", 8)]), ("model.eval()", [])])
@pytest.mark.parametrize("name", ["extract_features", "getEmbedding"])
def test_features_are_gathered_for_another_file_in_whatever_mode(findings, name, mode, found):
    files = {"gathering.py": GATHER.format(name=name), "use.py": USE.format(name=name, mode=mode)}
    assert lines(findings, files) == found


@pytest.mark.parametrize("name", ["extract_features_for_bn", "walk"])
def test_what_gathers_statistics_or_no_features_is_left_alone(findings, name):
    files = {"gathering.py": GATHER.format(name=name), "use.py": USE.format(name=name, mode="pass")}
    assert lines(findings, files) == []


def test_features_of_a_wrapper_of_what_is_handed_over_are_gathered_in_its_mode(findings):
    text = GATHER.format(name="extract_features").replace("= model(batch)", "= spread_model(batch)")
    text = text.replace("    kept = []", "    spread_model = torch.nn.DataParallel(model)\n    kept = []")
    files = {"gathering.py": text, "use.py": USE.format(name="extract_features", mode="pass")}
    assert lines(findings, files) == [("gathering.py", 9)]


@pytest.mark.parametrize(
    "old, new",
    [
        ("    kept = []", "    kept = []\n    model.train(False)"),
        ("    return kept", "    return kept\n\n\ndef show(model):\n    print(extract_features(model, []))"),
    ],
)
def test_features_that_say_a_mode_or_are_used_in_their_file_are_left_alone(findings, old, new):
    text = GATHER.format(name="extract_features").replace(old, new)
    assert lines(findings, {"gathering.py": text, "use.py": USE.format(name="extract_features", mode="pass")}) == []


def test_features_of_a_model_that_the_function_makes_are_its_own_matter(findings):
    text = GATHER.format(name="extract_features").replace("    kept = []", "    model = nets.Network()\n    kept = []")
    files = {"gathering.py": text.replace("(model, loader)", "(loader)")}
    files["use.py"] = USE.format(name="extract_features", mode="pass")
    assert lines(findings, files) == []


def test_features_that_nobody_asks_for_are_left_alone(findings):
    assert lines(findings, {"gathering.py": GATHER.format(name="extract_features")}) == []


GENERATE = """
import torch
from nets import {make}


def evaluate(model, held_out):
    {mode}
    with torch.no_grad():
        return [model.generate(batch) for batch in held_out]


def main(loader, held_out, optimizer):
    model = {make}.{how}("small")
    for batch in loader:
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
    print(evaluate(model, held_out))
"""


@pytest.mark.parametrize(
    "mode, how, found",
    [
        ("pass", "of_size", [("train.py", 9)]),
        ("model.eval()", "of_size", []),
        ("pass", "from_pretrained", []),
    ],
)
def test_an_evaluation_generates_in_training_mode(findings, mode, how, found):
    text = GENERATE.format(make="Network", mode=mode, how=how)
    told = [(f.path, f.line) for f in findings(text, select=["AMP032"]) if "generates" in f.message]
    assert told == found


@pytest.mark.parametrize(
    "old, new",
    [
        ("loss.backward()", "print(loss)"),
        ("def evaluate(model, ", "def evaluate(reader, "),
        ("evaluate(", "show("),
        ("[model.generate(batch) for batch in held_out]", "model.generate(held_out)"),
    ],
)
def test_what_is_no_evaluation_of_the_trained_model_over_data_may_generate(findings, old, new):
    text = GENERATE.format(make="Network", mode="pass", how="of_size").replace(old, new)
    text = text.replace("[model.generate", "[reader.generate") if "(reader" in text else text
    assert [f.line for f in findings(text, select=["AMP032"]) if "generates" in f.message] == []


TRACE = """
import torch
from nets import Network


class Task:
    def __init__(self):
        self.model = Network()

    def train(self, loader, optimizer):
        for batch in loader:
            self.model(batch).mean().backward()
            optimizer.step()

    def write(self, example, path):
        {mode}
        traced = torch.jit.trace({model}, example)
        {then}
"""


@pytest.mark.parametrize(
    "mode, model, then, found",
    [
        ("pass", "self.model", "traced.save(path)", [17]),
        ("self.model.eval()", "self.model", "traced.save(path)", []),
        ("pass", "self.model", "print(traced.graph)", []),
        ("pass", "other", "traced.save(path)", []),
    ],
)
def test_a_trained_model_is_traced_for_a_file_in_its_mode(findings, mode, model, then, found):
    text = TRACE.format(mode=mode, model=model, then=then)
    assert [f.line for f in findings(text, select=["AMP032"]) if "traced" in f.message] == found


def test_a_model_that_its_object_never_trains_is_traced_as_it_came(findings):
    text = TRACE.format(mode="pass", model="self.model", then="traced.save(path)").replace("def train", "def run")
    assert [f.line for f in findings(text, select=["AMP032"]) if "traced" in f.message] == []


NETWORK = """
import torch
from torch import nn


class {name}(nn.Module):
    def forward(self, x):
        return x * 2

    def predict(self, x):
        {first}
        with torch.no_grad():
            return {run}.argmax(-1)
{more}"""

OWN_HELPER = """
    def infer(self, x):
        {first}
        return self(x)
"""


@pytest.mark.parametrize(
    "first, others, found", [("pass", "self.eval()", [13]), ("self.eval()", "self.eval()", []), ("pass", "pass", [])]
)
def test_a_network_predicts_unlike_another_network_of_its_project(findings, first, others, found):
    files = {
        "tagger.py": NETWORK.format(name="Tagger", first=first, run="self(x)", more=""),
        "parser.py": NETWORK.format(name="Parser", first=others, run="self(x)", more=""),
    }
    told = [f for f in findings(files, select=["AMP032"]) if "as another network's" in f.message]
    assert [(f.path, f.line) for f in told if f.path == "tagger.py"] == [("tagger.py", line) for line in found]


@pytest.mark.parametrize("first, found", [("pass", True), ("self.eval()", False)])
def test_a_network_predicts_through_a_method_of_its_own(findings, first, found):
    files = {
        "tagger.py": NETWORK.format(
            name="Tagger", first="pass", run="self.infer(x)", more=OWN_HELPER.format(first=first)
        ),
        "parser.py": NETWORK.format(name="Parser", first="self.eval()", run="self(x)", more=""),
    }
    assert bool(lines(findings, files)) is found


def test_a_prediction_that_a_switching_file_asks_for_is_left_alone(findings):
    files = {
        "tagger.py": NETWORK.format(name="Tagger", first="pass", run="self(x)", more=""),
        "parser.py": NETWORK.format(name="Parser", first="self.eval()", run="self(x)", more=""),
        "serve.py": "def serve(tagger, x):\n    tagger.eval()\n    return tagger.predict(x)\n",
    }
    assert lines(findings, files) == []


def test_a_prediction_by_forward_is_one(findings):
    files = {
        "tagger.py": NETWORK.format(name="Tagger", first="pass", run="self.forward(x)", more=""),
        "parser.py": NETWORK.format(name="Parser", first="self.eval()", run="self(x)", more=""),
    }
    assert lines(findings, files) == [("tagger.py", 13)]


@pytest.mark.parametrize(
    "old, new",
    [
        ("(nn.Module)", ""),  # what is no network has no mode
        ("import torch\n", "import torch\n\n\ndef judge(tagger):\n    tagger.eval()\n"),
        ("self(x)", "self.infer(x)"),
    ],
)
def test_a_prediction_that_may_be_switched_is_left_alone(findings, old, new):
    text = NETWORK.format(name="Tagger", first="pass", run="self(x)", more="").replace(old, new, 1)
    base = "from torch import nn\n\n\nclass Base(nn.Module):\n    def infer(self, x):\n        return self(x)\n"
    files = {
        "tagger.py": text.replace("nn.Module", "Base").replace("from torch import nn", "from base import Base")
        if "infer" in new
        else text,
        "base.py": base,
        "parser.py": NETWORK.format(name="Parser", first="self.eval()", run="self(x)", more=""),
    }
    assert [place for place in lines(findings, files) if place[0] == "tagger.py"] == []


TWO_REASONS = """
import torch


class Relations:
    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def infer(self, loader):
        return [self.model(bag).argmax().item() for bag in loader]

    def eval_model(self, loader):
        self.model.eval()
        with torch.no_grad():
            return [self.model(batch) for batch in loader]
"""


def test_a_run_that_is_wrong_for_two_reasons_is_told_once(findings):
    assert lines(findings, {"relations.py": TWO_REASONS}) == [("relations.py", 11)]
