"""What the fixtures of the checkpoints family cannot show: severities, projects of several files, versions of torch."""

import textwrap

import pytest

LOAD = """
import torch

def resume(path):
    return torch.load(path, map_location="cpu")
"""

TRAINER = """
import torch
from saving import save_checkpoint

def main(model, batches):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for batch in batches:
        scaler.scale(model(batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    save_checkpoint({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
"""


def severities(found):
    return [(f.code, f.line, str(f.severity)) for f in found]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("torch>=2.6", []),
        ("torch==2.7.1", []),
        ("torch>=2.1", ["low"]),
        ("torch~=2.4.0", ["medium"]),
        ("torch~=2.4", ["low"]),
        ("torch<2.6", ["medium"]),
        ("torch<2.6.1", ["low"]),
        ("torch==2.3.0", ["medium"]),
        ("torch==1.*", ["medium"]),
        ("torchvision>=0.15", ["low"]),
        ("torch", ["low"]),
        ("", ["low"]),
    ],
)
def test_a_default_load_counts_as_the_required_torch_makes_it(requirement, expected, findings, tmp_path):
    (tmp_path / "requirements.txt").write_text(f"numpy\n{requirement}\n")
    assert [str(f.severity) for f in findings(LOAD, select=["CKP005"])] == expected


def test_the_requirement_is_found_above_the_file_and_in_pyproject(findings, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.6,<3", "numpy"]\n')
    assert findings({"src/pkg/train.py": LOAD}, select=["CKP005"]) == []


def test_the_widest_of_several_requirements_counts(findings, tmp_path):
    (tmp_path / "pyproject.toml").write_text('a = ["torch>=2.6"]\nb = ["torch==2.2.0; sys_platform == \'darwin\'"]\n')
    found = findings(LOAD, select=["CKP005"])
    assert severities(found) == [("CKP005", 5, "low")]
    assert "torch 2.2, which this project allows" in found[0].message


@pytest.mark.parametrize(
    ("written", "below"), [("^1.13", "2.0"), ("~2.3", "2.4"), ("~2.3.1", "2.4"), ("2.4.0", "2.5"), ("^2.1", None)]
)
def test_the_versions_of_poetry_are_read(written, below, findings, tmp_path):
    (tmp_path / "pyproject.toml").write_text(f'[tool.poetry.dependencies]\ntorch = "{written}"\n')
    found = findings(LOAD, select=["CKP005"])
    assert severities(found) == [("CKP005", 5, "low" if below is None else "medium")]
    assert below is None or found[0].message.endswith(f"holds torch below {below}")


@pytest.mark.parametrize(
    ("path", "extra", "default", "off"),
    [
        ("hf_hub_download(name, 'model.bin')", "", "medium", "high"),
        ("path", "download_file(address, path)", "medium", "high"),
        ("'https://example.org/model.pt'", "", "medium", "high"),
        ("path", "", "low", "medium"),
        ("args.resume", "", "low", "medium"),
        ("FOLDER / 'table.pt'", "", "low", "low"),
        ("path / 'table.pt'", "", "low", "low"),
        ("path / f'{name}.pt'", "", "low", "low"),
        ("path / name", "", "low", "medium"),
        ("cache_dir / name", "", "low", "low"),
    ],
)
def test_what_is_downloaded_counts_more_than_what_is_given(path, extra, default, off, findings, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch>=2.0\n")
    text = f"""
    import torch

    def read(path, name, address):
        {extra or "pass"}
        a = torch.load({path})
        return a, torch.load({path}, weights_only=False)
    """
    assert [str(f.severity) for f in findings(text, select=["CKP005"])] == [default, off]


def test_a_load_that_may_run_code_is_medium_from_outside_and_low_from_ones_own_file(findings):
    text = """
    import torch

    def outside(path):
        return torch.load(path, weights_only=False)

    def own(folder, table):
        torch.save(table, f"{folder}/table.pt")
        return torch.load(f"{folder}/table.pt", weights_only=False)
    """
    found = findings(text, select=["CKP005"])
    assert severities(found) == [("CKP005", 5, "medium"), ("CKP005", 9, "low")]


def test_a_parameter_that_only_picks_a_known_path_is_not_outside(findings):
    text = """
    import torch

    class Cache:
        def __init__(self):
            self.paths = {}

        def get(self, name):
            return torch.load(self.paths[name], weights_only=False)
    """
    assert severities(findings(text, select=["CKP005"])) == [("CKP005", 9, "low")]


def test_a_helper_in_another_file_is_seen_through(findings):
    saving = "import torch\n\ndef save_checkpoint(state, path):\n    torch.save(state, path)\n"
    found = findings({"train.py": TRAINER, "saving.py": saving}, select=["CKP001", "CKP007"])
    assert severities(found) == [("CKP001", 12, "medium"), ("CKP007", 12, "low")]
    assert "`scaler`" in found[0].message


def test_a_helper_in_another_file_that_renames_is_atomic(findings):
    saving = """
    import os
    import torch

    def save_checkpoint(state, path):
        torch.save(state, path + "~")
        os.replace(path + "~", path)
    """
    assert findings({"train.py": TRAINER, "saving.py": saving}, select=["CKP007"]) == []


def test_a_scaler_given_to_a_helper_is_taken_for_saved(findings):
    text = TRAINER.replace('"last.pt")', '"last.pt", scaler)')
    assert findings({"train.py": text, "saving.py": "def save_checkpoint(*parts): ..."}, select=["CKP001"]) == []


def test_a_model_of_plain_sgd_without_its_optimizer_is_low(findings):
    text = """
    import torch

    class Trainer:
        def __init__(self, model):
            self.model = model
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def train(self, batches, path):
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            for epoch in range(state["epoch"], 10):
                for batch in batches:
                    self.model(batch).backward()
                    self.optimizer.step()
                torch.save({"model": self.model.state_dict(), "epoch": epoch}, path)
    """
    assert severities(findings(text, select=["CKP003"])) == [("CKP003", 16, "low")]
    momentum = text.replace("lr=0.1", "lr=0.1, momentum=0.9")
    assert severities(findings(momentum, select=["CKP003"])) == [("CKP003", 16, "medium")]


def test_a_schedule_that_knows_its_step_by_itself_need_not_be_saved(findings):
    text = """
    import torch

    def train(model, optimizer, scheduler, batches, path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for epoch in range(state["epoch"], 10):
            scheduler.step(epoch)
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, path)
    """
    assert findings(text, select=["CKP003"]) == []


def test_good_practices_of_checkpoints_are_credited(practices):
    text = """
    import os
    import torch

    def save(model, optimizer, scaler, path):
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)

    def resume(model, optimizer, scaler, path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    """
    names = {p.name: p.line for p in practices(text)}
    assert names.items() >= {"atomic-checkpoint": 7, "scaler-in-checkpoint": 7, "safe-load": 11}.items()


def test_a_rename_of_another_file_is_no_atomic_checkpoint(practices):
    text = """
    import os
    import torch

    def save(state, path, log):
        torch.save(state, path)
        os.replace(log, log.parent / "old.txt")
    """
    assert [p for p in practices(text) if p.name == "atomic-checkpoint"] == []


SAVING = """
import torch

def save_checkpoint(path, model, optimizer, epoch{more}):
    state = {{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}}
    {fill}
    torch.save(state, path)

def load_checkpoint(path, model, optimizer):
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
"""

LOOP = """
import torch
from saving import load_checkpoint, save_checkpoint

def main(model, batches):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    load_checkpoint("last.pt", model, optimizer)
    for batch in batches:
        scaler.scale(model(batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    save_checkpoint("last.pt", model, optimizer, 1{more})
"""


def test_a_checkpoint_that_another_file_puts_together_lacks_the_scaler(findings):
    files = {"train.py": LOOP.format(more=""), "saving.py": SAVING.format(more="", fill="pass")}
    found = findings(files, select=["CKP001", "CKP002"])
    assert severities(found) == [("CKP002", 8, "low"), ("CKP001", 13, "medium"), ("CKP001", 7, "low")]
    assert "that save_checkpoint() writes" in found[1].message


def test_a_helper_that_is_given_the_scaler_keeps_it_and_the_load_forgets_it(findings):
    files = {
        "train.py": LOOP.format(more=", scaler"),
        "saving.py": SAVING.format(more=", scaler", fill='state["scaler"] = scaler.state_dict()'),
    }
    assert [f.code for f in findings(files, select=["CKP001"])] == []


def test_a_state_that_is_saved_and_not_loaded_is_medium(findings):
    text = """
    import torch

    class Trainer:
        def __init__(self, net):
            self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            self.scaler = torch.amp.GradScaler("cuda")

        def step(self, loss):
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

        def states(self):
            return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

        def resume(self, states):
            self.optimizer.load_state_dict(states["optimizer"])
    """
    found = findings(text, select=["CKP002"])
    assert severities(found) == [("CKP002", 18, "medium")]
    assert "its state is saved at line 15" in found[0].message


def test_a_class_of_the_project_around_a_scaler_is_one(findings):
    files = {
        "stepping.py": """
            import torch

            class LossScaler:
                def __init__(self):
                    self._scaler = torch.amp.GradScaler("cuda")

                def __call__(self, loss, optimizer):
                    self._scaler.scale(loss).backward()
                    self._scaler.step(optimizer)
                    self._scaler.update()
            """,
        "train.py": """
            import torch
            from stepping import LossScaler

            def main(model, batches):
                optimizer = torch.optim.Adam(model.parameters())
                take_step = LossScaler()
                for batch in batches:
                    take_step(model(batch), optimizer)
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
            """,
    }
    found = findings(files, select=["CKP001"])
    assert [(f.path, f.line, str(f.severity)) for f in found] == [("train.py", 10, "medium")]
    assert "`take_step`" in found[0].message


HELPER = """
import torch

def save_checkpoint(model, optimizer, path):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
"""

CALLER = """
import torch
from saving import save_checkpoint

def main(model, optimizer, batches):
    scaler = torch.amp.GradScaler("cuda")
    for batch in batches:
        scaler.scale(model(batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    save_checkpoint(model, optimizer, "last.pt")
"""

PARENT = """
import torch

class Base:
    def __init__(self, model):
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters())

    def save(self, path):
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
"""

HEIR = """
import torch
from base import Base

class Mixed(Base):
    def __init__(self, model):
        super().__init__(model)
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, loss):
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
"""


def test_the_function_that_saves_is_low_beside_its_call(findings):
    found = findings({"saving.py": HELPER, "train.py": CALLER}, select=["CKP001"])
    assert [(f.path, f.line, str(f.severity)) for f in found] == [("saving.py", 5, "low"), ("train.py", 11, "medium")]
    assert "of train.py" in found[0].message


def test_a_function_that_nobody_with_a_scaler_calls_is_fine(findings):
    plain = CALLER.replace("save_checkpoint(model, optimizer", "print(model, optimizer")
    assert findings({"saving.py": HELPER, "train.py": plain}, select=["CKP001"]) == []


def test_a_base_class_saves_for_the_scaler_of_its_heirs(findings):
    (found,) = findings({"base.py": PARENT, "mixed.py": HEIR}, select=["CKP001"])
    assert (found.path, found.line, str(found.severity)) == ("base.py", 9, "medium")


def test_an_heir_that_saves_by_itself_is_its_own_matter(findings):
    own = HEIR + '\n    def save(self, path):\n        torch.save(self.optimizer.state_dict(), path + "o")\n'
    assert [f.path for f in findings({"base.py": PARENT, "mixed.py": own}, select=["CKP001"])] == ["mixed.py"]


def test_the_scaler_of_a_trainer_that_is_not_handed_over(findings):
    main = """
    import torch
    from keeping import Checkpointer
    from mixed import Loop, Mixed

    class Main(Loop):
        def __init__(self, model, optimizer, half):
            self._loop = (Mixed if half else Loop)(model, optimizer)
            self.keeper = Checkpointer(model, optimizer=optimizer, main=self)
    """
    mixed = """
    import torch

    class Loop:
        def __init__(self, model, optimizer):
            self.model, self.optimizer = model, optimizer

        def state_dict(self):
            return {"step": 0}

    class Mixed(Loop):
        def __init__(self, model, optimizer):
            super().__init__(model, optimizer)
            self.scaler = torch.amp.GradScaler("cuda")

        def step(self, batch):
            self.scaler.scale(self.model(batch)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
    """
    (found,) = findings({"main.py": main, "mixed.py": mixed}, select=["CKP001"])
    assert (found.path, found.line, str(found.severity)) == ("main.py", 9, "low")
    kept = main + "\n        def state_dict(self):\n            return self._loop.state_dict()\n"
    assert findings({"main.py": kept, "mixed.py": mixed}, select=["CKP001"]) == []


def test_a_checkpoint_opened_under_a_name_of_its_own_is_info(findings):
    text = """
    import pickle

    def save_checkpoint(state, folder, step):
        with open(f"{folder}/step_{step}.bin", "wb") as file:
            pickle.dump(state, file)
    """
    (found,) = findings(text, select=["CKP007"])
    assert str(found.severity) == "info"


def test_a_function_that_writes_several_files_is_asked_about_each(findings):
    saving = """
    import torch

    def save_checkpoint(folder, weights, states):
        torch.save(weights, f"{folder}/weights.pt")
        torch.save(states, f"{folder}/states.pt")
    """
    caller = CALLER.replace(
        'save_checkpoint(model, optimizer, "last.pt")',
        'save_checkpoint("out", model.state_dict(), optimizer.state_dict())',
    )
    found = findings({"train.py": caller, "saving.py": saving}, select=["CKP001"])
    assert [(f.path, f.line, str(f.severity)) for f in found] == [("train.py", 11, "medium")]


LOADED = """
    import argparse
    import torch

    class Keeper:
        def keep(self, path):
            {save}

        def resume(self, path):
            {comment}
            return torch.load(path, weights_only=False)

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--file")
        Keeper().resume(parser.parse_args().file)
"""


@pytest.mark.parametrize(
    ("save", "comment", "severity"),
    [
        ("pass", "pass", "medium"),
        ("torch.save(self.state, path)", "pass", "low"),
        ("pass", "pass  # written by ourselves: trusted", "low"),
    ],
)
def test_a_load_of_ones_own_file_or_one_that_was_looked_at_weighs_less(findings, save, comment, severity):
    text = LOADED.format(save=save, comment=comment)
    assert [str(f.severity) for f in findings(text, select=["CKP005"])] == [severity]


def test_a_base_class_that_saves_makes_the_file_ones_own(findings):
    base = "import torch\nclass Base:\n  def keep(self, path):\n    torch.save(self.state, path)\n"
    own = LOADED.format(save="pass", comment="pass").replace("class Keeper:", "class Keeper(Base):")
    files = {"base.py": base, "own.py": "from base import Base\n" + textwrap.dedent(own)}
    assert [str(f.severity) for f in findings(files, select=["CKP005"])] == ["low"]


STEPPING = """
import torch

class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, batch):
        self.scaler.scale(self.model(batch)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
"""


def test_states_that_are_returned_weigh_less_than_those_that_are_written(findings):
    (returned,) = findings(STEPPING, select=["CKP001"])
    assert (returned.line, str(returned.severity)) == (15, "low")
    assert "state_dict() returns" in returned.message
    keep = "\n    def keep(self, path):\n        torch.save(self.state_dict(), path)\n"
    (written,) = findings(STEPPING + keep, select=["CKP001"])
    assert (written.line, str(written.severity)) == (18, "medium")


def test_an_exported_module_weighs_less_than_a_state(findings):
    text = """
    import torch

    def load_model(path):
        return torch.load(path), torch.jit.load(path)

    def load_checkpoint(path):
        return torch.load(path)
    """
    assert [(f.line, str(f.severity)) for f in findings(text, select=["CKP006"])] == [(5, "info"), (8, "low")]


@pytest.mark.parametrize(("test", "severity"), [("step % 100 == 0", "medium"), ("last_step", "low")])
def test_a_checkpoint_of_the_last_step_needs_its_scaler_less(findings, test, severity):
    text = f"""
        import torch

        def train(model, optimizer, loader, loss_fn):
            scaler = torch.amp.GradScaler("cuda")
            for step, (x, y) in enumerate(loader):
                scaler.scale(loss_fn(model(x), y)).backward()
                scaler.step(optimizer)
                scaler.update()
                last_step = step == 99
                if {test}:
                    torch.save({{"model": model.state_dict(), "optimizer": optimizer.state_dict()}}, "last.pt")
    """
    assert [str(f.severity) for f in findings(text, select=["CKP001"])] == [severity]


ENGINE = """
from tools import save_checkpoint

class Engine:
    def __init__(self, model, optimizer, scheduler=None):
        self.model, self.optimizer = model, optimizer
        self.scheduler = scheduler

    def save(self, epoch, folder):
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
        save_checkpoint(states, folder)
"""
TOOLS = """
import torch

def save_checkpoint(states, folder):
    torch.save(states, folder + "/last.pt")
"""
DERIVED = """
from engine import Engine

class ImageEngine(Engine):
    def train(self, batches):
        for batch in batches:
            self.model(batch).backward()
            self.optimizer.step()
        self.scheduler.step()
"""


@pytest.mark.parametrize(
    ("more", "expected"), [("", [("engine.py", 10)]), ("def take_up(scheduler, s): scheduler.load_state_dict(s)", [])]
)
def test_a_schedule_that_a_derived_class_steps_is_missed(findings, more, expected):
    files = {"engine.py": ENGINE, "tools.py": TOOLS, "image.py": DERIVED, "more.py": more}
    found = findings(files, select=["CKP003"])
    assert [(f.path.rpartition("/")[2], f.line) for f in found] == [(name, line + 1) for name, line in expected]


SAVER_OF_PROGRESS = """
import torch

def save_progress(model, epoch, path):
    torch.save({"model": model.state_dict(), "epoch": epoch}, path)

def load_progress(model, path):
    states = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(states["model"])
    return states["epoch"]
"""

SCRIPT = """
import torch
from saving import load_progress, save_progress

def main(model, batches):
    optimizer = torch.optim.AdamW(model.parameters())
    start = load_progress(model, "last.pt")
    for epoch in range(start, 10):
        for batch in batches:
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
        save_progress(model, epoch, "last.pt")
        EXTRA
"""


@pytest.mark.parametrize(
    ("extra", "expected"), [("", [("CKP003", 5, "low")]), ('torch.save(optimizer.state_dict(), "optimizer.pt")', [])]
)
def test_an_optimizer_that_the_script_steps_is_missed_in_what_its_saver_writes(extra, expected, findings):
    files = {"saving.py": SAVER_OF_PROGRESS, "train.py": SCRIPT.replace("EXTRA", extra)}
    assert severities(findings(files, select=["CKP003"])) == expected


READER = """
import torch

def read_file(path):
    return torch.load(path, weights_only=True)
"""


@pytest.mark.parametrize(
    ("use", "expected"),
    [('model.load_state_dict(read_file(path)["weights"])', [("CKP006", 5, "low")]), ("rows = read_file(path)", [])],
)
def test_what_a_reader_returns_is_a_state_where_another_file_loads_it_into_a_model(use, expected, findings):
    script = (
        f"from reading import read_file\n\ndef main(model, path):\n    {use}\n    return model.load_state_dict({{}})\n"
    )
    assert severities(findings({"reading.py": READER, "train.py": script}, select=["CKP006"])) == expected


@pytest.mark.parametrize(("base", "expected"), [("Engine", [("CKP003", 11, "low")]), ("Other", [])])
def test_a_schedule_that_only_an_heir_has_is_missed_in_what_its_base_saves(findings, base, expected):
    engine = ENGINE.replace("        self.scheduler = scheduler\n", "        self.epochs = 0\n")
    heir = DERIVED.replace("ImageEngine(Engine)", f"ImageEngine({base})")
    files = {"engine.py": engine, "tools.py": TOOLS, "image.py": heir}
    assert severities(findings(files, select=["CKP003"])) == expected


STEPPER = """
    import torch

    class Stepper:
        def __init__(self):
            self.inner = torch.amp.GradScaler("cuda")

        def __call__(self, loss, optimizer):
            self.inner.scale(loss).backward()
            self.inner.step(optimizer)
            self.inner.update()
    """
SAVES_ALL = """
    import torch

    def save(path, model, optimizer, scaler):
        pairs = [("model", model), ("optimizer", optimizer), ("scaler", scaler)]
        torch.save({name: thing.state_dict() for name, thing in pairs if thing}, path)
    """


def test_a_class_around_the_only_scaler_that_has_no_state_of_its_own_is_told(findings):
    found = findings({"stepper.py": STEPPER, "saving.py": SAVES_ALL}, select=["CKP001"])
    assert [(f.path, f.line, str(f.severity)) for f in found] == [("stepper.py", 6, "low")]


@pytest.mark.parametrize(
    "changed",
    [
        {"stepper.py": STEPPER.replace("class Stepper:", "class Stepper(Base):")},
        {"stepper.py": STEPPER + "    def state_dict(self):\n            return self.inner.state_dict()\n"},
        {"saving.py": SAVES_ALL.replace('("scaler", scaler)', '("scaler", scaler.inner)')},
        {"saving.py": SAVES_ALL + "def last(scaler):\n        return scaler.inner.state_dict()\n"},
        {"saving.py": SAVES_ALL.replace("optimizer)", "None)").replace("optimizer, scaler", "scaler")},
    ],
)
def test_a_class_around_a_scaler_whose_state_may_be_reached_is_not_told(findings, changed):
    assert findings({"stepper.py": STEPPER, "saving.py": SAVES_ALL} | changed, select=["CKP001"]) == []
